"""Models as a cost model sees them: their blocks' sizes, whatever the family.

Names as in the papers (gpt3-175b, llama-7b, ...), or ringlet's own presets and configs.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ringlet.nn.models import BERTConfig, GPTConfig, LlamaConfig, T5Config


@dataclass(frozen=True)
class Block:
    """Attention and MLP. Equal blocks cost the same, so they are priced once."""

    width: int
    heads: int
    kv_heads: int
    head: int
    """The width of a head."""

    inner: int
    """The width of the MLP's hidden layer."""

    gated: bool = False
    """SwiGLU: three matrices in place of two."""

    bias: bool = True
    """Whether linear layers have biases; `qkv_bias` is about those of queries, keys and values,
    `mlp_bias` about the MLP's if they differ."""

    qkv_bias: bool = False
    mlp_bias: bool | None = None
    head_norm: bool = False
    """Whether each head's queries and keys are normalized."""

    window: int = 0
    """How many keys a query attends to; 0 for all."""

    norm: int = 2
    """Numbers of a normalization's parameters for each of the width: 2, or 1 of RMSNorm."""

    causal: bool = True
    cross: bool = False
    """Whether it also attends to an encoder's output."""

    experts: int = 0
    top_k: int = 1
    dropout: bool = False
    """Of what attention and MLP add to the residual."""

    score_dropout: bool = False
    """Of attention's probabilities, where a program tiles it; others drop them with the rest."""

    kept: int = 0
    """Numbers that the MLP keeps for each of its hidden layer; 0: 2, or 3 of SwiGLU."""

    @property
    def attentions(self) -> int:
        """Attentions in the block."""
        return 2 if self.cross else 1

    @property
    def norms(self) -> int:
        """Normalizations in the block."""
        return self.attentions + 1

    @property
    def attention_parameters(self) -> tuple[int, int]:
        """Numbers in its attentions: those that tensor parallelism shards, and the biases of the
        last matrices and the heads' norms, which it does not."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        biases = (self.bias or self.qkv_bias) * (queries + 2 * keys)
        weights = self.width * (2 * queries + 2 * keys) + biases
        whole = self.bias * self.width + self.head_norm * 2 * self.head
        return self.attentions * weights, self.attentions * whole

    @property
    def mlp_parameters(self) -> tuple[int, int]:
        """The same of one MLP, or of one expert."""
        up = 2 if self.gated else 1
        bias = self.bias if self.mlp_bias is None else self.mlp_bias
        return (up + 1) * self.width * self.inner + bias * up * self.inner, bias * self.width


@dataclass(frozen=True)
class Model:
    """A stack of blocks between an embedding and a head."""

    name: str
    blocks: tuple[Block, ...]
    vocabulary: int
    context: int
    """Tokens of a sample."""

    positions: bool = True
    """Whether positions have learned embeddings."""

    tied: bool = True
    """Whether the head is the embedding."""

    encoder: int = 0
    """Of an encoder and a decoder, how many blocks are the encoder's."""

    @cached_property
    def kinds(self) -> tuple[tuple[Block, ...], tuple[int, ...]]:
        """The different blocks, and which of them each block is."""
        different = dict.fromkeys(self.blocks)
        number = {block: place for place, block in enumerate(different)}
        return tuple(different), tuple(number[block] for block in self.blocks)

    @property
    def width(self) -> int:
        """The width of the embedding."""
        return self.blocks[0].width

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        blocks = sum(dense_parameters(b) + expert_parameters(b) for b in self.blocks)
        return round(blocks + embed_parameters(self) + head_parameters(self))


def dense_parameters(block: Block, tensor: int = 1) -> float:
    """Numbers in a block without its experts, if it has any."""
    sharded, whole = block.attention_parameters
    found = sharded / tensor + whole + block.norms * block.norm * block.width
    if block.experts:
        return found + block.width * block.experts
    sharded, whole = block.mlp_parameters
    return found + sharded / tensor + whole


def expert_parameters(block: Block, tensor: int = 1) -> float:
    """Numbers in all experts of a block."""
    sharded, whole = block.mlp_parameters
    return block.experts * (sharded / tensor + whole)


