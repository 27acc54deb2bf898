"""`ringlet train --from`: what a run starts with that has a model already."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.train.folder import newest_checkpoint
from ringlet.launcher.errors import UserError, user_errors
from ringlet.nn.models import PretrainedError
from ringlet.nn.safetensors import SafetensorsError
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.config import ConfigError, TrainConfig, check_config
from ringlet.runtime.training.corpus import Corpus
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.start import CONFIG, Start, from_folder, from_run
from ringlet.runtime.training.tokenizers import TokenizerError
from ringlet.runtime.training.trainer import CHECKPOINTS


def find(values: Mapping[str, Any], preset: str | None) -> Start | None:
    """The model that --from names, if it is given; raises UserError."""
    with user_errors(ConfigError):
        name = check_config({"start": values.get("start", "")}).start
    if not name:
        return None
    if preset is not None:
        raise UserError(f"--preset {preset} has the sizes of a model, and --from has its own")
    folder = Path(name)
    errors = (ConfigError, PretrainedError, SafetensorsError, TokenizerError, CheckpointError)
    with user_errors(*errors, os_error=f"--from {folder}"):
        if (folder / CONFIG).is_file():
            return from_folder(folder)
        if (folder / CHECKPOINTS).is_dir():
            return from_run(folder, newest_checkpoint(folder))
    raise UserError(
        f"--from {folder}: there is neither a Hugging Face model ({CONFIG}) nor a run "
        f"({CHECKPOINTS})"
    )


OTHERS = ("vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
"""Tokenizers of other kinds."""


@dataclass(frozen=True)
class Starting:
    """How a run of this config starts: from where, and with what that is new."""

    start: Start
    settings: TrainConfig
    corpus: Corpus

    @classmethod
    def of(cls, start: Start, settings: TrainConfig, corpus: Corpus) -> "Starting":
        """With room for the data's ids in the vocabulary. Raises ConfigError, TokenizerError."""
        if corpus.tokenizer is not None and start.tokenizer is not None:
            corpus.tokenizer.check_agrees(start.tokenizer, f"the model in {start.folder}")
        elif start.as_bytes and not corpus.as_bytes:
            raise ConfigError(f"the model in {start.folder} reads bytes; {settings.data} has ids")
        elif corpus.as_bytes and (found := [n for n in OTHERS if (start.folder / n).exists()]):
            raise ConfigError(
                f"{start.folder} has {found[0]}, and no tokenizer.json, which text is read with: "
                "save it there with transformers, or give --tokenizer"
            )
        settings = replace(settings, vocab_size=max(corpus.vocab_size, start.vocab_size))
        model_config(settings, settings.vocab_size)
        return cls(start, settings, corpus)

    @property
    def notes(self) -> list[str]:
        """What is said at the start."""
        start, found = self.start, []
        if start.checkpoint is not None and (why := start.afresh(self.settings)):
            found.append(f"the optimizer starts afresh: {why}")
        elif start.checkpoint is not None:
            found.append(f"starting from {start.folder}, after its step {start.checkpoint.step}")
        if self.corpus.as_bytes and not start.as_bytes and start.checkpoint is None:
            found.append(f"{start.folder} has no tokenizer: the text is read as bytes")
        if new := start.news(self.settings):
            found.append(f"new in the model of {start.folder}: {' and '.join(new)}")
        return found

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on where another one was: with its optimizer, after its step."""
        return not self.start.afresh(self.settings)

    @property
    def task(self) -> dict[str, Any]:
        """What workers are told."""
        return {"path": str(self.start.path.resolve()), "goes_on": self.goes_on}
