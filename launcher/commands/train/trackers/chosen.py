"""The trackers that the options of `ringlet train` ask for."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ringlet.launcher.errors import UserError
from ringlet.runtime.training.callbacks import Callback, Facts

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""Option, which is also the extra, and the package that it needs."""


def check_packages(options: Any) -> None:
    """Raise UserError if one of these options is given and its package is not installed."""
    for name, package in PACKAGES.items():
        if getattr(options, name) is not None and find_spec(package) is None:
            raise UserError(f"--{name} needs {package}: pip install 'ringlet[{name}]'")


def trackers(options: Any, warn: Callable[[str], None]) -> list[Callback]:
    """Those that the options ask for; raises UserError if one cannot be had. Packages are imported
    now: it may take longer than other hosts wait for this one."""
    # Imported here, as each is seldom needed.
    from ringlet.launcher.commands.train.trackers.mlflow import MLflow
    from ringlet.launcher.commands.train.trackers.tensorboard import EventFiles
    from ringlet.launcher.commands.train.trackers.wandb import WandB

    makers: dict[str, Callable[[Any], Callback]]
    makers = {"tensorboard": EventFiles, "mlflow": MLflow, "wandb": WandB}
    asked = {name: getattr(options, name) for name in makers if getattr(options, name) is not None}
    return [Guarded(makers[name](to), f"--{name} {to}", warn) for name, to in asked.items()]


class Guarded(Callback):
    """A callback whose failure ends the callback, not the training: `warn(text)` is told."""

    def __init__(self, callback: Callback, name: str, warn: Callable[[str], None]) -> None:
        self._callback: Callback | None = callback
        self._name, self._warn = name, warn

    def take(self, event: str, facts: Facts) -> None:
        if self._callback is None:
            return
        try:
            self._callback.take(event, facts)
        except Exception as error:
            self._callback = None
            words = error.strerror if isinstance(error, OSError) else None
            first = (words or str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{self._name} ends here: {first}")
