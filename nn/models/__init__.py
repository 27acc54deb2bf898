"""Models, one file each: ordinary single-process code."""

from ringlet.nn.models.generation import generate, stream
from ringlet.nn.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "generate", "stream"]
