"""Hosts that have read different texts, or do not share a folder, are told before they train."""

import numpy as np
import pytest

from ringlet.nn import FlatParameters, Linear, mkl
from ringlet.nn.optim import SGD
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.state import TrainingState
from ringlet.runtime.training.checks import check_same_data, check_shared, compare_products
from ringlet.runtime.training.corpus import Corpus, DataError


def texts(world, other):
    tokens = np.arange(10) + (other and world.rank == 1)
    corpus = Corpus("book", tokens, tokens, 256, True)
    if not other:
        check_same_data(world, corpus)
        return
    with pytest.raises(DataError, match="book that rank 0 has read is not what rank 1 read"):
        check_same_data(world, corpus)


@pytest.mark.parametrize("other", [False, True])
def test_the_same_text(ranks, other):
    ranks(2).run(texts, other=other)


def libraries(world, other):
    told, own = [], "MKL 2026.2" if world.rank == other else mkl.NUMPY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mkl, "description", lambda: own)
        compare_products(world, told.append)
    return told


@pytest.mark.parametrize("other", [None, 1])
def test_the_same_library_for_products(ranks, other):
    told, *others = ranks(3).run(libraries, other=other)
    assert others == [[], []]
    assert len(told) == (other is not None)
    if told:
        assert "by MKL 2026.2 on rank 1, by NumPy's BLAS on ranks 0, 2: the result dep" in told[0]
        assert "RINGLET_BLAS=numpy on all hosts, or pip install 'ringlet[mkl]' on all" in told[0]


def folders(world, folder, shared, saving):
    """Rank 1 looks for the folder somewhere else, unless it is `shared`."""
    flat = FlatParameters(Linear(2, 2))
    state = TrainingState.of(flat, SGD(flat, 0.1))
    if world.rank and not saving:
        state.parts = []
    mine = folder if shared or not world.rank else folder / "elsewhere"
    if shared or not saving:
        check_shared(world, mine, state)
        world.barrier()
        assert list(folder.iterdir()) == []
        return
    with pytest.raises(CheckpointError, match="rank 1 cannot see rank 0's folder"):
        check_shared(world, mine, state)


@pytest.mark.parametrize(("shared", "saving"), [(True, True), (False, False), (False, True)])
def test_the_same_folder(ranks, tmp_path, shared, saving):
    ranks(2).run(folders, folder=tmp_path, shared=shared, saving=saving)
