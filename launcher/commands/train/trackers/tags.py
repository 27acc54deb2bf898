"""The metrics that trackers show, and their names there."""

from ringlet.runtime.training.callbacks import Facts

TAGS = {
    "loss": "loss/training",
    "val_loss": "loss/validation",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_s": "speed/tokens_per_s",
    "step_s": "speed/step_s",
    "mfu": "speed/mfu",
    "comm_s": "communication/seconds_waited",
    "comm_bytes": "communication/bytes_sent",
}

FLUSH_S = 5.0


def tagged(row: Facts) -> dict[str, float]:
    """The metrics of a row under their names."""
    return {tag: row[name] for name, tag in TAGS.items() if row.get(name) is not None}
