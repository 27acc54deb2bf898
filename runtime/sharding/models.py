"""How the models in nn.models are sharded; see sharding_plan.py."""

from ringlet.nn import Module
from ringlet.nn.models import BERT, GPT, T5, Llama
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.sharding.sharding_plan import ShardingPlan
from ringlet.runtime.sharding.styles import (
    ColumnParallel,
    ExpertParallel,
    HeadBiasParallel,
    HeadParallel,
    HiddenDropout,
    LossParallel,
    PositionParallel,
    RowParallel,
    SequenceParallel,
    VocabularyParallel,
)

GPT_SHARDING = ShardingPlan(
    embed=("transformer.wte", "transformer.wpe", "transformer.drop"),
    blocks=("transformer.h",),
    head=("transformer.ln_f", "lm_head", "loss"),
    styles={
        "transformer.wte": VocabularyParallel(),
        "transformer.wpe": PositionParallel(),
        "transformer.drop": SequenceParallel(),
        "transformer.h.*.ln_?": SequenceParallel(),
        "transformer.h.*.attn.c_attn": ColumnParallel(parts=3),
        "transformer.h.*.attn.attend": HeadParallel(),
        "transformer.h.*.attn.c_proj": RowParallel(),
        "transformer.h.*.attn.resid_dropout": SequenceParallel(),
        "transformer.h.*.mlp.c_fc": ColumnParallel(),
        "transformer.h.*.mlp.c_proj": RowParallel(),
        "transformer.h.*.mlp.dropout": SequenceParallel(),
        "transformer.h.*.mlp.router": SequenceParallel(),
        "transformer.h.*.mlp.experts": ExpertParallel(),
        "transformer.ln_f": SequenceParallel(),
        "lm_head": ColumnParallel(),
        "loss": LossParallel("lm_head"),
    },
)

LLAMA_SHARDING = ShardingPlan(
    embed=("model.embed_tokens",),
    blocks=("model.layers",),
    head=("model.norm", "lm_head", "loss"),
    styles={
        "model.embed_tokens": VocabularyParallel(),
        "model.layers.*layernorm": SequenceParallel(),
        "model.layers.*.self_attn.[qkv]_proj": ColumnParallel(),
        "model.layers.*.self_attn.attend": HeadParallel(),
        "model.layers.*.self_attn.o_proj": RowParallel(),
        "model.layers.*.mlp.gate_proj": ColumnParallel(),
        "model.layers.*.mlp.up_proj": ColumnParallel(),
        "model.layers.*.mlp.down_proj": RowParallel(),
        "model.norm": SequenceParallel(),
        "lm_head": ColumnParallel(),
        "loss": LossParallel("lm_head"),
    },
)

BERT_SHARDING = ShardingPlan(
    embed=("bert.embeddings",),
    blocks=("bert.encoder.layer",),
    head=("cls", "loss"),
    styles={
        "bert.embeddings.word_embeddings": VocabularyParallel(),
        "bert.embeddings.position_embeddings": PositionParallel(),
        "bert.embeddings.token_type_embeddings": PositionParallel(),
        "bert.*.LayerNorm": SequenceParallel(),
        "bert.*.dropout": SequenceParallel(),
        "bert.encoder.layer.*.self.query": ColumnParallel(),
        "bert.encoder.layer.*.self.key": ColumnParallel(),
        "bert.encoder.layer.*.self.value": ColumnParallel(),
        "bert.encoder.layer.*.self.attend": HeadParallel(),
        "bert.encoder.layer.*.output.dense": RowParallel(),
        "bert.encoder.layer.*.intermediate.dense": ColumnParallel(),
        "cls.predictions.transform.dense": SequenceParallel(),
        "cls.predictions.transform.LayerNorm": SequenceParallel(),
        "cls.predictions.decoder": ColumnParallel(),
        "loss": LossParallel("cls.predictions.decoder"),
    },
)

T5_SHARDING = ShardingPlan(
    embed=("shared", "encoder.dropout", "decoder.dropout"),
    blocks=("encoder.block", "decoder.block"),
    head=("decoder.final_layer_norm", "decoder.final_dropout", "lm_head", "loss"),
    all_stages=("encoder.position_bias", "decoder.position_bias"),
    styles={
        "shared": VocabularyParallel(),
        "*.position_bias.relative_attention_bias": HeadBiasParallel(),
        "*.layer_norm": SequenceParallel(),
        "*.final_layer_norm": SequenceParallel(),
        "*coder.block.*Attention.[qkv]": ColumnParallel(),
        "*coder.block.*Attention.attend": HeadParallel(),
        "*coder.block.*Attention.o": RowParallel(),
        "*coder.block.*.DenseReluDense.wi*": ColumnParallel(),
        "*coder.block.*.DenseReluDense.dropout": HiddenDropout(),
        "*coder.block.*.DenseReluDense.wo": RowParallel(),
        "*coder.block.*[0-9].dropout": SequenceParallel(),
        "encoder.dropout": SequenceParallel(),
        "decoder.dropout": SequenceParallel(),
        "decoder.final_dropout": SequenceParallel(),
        "lm_head": ColumnParallel(),
        "loss": LossParallel("lm_head"),
    },
)

SHARDING_PLANS: dict[type[Module], ShardingPlan] = {
    GPT: GPT_SHARDING,
    Llama: LLAMA_SHARDING,
    BERT: BERT_SHARDING,
    T5: T5_SHARDING,
}


def sharding_plan_of(model: Module) -> ShardingPlan:
    """The sharding plan of the model's class; raises MeshError if there is none."""
    if type(model) not in SHARDING_PLANS:
        known = ", ".join(sorted(kind.__name__ for kind in SHARDING_PLANS))
        raise MeshError(
            f"there is no sharding plan for {type(model).__name__}; there are plans for {known}"
        )
    return SHARDING_PLANS[type(model)]
