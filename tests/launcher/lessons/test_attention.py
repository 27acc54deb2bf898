"""Lesson 11: the solution is right, and wrong attention is told which pair it gets wrong."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
import numpy as np

def visible(queries, keys):
    return queries[:, None] >= keys[None, :]

def attend(out, shift, total, q, k, v, mask):
    scores = np.where(mask, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    after = np.maximum(shift, scores.max(axis=1))
    zero = np.where(np.isfinite(after), after, 0.0)
    weights = np.exp(scores - zero[:, None])
    shrink = np.exp(shift - zero)
    out = out * shrink[:, None] + weights @ v
    total = total * shrink + weights.sum(axis=1)
    return out, after, total

def zigzag(length, size, rank):
    chunks = np.arange(length).reshape(2 * size, -1)
    return np.concatenate([chunks[rank], chunks[2 * size - 1 - rank]])

def ring_attention(group, q, k, v, positions):
    rank, size = group.rank, group.size
    queries = positions[rank]
    state = np.zeros((len(q), v.shape[1])), np.full(len(q), -np.inf), np.zeros(len(q))
    for step in range(size):
        owner = (rank + step) % size
        state = attend(*state, q, k, v, visible(queries, positions[owner]))
        if step < size - 1:
            group.send(k, (rank - 1) % size)
            group.send(v, (rank - 1) % size)
            k, v = group.recv((rank + 1) % size), group.recv((rank + 1) % size)
    return state[0] / state[2][:, None]
"""


changed = partial(edited, SOLUTION)


CHUNKS = "np.concatenate([chunks[rank], chunks[2 * size - 1 - rank]])"
MASK = "visible(queries, positions[owner])"

