"""The tokenizer of a run: a copy in its folder, for which its checkpoints vouch."""

import contextlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ringlet.nn.files import parse_object, read_text, replacing, short
from ringlet.nn.models import LanguageModel
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError, digest
from ringlet.runtime.text.encoder import ENDS
from ringlet.runtime.training.tokenizers import (
    TOKENIZER,
    ByteTokenizer,
    JSONTokenizer,
    NumberTokenizer,
    Tokenizer,
    TokenizerError,
    byte_tokenizer,
    token_ids,
)

CONFIG = "tokenizer_config.json"
BESIDE = (CONFIG, "special_tokens_map.json", "chat_template.jinja")
"""What belongs to a tokenizer.json, if it is there."""


@dataclass(frozen=True)
class RunTokenizer:
    """The tokenizer.json that made the ids of a text, and the id that ends its documents."""

    file: Path
    end_of_text: int | None = None

    @cached_property
    def vocab_size(self) -> int:
        """How many ids a model needs for it."""
        return max(token_ids(self.file).values(), default=-1) + 1

    @classmethod
    def at(cls, file: Path) -> "RunTokenizer":
        """A tokenizer.json, whose end of a text is what is beside it, or its name, says; raises
        TokenizerError."""
        known = token_ids(file)
        named = None
        with contextlib.suppress(OSError, ValueError):
            named = parse_object(read_text(file.parent / CONFIG)).get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        ends = (name for name in (named, *ENDS) if isinstance(name, str) and name in known)
        return cls(file, known.get(next(ends, "")))

    def check_agrees(self, other: "RunTokenizer", whose: str) -> None:
        """Raise TokenizerError if ids of this one mean something else to another one."""
        if self.facts["sha256"] == other.facts["sha256"]:
            return
        theirs = {number: token for token, number in token_ids(other.file).items()}
        for token, number in token_ids(self.file).items():
            if theirs.get(number, token) != token:
                raise TokenizerError(
                    f"the data was made with another tokenizer than {whose}: id {number} is "
                    f"{short(token)} in {self.file}, and {short(theirs[number])} in {other.file}"
                )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        return {**digest(self.file), "end_of_text": self.end_of_text}

    def copy_to(self, folder: Path) -> list[str]:
        """Put it into a folder, with what is beside it; return the files' names. Raises OSError."""
        names = [TOKENIZER, *(name for name in BESIDE if (self.file.parent / name).is_file())]
        for name in names:
            source = self.file if name == TOKENIZER else self.file.parent / name
            if not ((folder / name).exists() and source.samefile(folder / name)):
                with replacing(folder / name) as part:
                    shutil.copyfile(source, part)
        return names


def is_fact(value: Any) -> bool:
    """Whether this can be what a checkpoint says of a tokenizer, which may be none."""
    if value is None:
        return True
    kinds = {"bytes": (int,), "sha256": (str,), "end_of_text": (int, type(None))}
    return type(value) is dict and all(type(value.get(name)) in kinds[name] for name in kinds)


def stored_tokenizer(checkpoint: Checkpoint) -> RunTokenizer | None:
    """The tokenizer in the folder of a run that has one; raises CheckpointError unless it is the
    one that the run was trained with."""
    facts = checkpoint.manifest.get("tokenizer")
    if facts is None:
        return None
    file = checkpoint.folder.absolute().parents[1] / TOKENIZER
    found = RunTokenizer(file, facts["end_of_text"])
    try:
        same = found.facts == facts
    except OSError as error:
        raise CheckpointError(
            f"{file}, the tokenizer of the run, cannot be read: {error.strerror}"
        ) from error
    if not same:
        raise CheckpointError(
            f"{file} is not the tokenizer that the run was trained with: its checksum differs"
        )
    return found


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """What makes text of the ids of a run's model; raises CheckpointError, TokenizerError."""
    if checkpoint.manifest["as_bytes"]:
        return ByteTokenizer()
    found = stored_tokenizer(checkpoint)
    if found is None:
        return NumberTokenizer(checkpoint.manifest["vocab_size"])
    return JSONTokenizer(found.file)


def export_tokenizer(found: RunTokenizer | None, model: LanguageModel, folder: Path) -> list[str]:
    """Write a run's tokenizer, or that of bytes, beside its exported model, as Hugging Face's
    libraries read it. Returns the files' names; raises TokenizerError, OSError."""
    if found is not None:
        names = found.copy_to(folder)
    else:
        (folder / TOKENIZER).write_text(byte_tokenizer(), encoding="utf-8")
        names = [TOKENIZER]
    if CONFIG not in names:
        values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if model.context_length is not None:
            values["model_max_length"] = model.context_length
        if found is not None and found.end_of_text is not None:
            tokens = {number: token for token, number in token_ids(found.file).items()}
            end = tokens.get(found.end_of_text)
            values |= {"bos_token": end, "eos_token": end}
        values["clean_up_tokenization_spaces"] = False
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        names.append(CONFIG)
    return names
