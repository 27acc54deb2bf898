"""What can be wrong with text."""


class TextError(ValueError):
    """Text cannot be made into tokens, or a folder of tokens not be read; the message says why."""
