"""Wrong answers, made of right ones."""


def edited(source: str, *texts: str, count: int = -1) -> str:
    """The source with new texts in place of old ones, which have to be there: old, new, old, ...
    `count`: how many of each at most, from the front; -1 is all."""
    for old, new in zip(texts[::2], texts[1::2], strict=True):
        assert old in source
        source = source.replace(old, new, count)
    return source
