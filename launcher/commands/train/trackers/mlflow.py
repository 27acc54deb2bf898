"""A training run as a run of MLflow."""

import os
import time
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.train.trackers.tags import FLUSH_S, tagged
from ringlet.launcher.errors import user_errors
from ringlet.runtime.training.callbacks import Callback, Facts

USUAL = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # else it refuses folders
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else it tries for minutes, and the training waits
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MLflow(Callback):
    """A run in the experiment `ringlet` of an MLflow server, or of a folder. Metrics go there every
    few seconds, many at a time. A training that is resumed or restarted is another run."""

    def __init__(self, address: str) -> None:
        for variable, value in USUAL.items():
            os.environ.setdefault(variable, value)
        with user_errors(ImportError):
            from mlflow import MlflowClient, entities, exceptions
        self._entities = entities
        with user_errors(exceptions.MlflowException, OSError):
            self._client: Any = MlflowClient(tracking_uri=address)
            found = self._client.get_experiment_by_name("ringlet")
            self._experiment = (
                self._client.create_experiment("ringlet") if found is None else found.experiment_id
            )
        self._run, self._waiting, self._flushed = "", list[Any](), time.monotonic()

    def start(self, facts: Facts) -> None:
        name = Path(facts["folder"]).name if facts["folder"] else None
        self._run = self._client.create_run(self._experiment, run_name=name).info.run_id
        config = {**facts["config"], "workers": facts["workers"], "mesh": str(facts["mesh"])}
        params = [self._entities.Param(key, str(value)) for key, value in config.items()]
        self._client.log_batch(self._run, params=params)

    def step(self, facts: Facts) -> None:
        now = round(1000 * time.time())
        metric, number = self._entities.Metric, facts["step"]
        self._waiting += [metric(tag, value, now, number) for tag, value in tagged(facts).items()]
        if time.monotonic() >= self._flushed + FLUSH_S or len(self._waiting) > 900:
            self._flush()

    def evaluation(self, facts: Facts) -> None:
        if not facts["step"]:
            self.step(facts)

    def end(self, facts: Facts) -> None:
        self._terminate("KILLED" if facts["stopped"] else "FINISHED")

    def failure(self, facts: Facts) -> None:
        if self._run:
            self._client.set_tag(self._run, "cause", facts["cause"])
            self._terminate("FAILED")

    def _terminate(self, status: str) -> None:
        self._flush()
        self._client.set_terminated(self._run, status)

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        self._client.log_batch(self._run, metrics=self._waiting)
        self._waiting = []
