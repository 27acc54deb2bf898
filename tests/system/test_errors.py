"""Every error of the package can be handed on: pickled, copied, raised again somewhere else."""

import copy
import importlib
import inspect
import multiprocessing
import pkgutil
import traceback

import pytest

import ringlet
from ringlet import comm
from ringlet.launcher.testing.pool import RanksFailed
from ringlet.runtime.pipeline.actions import Action
from ringlet.runtime.pipeline.prove import Refused

MADE_OTHERWISE = {
    comm.PeerLost: ("rank 0: barrier #3 lost rank 1: killed", 1),
    comm.CommTimeout: ("rank 0: barrier #3 waited 1.0 s for ranks 2 and 3", [2, 3]),
    Refused: ("1F1B: rank 0, F0: is not its own", 0, Action("F", 0, 0), "is not its own"),
    RanksFailed: ("test_sum", {1: "Traceback ..."}, {0: [1.5, "two"]}),
}
"""What errors are made of that take more than a message."""


def errors():
    """Every class of error that a module of the package defines."""
    for module in pkgutil.walk_packages(ringlet.__path__, "ringlet."):
        if module.name.split(".")[1] in ("comm", "nn", "runtime", "launcher"):
            for _, value in inspect.getmembers(
                importlib.import_module(module.name), inspect.isclass
            ):
                if issubclass(value, BaseException) and value.__module__ == module.name:
                    yield value


ALL = [*errors()]


def arguments(kind):
    """Text for each that an error takes."""
    ours = (base for base in kind.__mro__ if base.__module__.startswith("ringlet."))
    makes = next((vars(base)["__init__"] for base in ours if "__init__" in vars(base)), None)
    count = 1 if makes is None else len(inspect.signature(makes).parameters) - 1
    return ["what happened, to what, and what to do"] * count


def test_the_errors_are_found():
    assert len(ALL) >= 15
    assert {comm.CommError, comm.PeerLost, RanksFailed} < {*ALL}


def raised(error):
    """The error as who catches it sees it: with a traceback, notes and a cause."""
    try:
        raise error from OSError("its cause")
    except type(error) as caught:
        caught.add_note("what was done last")
        return caught


def to_a_process(error):
    """As multiprocessing hands it on."""
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(error)
        return there.recv()


WAYS = {
    "to a process": to_a_process,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "twice": lambda error: copy.copy(to_a_process(error)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_can_be_handed_on(kind, way):
    error = raised(kind(*MADE_OTHERWISE.get(kind, arguments(kind))))
    again = WAYS[way](error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert "what was done last" in "".join(traceback.format_exception(raised(again)))
