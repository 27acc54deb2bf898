"""Lesson 2: cut a batch, and cut a model.

The first two functions are data parallelism: every rank has all weights and some of the samples.
The other four count what either way costs, for GPTs in float32 with AdamW.
"""

import numpy as np


def my_samples(samples: int, rank: int, ranks: int) -> range:
    """The numbers of the samples that the rank takes of a batch, from `range(samples)`.

    Over all ranks, in order, each sample comes once. No rank has two samples more than another.
    `samples` need not be a multiple of `ranks`.
    """
    raise NotImplementedError


def my_gradient(
    weights: np.ndarray,
    inputs: np.ndarray,
    targets: np.ndarray,
    counts: np.ndarray,
    all_count: int,
) -> np.ndarray:
    """What the rank puts into the sum over ranks, so that the sum is the gradient of the batch.

    The model predicts `inputs @ weights` for the rank's tokens. The loss of a token is the square
    of the prediction's distance from the target. The loss of the batch is the *mean over all its
    tokens that count*, on all ranks; the others are padding, and have no part in it.

    weights (features,), inputs (tokens, features), targets (tokens,): float64;
    counts (tokens,): True for tokens that count. All are the rank's own, and ranks may have
    different numbers of tokens. `all_count` is how many tokens count on all ranks together.
    Returns (features,). The arguments must stay as they are.
    """
    raise NotImplementedError


def block_parameters(width: int) -> int:
    """The parameters of one block of a GPT. All linear layers have biases.

    - two layer norms, each with a weight and a bias of `width` numbers;
    - attention: a linear layer from `width` to 3 * `width`, and one from `width` to `width`;
    - an MLP: a linear layer from `width` to 4 * `width`, and one back.
    """
    raise NotImplementedError


def state_bytes(width: int, blocks: int, copies: int, stages: int) -> int:
    """The bytes of parameters, gradients and AdamW's two moments of the blocks on a rank.

    There are `copies` * `stages` ranks. The blocks are cut into so many stages, nearly equally; the
    rank is one of those with most blocks. Each stage exists in so many copies, which see different
    samples. Each number has 4 bytes.
    """
    raise NotImplementedError


def gradient_bytes(parameters: int, copies: int) -> float:
    """The bytes that a rank sends in a step to sum the gradients over the copies, in a ring."""
    raise NotImplementedError


def activation_bytes(samples: int, context: int, width: int) -> int:
    """The bytes that stage 0 sends to stage 1 in a step.

    A block's result has `width` numbers for each token, and a sample has `context` tokens.
    """
    raise NotImplementedError
