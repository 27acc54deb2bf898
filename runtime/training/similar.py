"""Which names may be meant by one that is not known."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

MOST = 3


def similar(name: str, known: Mapping[str, str]) -> list[str]:
    """Up to three of the known names, the likeliest first; `known` has each one's help.

    A name is meant by its words, their beginnings (batch: batch_size) or longer forms (layers:
    n_layer), by initials (lr: learning_rate), by a misspelling, or by a word of its help.
    """
    parts = {each: _words(each) for each in known}
    several = [words for words in reversed(parts.values()) if words[1:]]  # the first one wins
    short = {"".join(word[0] for word in words): words for words in several}
    words = [word for given in _words(name) for word in short.get(given, [given])]

    def found(each: str) -> int:
        return sum(any(_alike(word, part) for part in parts[each]) for word in words)

    most = max(map(found, known), default=0)
    if 2 * most >= len(words) > 0:
        best = [each for each in known if found(each) == most]
        return sorted(best, key=lambda each: len(parts[each]))[:MOST]
    plain = {"".join(parts[each]): each for each in known}
    if close := get_close_matches("".join(words), plain, MOST, 0.7):
        return [plain[each] for each in close]
    return [each for each in known if set(words) & set(_words(known[each]))][:MOST]


def _alike(word: str, part: str) -> bool:
    """Whether the one begins with the other, apart from what is too short to tell."""
    return (len(word) > 1 and part.startswith(word)) or (len(part) > 3 and word.startswith(part))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
