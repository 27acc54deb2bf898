"""Cases of one kind: a few of them in every run, the others with `-m slow`."""

import pytest


def mostly_slow(cases, *quick):
    """All cases, as parameters; those that are not among the `quick` are marked slow."""
    assert all(case in cases for case in quick), quick
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
