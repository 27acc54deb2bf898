"""A training run as a run of Weights & Biases."""

import os
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.train.trackers.tags import tagged
from ringlet.launcher.errors import user_errors
from ringlet.runtime.training.callbacks import Callback, Facts


class WandB(Callback):
    """A run in a project of Weights & Biases (WANDB_MODE=offline: in ./wandb)."""

    def __init__(self, project: str) -> None:
        with user_errors(ImportError):
            import wandb
        self._wandb: Any = wandb
        if os.environ.get("WANDB_MODE", "online") == "online":
            with user_errors(wandb.Error):
                wandb.login()  # now: it may ask for a key
        self._project = project
        self._run: Any = None

    def start(self, facts: Facts) -> None:
        name = Path(facts["folder"]).name if facts["folder"] else None
        config = {**facts["config"], "workers": facts["workers"], "mesh": facts["mesh"]}
        self._run = self._wandb.init(project=self._project, name=name, config=config)

    def step(self, facts: Facts) -> None:
        if self._run is not None:
            self._run.log(tagged(facts), step=facts["step"])

    def evaluation(self, facts: Facts) -> None:
        if not facts["step"]:
            self.step(facts)

    def end(self, facts: Facts) -> None:
        self._finish(0)

    def failure(self, facts: Facts) -> None:
        self._finish(1)

    def _finish(self, code: int) -> None:
        if self._run is not None:
            self._run.finish(exit_code=code)
            self._run = None
