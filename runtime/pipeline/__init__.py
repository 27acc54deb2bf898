"""Pipeline schedules as data: made by a pure function, then proven, priced, drawn and run."""

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.price import Costs, Price, price
from ringlet.runtime.pipeline.prove import Proof, prove
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "PipelineSchedule",
    "Price",
    "Proof",
    "make_schedule",
    "price",
    "prove",
]
