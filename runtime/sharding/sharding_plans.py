"""Sharding plans: how the models in nn.models are cut, as data.

A sharding plan names the parts of a model that consists of `embed`, `blocks`, `head` and `loss`
(see nn.models.language_model), and gives a style to each module that changes when tensors,
sequences, contexts or experts are sharded. A new model needs a new plan and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ringlet.nn import Module
from ringlet.nn.models import BERT, GPT, T5, Llama
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.sharding.styles import (
    ColumnParallel,
    ExpertParallel,
    HeadBiasParallel,
    HeadNormParallel,
    HeadParallel,
    HiddenDropout,
    LossParallel,
    PositionParallel,
    RowParallel,
    SequenceParallel,
    Sharder,
    Style,
    VocabularyParallel,
    WholeText,
)


@dataclass(frozen=True)
class ShardingPlan:
    """The paths of a model's parts, and for each style the modules, by patterns of paths.

    `blocks` are the paths of lists of blocks, in order; `all_stages` is what every stage has.
    """

    embed: tuple[str, ...]
    blocks: tuple[str, ...]
    head: tuple[str, ...]
    styles: Mapping[Style, tuple[str, ...]]
    all_stages: tuple[str, ...] = ()

    def block_paths(self, model: Module) -> list[str]:
        """Where the blocks are, in order."""
        return [
            f"{path}.{name}"
            for path in self.blocks
            for name, _ in model.submodule(path).named_children()
        ]

    def apply(self, sharder: Sharder) -> None:
        """Replace the modules of a model that have a style."""
        found = [
            (path, module, style)
            for path, module in sharder.root.named_modules()
            for style, patterns in self.styles.items()
            if any(fnmatchcase(path, pattern) for pattern in patterns)
        ]
        for path, module, style in found:
            parent, _, name = path.rpartition(".")
            setattr(sharder.root.submodule(parent), name, style.apply(module, sharder))


GPT_SHARDING = ShardingPlan(
    embed=("transformer.wte", "transformer.wpe", "transformer.drop"),
    blocks=("transformer.h",),
    head=("transformer.ln_f", "lm_head", "loss"),
    styles={
        VocabularyParallel(): ("transformer.wte",),
        PositionParallel(): ("transformer.wpe",),
        SequenceParallel(): (
            "transformer.drop", "transformer.h.*.ln_?", "transformer.h.*.attn.resid_dropout",
            "transformer.h.*.mlp.dropout", "transformer.h.*.mlp.router", "transformer.ln_f",
        ),
        ColumnParallel(parts=3): ("transformer.h.*.attn.c_attn",),
        HeadParallel(): ("transformer.h.*.attn.attend",),
        RowParallel(): ("transformer.h.*.attn.c_proj", "transformer.h.*.mlp.c_proj"),
        ColumnParallel(): ("transformer.h.*.mlp.c_fc", "lm_head"),
        ExpertParallel(): ("transformer.h.*.mlp.experts",),
        LossParallel("lm_head"): ("loss",),
    },
)  # fmt: skip

LLAMA_SHARDING = ShardingPlan(
    embed=("model.embed_tokens",),
    blocks=("model.layers",),
    head=("model.norm", "lm_head", "loss"),
    styles={
        VocabularyParallel(): ("model.embed_tokens",),
        SequenceParallel(): ("model.layers.*layernorm", "model.norm"),
        WholeText(): ("model.rotary_emb",),
        HeadParallel(): ("model.layers.*.self_attn.attend",),
        HeadNormParallel(): ("model.layers.*.self_attn.[qk]_norm",),
        ColumnParallel(): (
            "model.layers.*.self_attn.[qkv]_proj", "model.layers.*.mlp.gate_proj",
            "model.layers.*.mlp.up_proj", "lm_head",
        ),
        RowParallel(): ("model.layers.*.self_attn.o_proj", "model.layers.*.mlp.down_proj"),
        LossParallel("lm_head"): ("loss",),
    },
)  # fmt: skip

BERT_SHARDING = ShardingPlan(
    embed=("bert.embeddings",),
    blocks=("bert.encoder.layer",),
    head=("cls", "loss"),
    styles={
        VocabularyParallel(): ("bert.embeddings.word_embeddings",),
        PositionParallel(): (
            "bert.embeddings.position_embeddings", "bert.embeddings.token_type_embeddings",
        ),
        SequenceParallel(): (
            "bert.*.LayerNorm", "bert.*.dropout", "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
        ),
        ColumnParallel(): (
            "bert.encoder.layer.*.self.query", "bert.encoder.layer.*.self.key",
            "bert.encoder.layer.*.self.value", "bert.encoder.layer.*.intermediate.dense",
            "cls.predictions.decoder",
        ),
        HeadParallel(): ("bert.encoder.layer.*.self.attend",),
        RowParallel(): ("bert.encoder.layer.*.output.dense",),
        LossParallel("cls.predictions.decoder"): ("loss",),
    },
)  # fmt: skip

T5_SHARDING = ShardingPlan(
    embed=("shared", "encoder.dropout", "decoder.dropout"),
    blocks=("encoder.block", "decoder.block"),
    head=("decoder.final_layer_norm", "decoder.final_dropout", "lm_head", "loss"),
    all_stages=("encoder.position_bias", "decoder.position_bias"),
    styles={
        VocabularyParallel(): ("shared",),
        HeadBiasParallel(): ("*.position_bias.relative_attention_bias",),
        SequenceParallel(): (
            "*.layer_norm", "*.final_layer_norm", "*coder.block.*[0-9].dropout",
            "encoder.dropout", "decoder.dropout", "decoder.final_dropout",
        ),
        ColumnParallel(): (
            "*coder.block.*Attention.[qkv]", "*coder.block.*.DenseReluDense.wi*", "lm_head",
        ),
        HeadParallel(): ("*coder.block.*Attention.attend",),
        RowParallel(): ("*coder.block.*Attention.o", "*coder.block.*.DenseReluDense.wo"),
        HiddenDropout(): ("*coder.block.*.DenseReluDense.dropout",),
        LossParallel("lm_head"): ("loss",),
    },
)  # fmt: skip

SHARDING_PLANS: dict[type[Module], ShardingPlan] = {
    GPT: GPT_SHARDING, Llama: LLAMA_SHARDING, BERT: BERT_SHARDING, T5: T5_SHARDING,
}  # fmt: skip


def sharding_plan_of(model: Module) -> ShardingPlan:
    """The sharding plan of the model's class; raises MeshError if there is none."""
    if type(model) not in SHARDING_PLANS:
        known = ", ".join(sorted(kind.__name__ for kind in SHARDING_PLANS))
        raise MeshError(
            f"there is no sharding plan for {type(model).__name__}; there are plans for {known}"
        )
    return SHARDING_PLANS[type(model)]