WRONG = {
    "its own keys to everyone": (
        changed("group.send(k, (rank - 1) % size)", "group.send(own[0], (rank - step - 1) % size)",
                "group.send(v, (rank - 1) % size)", "group.send(own[1], (rank - step - 1) % size)",
                "k, v = group.recv((rank + 1) % size), group.recv((rank + 1) % size)",
                "k, v = (group.recv((rank + step + 1) % size) for _ in range(2))",
                "queries = positions[rank]", "queries, own = positions[rank], (k, v)"),
        "3 ranks, neighbouring positions: rank 0 sends to ranks 2 and 1; in a ring it sends to one "
        "neighbour only",
    ),
    "the last step forgotten, with no other": (
        changed("range(size):\n        owner", "range(size - 1):\n        owner"),
        "1 rank, neighbouring positions: on rank 0 query 0 gives what is not a number: 0 / 0, if "
        "it has seen no key at all",
    ),
    "a query that does not see itself": (
        changed("queries[:, None] >= keys", "queries[:, None] > keys"),
        "visible for queries [0, 1, 2] and keys [0, 1, 2]: the query at 0 does not see the key "
        "at 0",
    ),
    "a mask the other way round": (
        changed("queries[:, None] >= keys", "queries[:, None] <= keys"),
        "the query at 0 sees the key at 1",
    ),
    "a mask by place, not by position": (
        changed("queries[:, None] >= keys[None, :]",
                "np.tril(np.ones((len(queries), len(keys)), bool))"),
        "visible for queries [0] and keys [3, 4]: the query at 0 sees the key at 3",
    ),
    "no mask": (
        changed("np.where(mask, q @ k.T / np.sqrt(q.shape[1]), -np.inf)", "q @ k.T / 2"),
        "attend, 4 queries, keys in blocks of 2 from the first to last, block 1: query 0 sees key "
        "1, which comes after it",
    ),
    "no square root": (
        changed(" / np.sqrt(q.shape[1])", ""),
        "block 1: query 0: the scores are not divided by sqrt(D), which is 2 here",
    ),
    "out is not rescaled": (
        changed("out * shrink[:, None] + weights @ v", "out + weights @ v"),
        "out is relative to the old shift",
    ),
    "total is not rescaled": (
        changed("total * shrink +", "total +"), "total shrinks and grows like out",
    ),
    "the last block only": (
        changed("out * shrink[:, None] + weights @ v", "weights @ v"),
        "attend, 4 queries, keys in blocks of 2 from the first to last, block 2: query 0 misses "
        "key 0",
    ),
    "a block that counts twice": (
        changed("+ weights @ v", "+ 2 * weights @ v"), "query 0 counts key 0 twice",
    ),
    "no shift": (
        changed("np.maximum(shift, scores.max(axis=1))", "np.zeros(len(q))",
                "np.exp(shift - zero)", "1.0", "shrink[:, None]", "shrink"),
        "query 0: shift is 0; the largest score is",
    ),
    "nothing seen yet": (
        changed("np.where(np.isfinite(after), after, 0.0)", "after"),
        "keys in blocks of 2 from the last to first, block 1: query 0 has seen no key yet and is "
        "not a number",
    ),
    "changed in place": (
        changed("out = out * shrink[:, None] + weights @ v",
                "out *= shrink[:, None]\n    out += weights @ v"),
        "changes its argument out: work on a copy",
    ),
    "neighbouring positions": (
        changed(CHUNKS, "np.arange(length).reshape(size, -1)[rank]"),
        "zigzag, 4 positions on 2 ranks: rank 1 computes 7 pairs of a query and a key, rank 0 only "
        "3: all wait for rank 1; 5 each is possible",
    ),
    "striped positions": (
        changed(CHUNKS, "np.arange(rank, length, size)"),
        "zigzag, 4 positions on 2 ranks: rank 1 computes 6 pairs of a query and a key, rank 0 only "
        "4",
    ),
    "the same late chunk": (
        changed(CHUNKS, "np.concatenate([chunks[rank], chunks[-1]])"),
        "zigzag, 4 positions on 2 ranks: position 3 is on rank 0 and on rank 1",
    ),
    "one position too many": (
        changed(CHUNKS, "chunks[rank]"), "zigzag, 2 positions on 1 rank: rank 0 gets int64 (1,)",
    ),
    "own keys alone": (
        changed("for step in range(size):", "for step in range(1):", "step < size - 1", "False"),
        "2 ranks, neighbouring positions: on rank 1 query 4 misses key 0 of rank 0",
    ),
    "keys that are not sent on": (
        changed("            k, v = group.recv((rank + 1) % size), group.recv((rank + 1) % size)\n",
                ""),
        "2 ranks, neighbouring positions: on rank 1 query 4 misses key 0 of rank 0",
    ),
    "the mask of one's own keys": (
        changed(MASK, "visible(queries, queries)"),
        "2 ranks, neighbouring positions: on rank 0 query 0 sees key 4 of rank 1, which "
        "comes after it",
    ),
    "own keys once more": (
        changed("    return state[0] / ", "    state = attend(*state, q, k, v, "
                "visible(queries, positions[owner]))\n    return state[0] / "),
        "2 ranks, neighbouring positions: on rank 1 query 4 counts key 0 of rank 0 twice",
    ),
    "no division": (
        changed("return state[0] / state[2][:, None]", "return state[0]"),
        "1 rank, neighbouring positions: on rank 0 query 1: the shares of the keys add up to",
    ),
    "the other direction": (
        changed("owner = (rank + step) % size", "owner = (rank - step) % size"),
        "3 ranks, neighbouring positions: on rank 1 query 4 misses key 0 of rank 0",
    ),
    "who waits for whom": (
        changed("            group.send(k, (rank - 1) % size)\n"
                "            group.send(v, (rank - 1) % size)\n", ""),
        "2 ranks: nobody can go on: rank 0 waits for a message of rank 1; rank 1 waits for a "
        "message of rank 0",
    ),
    "a last hop for nothing": (
        changed("if step < size - 1:", "if size > 1:"),
        "2 ranks, neighbouring positions: rank 0 sends",
    ),
    "all keys at once": (
        changed("            group.send(k, (rank - 1) % size)\n",
                "            group.all_gather(k)\n            group.send(k, (rank - 1) % size)\n"),
        "keys go round the ring by send and recv alone",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("attention", SOLUTION) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(said, case):
    source, words = WRONG[case]
    found = said("attention", source)
    assert words in "\n".join(found)
    assert len(found) <= 3
