"""The plans of the models in nn.models: see runtime/sharding/plan.py."""

from ringlet.nn import Module
from ringlet.nn.models import BERT, GPT, T5, Llama
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.sharding.plan import (
    Column,
    Everywhere,
    Heads,
    HeadTable,
    Inside,
    Plan,
    Positions,
    Row,
    Spread,
    Vocabulary,
    VocabularyCut,
)

GPT_PLAN = Plan(
    embed=("transformer.wte", "transformer.wpe", "transformer.drop"),
    blocks=("transformer.h",),
    head=("transformer.ln_f", "lm_head", "loss"),
    styles={
        "transformer.wte": Vocabulary(),
        "transformer.wpe": Positions(),
        "transformer.drop": Everywhere(),
        "transformer.h.*.ln_?": Everywhere(),
        "transformer.h.*.attn.c_attn": Column(parts=3),
        "transformer.h.*.attn.attend": Heads(),
        "transformer.h.*.attn.c_proj": Row(),
        "transformer.h.*.attn.resid_dropout": Everywhere(),
        "transformer.h.*.mlp.c_fc": Column(),
        "transformer.h.*.mlp.c_proj": Row(),
        "transformer.h.*.mlp.dropout": Everywhere(),
        "transformer.h.*.mlp.router": Everywhere(),
        "transformer.h.*.mlp.experts": Spread(),
        "transformer.ln_f": Everywhere(),
        "lm_head": Column(),
        "loss": VocabularyCut("lm_head"),
    },
)

LLAMA_PLAN = Plan(
    embed=("model.embed_tokens",),
    blocks=("model.layers",),
    head=("model.norm", "lm_head", "loss"),
    styles={
        "model.embed_tokens": Vocabulary(),
        "model.layers.*layernorm": Everywhere(),
        "model.layers.*.self_attn.[qkv]_proj": Column(),
        "model.layers.*.self_attn.attend": Heads(),
        "model.layers.*.self_attn.o_proj": Row(),
        "model.layers.*.mlp.gate_proj": Column(),
        "model.layers.*.mlp.up_proj": Column(),
        "model.layers.*.mlp.down_proj": Row(),
        "model.norm": Everywhere(),
        "lm_head": Column(),
        "loss": VocabularyCut("lm_head"),
    },
)

BERT_PLAN = Plan(
    embed=("bert.embeddings",),
    blocks=("bert.encoder.layer",),
    head=("cls", "loss"),
    styles={
        "bert.embeddings.word_embeddings": Vocabulary(),
        "bert.embeddings.position_embeddings": Positions(),
        "bert.embeddings.token_type_embeddings": Positions(),
        "bert.*.LayerNorm": Everywhere(),
        "bert.*.dropout": Everywhere(),
        "bert.encoder.layer.*.self.query": Column(),
        "bert.encoder.layer.*.self.key": Column(),
        "bert.encoder.layer.*.self.value": Column(),
        "bert.encoder.layer.*.self.attend": Heads(),
        "bert.encoder.layer.*.output.dense": Row(),
        "bert.encoder.layer.*.intermediate.dense": Column(),
        "cls.predictions.transform.dense": Everywhere(),
        "cls.predictions.transform.LayerNorm": Everywhere(),
        "cls.predictions.decoder": Column(),
        "loss": VocabularyCut("cls.predictions.decoder"),
    },
)

T5_PLAN = Plan(
    embed=("shared", "encoder.dropout", "decoder.dropout"),
    blocks=("encoder.block", "decoder.block"),
    head=("decoder.final_layer_norm", "decoder.final_dropout", "lm_head", "loss"),
    everywhere=("encoder.position_bias", "decoder.position_bias"),
    styles={
        "shared": Vocabulary(),
        "*.position_bias.relative_attention_bias": HeadTable(),
        "*.layer_norm": Everywhere(),
        "*.final_layer_norm": Everywhere(),
        "*coder.block.*Attention.[qkv]": Column(),
        "*coder.block.*Attention.attend": Heads(),
        "*coder.block.*Attention.o": Row(),
        "*coder.block.*.DenseReluDense.wi*": Column(),
        "*coder.block.*.DenseReluDense.dropout": Inside(),
        "*coder.block.*.DenseReluDense.wo": Row(),
        "*coder.block.*[0-9].dropout": Everywhere(),
        "encoder.dropout": Everywhere(),
        "decoder.dropout": Everywhere(),
        "decoder.final_dropout": Everywhere(),
        "lm_head": Column(),
        "loss": VocabularyCut("lm_head"),
    },
)

PLANS: dict[type[Module], Plan] = {
    GPT: GPT_PLAN,
    Llama: LLAMA_PLAN,
    BERT: BERT_PLAN,
    T5: T5_PLAN,
}


def plan_of(model: Module) -> Plan:
    """The plan of the model's class; raises MeshError if there is none."""
    if type(model) not in PLANS:
        known = ", ".join(sorted(kind.__name__ for kind in PLANS))
        raise MeshError(
            f"there is no plan for cutting a {type(model).__name__}; there are plans for {known}"
        )
    return PLANS[type(model)]
