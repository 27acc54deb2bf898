"""The model that a config names."""

from ringlet.nn.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from ringlet.runtime.training.config import TrainConfig

INTERMEDIATE_MULTIPLE = 32
"""A Llama's hidden layer is 8/3 of the width, up to a multiple of this, which can be cut."""


def make_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """A new model; within `nn.uninitialized()` its parameters have no values yet."""
    if config.model == "llama":
        return Llama(llama_config(config, vocab_size))
    return GPT(gpt_config(config, vocab_size))


def gpt_config(config: TrainConfig, vocab_size: int) -> GPTConfig:
    """The sizes of a GPT."""
    return GPTConfig(
        vocab_size=vocab_size,
        block_size=config.block_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        dropout=config.dropout,
        bias=config.bias,
        n_expert=config.experts,
        top_k=config.top_k,
        capacity_factor=config.capacity_factor,
        balance=config.balance,
    )


def llama_config(config: TrainConfig, vocab_size: int) -> LlamaConfig:
    """The sizes of a Llama: no biases, a head of its own."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.n_embd,
        intermediate_size=-(-8 * config.n_embd // (3 * INTERMEDIATE_MULTIPLE))
        * INTERMEDIATE_MULTIPLE,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head,
        max_position_embeddings=config.block_size,
    )