def embed_parameters(model: Model, tensor: int = 1) -> float:
    """Numbers in the embeddings of ids, which are sharded, and of positions."""
    positions = model.context * model.width if model.positions else 0
    return -(-model.vocabulary // tensor) * model.width + positions


def head_parameters(model: Model, tensor: int = 1, shared: bool = True) -> float:
    """Numbers in the last norm, and in the head's matrix unless it is the embedding's, here."""
    own = 0 if model.tied and shared else -(-model.vocabulary // tensor) * model.width
    return model.blocks[-1].norm * model.width + own


def gpt(
    name: str,
    layers: int,
    width: int,
    heads: int,
    *,
    vocabulary: int = 51200,
    context: int = 2048,
    dropout: bool = True,
    bias: bool = True,
    experts: int = 0,
    top_k: int = 2,
) -> Model:
    """A GPT: learned positions, an MLP four times as wide, tied head."""
    block = Block(
        width, heads, heads, width // heads, 4 * width,
        bias=bias, experts=experts, top_k=top_k if experts else 1, dropout=dropout,
    )  # fmt: skip
    return Model(name, (block,) * layers, vocabulary, context)


def llama(
    name: str,
    layers: int,
    width: int,
    heads: int,
    inner: int,
    *,
    kv_heads: int = 0,
    vocabulary: int = 32000,
    context: int = 2048,
    experts: int = 0,
    top_k: int = 1,
) -> Model:
    """A Llama: rotary positions, RMSNorm, SwiGLU, no biases; Mixtral's with experts."""
    block = Block(
        width, heads, kv_heads or heads, width // heads, inner,
        gated=True, bias=False, norm=1, experts=experts, top_k=top_k,
    )  # fmt: skip
    return Model(name, (block,) * layers, vocabulary, context, positions=False, tied=False)


def bert(name: str, layers: int, width: int, heads: int) -> Model:
    """A BERT: attention both ways."""
    block = Block(
        width, heads, heads, width // heads, 4 * width, causal=False, dropout=True,
        score_dropout=True,
    )  # fmt: skip
    return Model(name, (block,) * layers, 30522, 512)


def t5(name: str, layers: int, width: int, heads: int, inner: int, head: int = 64) -> Model:
    """A T5: as many blocks that decode as encode; both read contexts of 512 tokens."""
    block = Block(
        width, heads, heads, head, inner, bias=False, norm=1, causal=False, dropout=True,
        score_dropout=True, kept=3,
    )  # fmt: skip
    decoder = replace(block, causal=True, cross=True)
    blocks = (block,) * layers + (decoder,) * layers
    return Model(name, blocks, 32128, 512, positions=False, encoder=layers)


# Brown et al. 2020, table 2.1 (GPT-3); Radford et al. 2019 (GPT-2); Narayanan et al. 2021, table 1
# (gpt-1.7b to gpt-1t); Touvron et al. 2023 and the Llama team 2024; Jiang et al. 2024 (Mixtral);
# Devlin et al. 2019; Raffel et al. 2020.
MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        gpt("gpt2", 12, 768, 12, vocabulary=50257, context=1024),
        gpt("gpt2-xl", 48, 1600, 25, vocabulary=50257, context=1024),
        gpt("gpt3-175b", 96, 12288, 96),
        gpt("gpt-1.7b", 24, 2304, 24),
        gpt("gpt-3.6b", 30, 3072, 32),
        gpt("gpt-7.5b", 36, 4096, 32),
        gpt("gpt-18b", 40, 6144, 48),
        gpt("gpt-22b", 48, 6144, 64),
        gpt("gpt-39b", 48, 8192, 64),
        gpt("gpt-76b", 60, 10240, 80),
        gpt("gpt-145b", 80, 12288, 96),
        gpt("gpt-310b", 96, 16384, 128),
        gpt("gpt-530b", 105, 20480, 128),
        gpt("gpt-1t", 128, 25600, 160),
        llama("llama-7b", 32, 4096, 32, 11008),
        llama("llama-13b", 40, 5120, 40, 13824),
        llama("llama-65b", 80, 8192, 64, 22016),
        llama("llama3-8b", 32, 4096, 32, 14336, kv_heads=8, vocabulary=128256, context=8192),
        llama("llama3-70b", 80, 8192, 64, 28672, kv_heads=8, vocabulary=128256, context=8192),
        llama("llama3-405b", 126, 16384, 128, 53248, kv_heads=8, vocabulary=128256, context=8192),
        llama("mixtral-8x7b", 32, 4096, 32, 14336, kv_heads=8, context=8192, experts=8, top_k=2),
        bert("bert-base", 12, 768, 12),
        bert("bert-large", 24, 1024, 16),
        t5("t5-base", 12, 768, 12, 3072),
        t5("t5-11b", 24, 1024, 128, 65536, 128),
    )
}
"""The models that have names."""


def model_of(config: Any, name: str = "") -> Model:
    """The description of a GPTConfig, LlamaConfig, BERTConfig or T5Config."""
    name = name or type(config).__name__.removesuffix("Config").lower()
    if isinstance(config, GPTConfig):
        return gpt(
            name, config.n_layer, config.n_embd, config.n_head,
            vocabulary=config.vocab_size, context=config.block_size, dropout=config.dropout > 0,
            bias=config.bias, experts=config.n_expert, top_k=config.top_k,
        )  # fmt: skip
    if isinstance(config, LlamaConfig):
        block = Block(
            config.hidden_size, config.num_attention_heads, config.groups, config.width,
            config.intermediate_size, gated=True, bias=config.attention_bias,
            qkv_bias=config.qkv_bias, mlp_bias=config.mlp_bias,
            head_norm=config.qk_norm, norm=1,
        )  # fmt: skip
        return Model(
            name, tuple(replace(block, window=w) for w in config.windows), config.vocab_size,
            config.max_position_embeddings, positions=False, tied=config.tie_word_embeddings,
        )  # fmt: skip
    if isinstance(config, BERTConfig):
        made = bert(name, config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
        one = replace(
            made.blocks[0], inner=config.intermediate_size, dropout=config.hidden_dropout_prob > 0,
            score_dropout=config.attention_probs_dropout_prob > 0,
        )  # fmt: skip
        blocks = (one,) * config.num_hidden_layers
        return replace(
            made, blocks=blocks, vocabulary=config.vocab_size,
            context=config.max_position_embeddings,
        )  # fmt: skip
    if isinstance(config, T5Config):
        made = t5(
            name, config.num_layers, config.d_model, config.num_heads, config.d_ff, config.d_kv
        )
        gated, drops = config.gated, config.dropout_rate > 0
        # A ReLU keeps its result; a gate, a slope and both factors' product. Dropout keeps its mask
        # and, beside the ReLU's, its own result.
        kept = (4 + drops) if gated else (1 + 2 * drops)
        encoder, decoder = (
            replace(made.blocks[n], gated=gated, dropout=drops, score_dropout=drops, kept=kept)
            for n in (0, -1)
        )
        return replace(
            made, blocks=(encoder,) * config.num_layers + (decoder,) * config.decoders,
            vocabulary=config.vocab_size, tied=config.tie_word_embeddings,
        )  # fmt: skip
    raise TypeError(f"there is no description of a {type(config).__name__}")
