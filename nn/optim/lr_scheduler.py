"""torch.optim.lr_scheduler's classes: a scheduler sets the learning rates of an optimizer's groups,
when it is made and at each `step()`.

Those that multiply the learning rate by a factor may be used together, as in PyTorch.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ringlet.nn.optim.param_groups import Optimizer
from ringlet.nn.optim.schedules import cosine, linear, one_cycle

Factor = Callable[[int], float]


class LRScheduler:
    """The base: subclasses define `rate`, and have PyTorch's arguments as their fields."""

    optimizer: Optimizer
    last_epoch: int

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(
                f"{type(self.optimizer).__name__} is not an Optimizer of parameters; for flat "
                "parameters set optimizer.learning_rate by the functions of nn.optim"
            )
        for number, group in enumerate(self.optimizer.param_groups):
            if self.last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"param_groups[{number}] has no 'initial_lr' to resume from")
        self.base_lrs: list[float] = [each["initial_lr"] for each in self.optimizer.param_groups]
        self.step()

    def rate(self, number: int, present: float | None) -> float:
        """The learning rate of a group from its present one; None: by `base_lrs` alone."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Go on by one, or to an epoch."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.rate(number, group["lr"] if epoch is None else None)

    def get_last_lr(self) -> list[float]:
        """The learning rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer and functions."""
        return {k: v for k, v in vars(self).items() if k != "optimizer" and not _is_function(v)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state."""
        vars(self).update(state_dict)


def _is_function(value: Any) -> bool:
    return all(map(callable, value if isinstance(value, list | tuple) and value else [value]))


@dataclass(eq=False)
class LambdaLR(LRScheduler):
    """base_lr * lr_lambda(epoch); one function, or one for each group."""

    optimizer: Optimizer
    lr_lambda: Factor | Sequence[Factor]
    last_epoch: int = -1

    def __post_init__(self) -> None:
        self.lr_lambdas = _for_each_group(self.optimizer, self.lr_lambda, "lr_lambdas")
        super().__post_init__()

    def rate(self, number: int, present: float | None) -> float:
        return self.base_lrs[number] * self.lr_lambdas[number](self.last_epoch)


def _for_each_group(optimizer: Optimizer, value: Any, name: str) -> list[Any]:
    """A list of values as it is, one value once for each group."""
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ValueError(f"Expected {count} {name}, but got {len(values)}")
    return values


class FactorLR(LRScheduler):
    """Multiplies the learning rate, over `floor`, by a factor of the epoch."""

    floor = 0.0

    def factor_at(self, epoch: int) -> float:
        """What base_lr is multiplied by."""
        raise NotImplementedError

    def rate(self, number: int, present: float | None) -> float:
        now, base = self.factor_at(self.last_epoch), self.base_lrs[number]
        if present is not None and self.last_epoch:
            before = self.factor_at(self.last_epoch - 1)
            if before:
                return self.floor + (present - self.floor) * (now / before)
        elif present is not None:
            base = present
        return self.floor + (base - self.floor) * now


@dataclass(eq=False)
class StepLR(FactorLR):
    """Times gamma every `step_size` epochs."""

    optimizer: Optimizer
    step_size: int
    gamma: float = 0.1
    last_epoch: int = -1

    def factor_at(self, epoch: int) -> float:
        return self.gamma ** (epoch // self.step_size)


@dataclass(eq=False)
class MultiStepLR(FactorLR):
    """Times gamma at each milestone."""

    optimizer: Optimizer
    milestones: Sequence[int]
    gamma: float = 0.1
    last_epoch: int = -1

    def factor_at(self, epoch: int) -> float:
        return self.gamma ** sum(milestone <= epoch for milestone in self.milestones)


@dataclass(eq=False)
class ExponentialLR(FactorLR):
    """Times gamma every epoch."""

    optimizer: Optimizer
    gamma: float
    last_epoch: int = -1

    def factor_at(self, epoch: int) -> float:
        return self.gamma**epoch


@dataclass(eq=False)
class ConstantLR(FactorLR):
    """Times `factor` for the first `total_iters` epochs."""

    optimizer: Optimizer
    factor: float = 1.0 / 3
    total_iters: int = 5
    last_epoch: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        super().__post_init__()

    def factor_at(self, epoch: int) -> float:
        return self.factor if epoch < self.total_iters else 1.0


@dataclass(eq=False)
class LinearLR(FactorLR):
    """Times a factor that goes linearly from `start_factor` to `end_factor`."""

    optimizer: Optimizer
    start_factor: float = 1.0 / 3
    end_factor: float = 1.0
    total_iters: int = 5
    last_epoch: int = -1

    def __post_init__(self) -> None:
        if not 0 < self.start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be above 0 and up to 1.")
        if not 0 <= self.end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        super().__post_init__()

    def factor_at(self, epoch: int) -> float:
        return linear(self.start_factor, self.end_factor, self.total_iters)(epoch)


@dataclass(eq=False)
class CosineAnnealingLR(FactorLR):
    """Half a cosine down to `eta_min` over `T_max` epochs, then up again, and so on.

    Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """

    optimizer: Optimizer
    T_max: int
    eta_min: float = 0.0
    last_epoch: int = -1

    def __post_init__(self) -> None:
        self.floor = self.eta_min
        super().__post_init__()

    def factor_at(self, epoch: int) -> float:
        folded = epoch % (2 * self.T_max)
        return cosine(1.0, 0.0, self.T_max)(min(folded, 2 * self.T_max - folded))


@dataclass(eq=False)
class OneCycleLR(LRScheduler):
    """Up to `max_lr` and down again over all steps, and momentum the other way; see
    schedules.one_cycle."""

    optimizer: Optimizer
    max_lr: float | Sequence[float]
    total_steps: int | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    pct_start: float = 0.3
    anneal_strategy: Literal["cos"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: Literal[False] = False
    last_epoch: int = -1

    def __post_init__(self) -> None:
        if self.anneal_strategy != "cos" or self.three_phase:
            raise ValueError("OneCycleLR has anneal_strategy 'cos' and two phases only")
        self.steps = self.total_steps or (self.epochs or 0) * (self.steps_per_epoch or 0)
        if not self.steps:
            raise ValueError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        cycle = self.steps, self.pct_start
        self._rates = [
            one_cycle(peak, *cycle, self.div_factor, self.final_div_factor)
            for peak in _for_each_group(self.optimizer, self.max_lr, "values for max_lr")
        ]
        ratio = self.base_momentum / self.max_momentum
        self._momentum = one_cycle(self.base_momentum, *cycle, ratio, 1.0)
        if self.cycle_momentum and not {"betas", "momentum"} & self.optimizer.defaults.keys():
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
            )
        super().__post_init__()

    def rate(self, number: int, present: float | None) -> float:
        if self.last_epoch > self.steps:
            raise ValueError(
                f"Tried to step {self.last_epoch} times. The specified number of total steps is "
                f"{self.steps}"
            )
        if self.cycle_momentum:
            group, momentum = self.optimizer.param_groups[number], self._momentum(self.last_epoch)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return self._rates[number](self.last_epoch)


class SequentialLR(LRScheduler):
    """Schedulers one after another, each from its milestone on."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR expects one milestone less than schedulers, and got "
                f"{len(schedulers)} schedulers and {len(milestones)} milestones"
            )
        if any(scheduler.optimizer is not optimizer for scheduler in schedulers):
            raise ValueError("SequentialLR's schedulers must be those of its optimizer")
        self.optimizer, self.last_epoch = optimizer, last_epoch + 1
        self._schedulers, self.milestones = list(schedulers), list(milestones)
        schedulers[0].step(0)

    def step(self, epoch: int | None = None) -> None:
        if epoch is not None:
            raise ValueError("SequentialLR goes on by one step at a time")
        self.last_epoch += 1
        present = bisect.bisect_right(self.milestones, self.last_epoch)
        starts = present > 0 and self.milestones[present - 1] == self.last_epoch
        self._schedulers[present].step(0 if starts else None)

    def state_dict(self) -> dict[str, Any]:
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {"last_epoch": self.last_epoch, "_schedulers": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


@dataclass(eq=False)
class ReduceLROnPlateau(LRScheduler):
    """Times `factor` once a figure has not improved for more than `patience` steps."""

    optimizer: Optimizer
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float | Sequence[float] = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.factor >= 1:
            raise ValueError("Factor should be < 1.0.")
        if self.mode not in ("min", "max") or self.threshold_mode not in ("rel", "abs"):
            raise ValueError(f"mode {self.mode} or threshold mode {self.threshold_mode} is unknown")
        self.min_lrs = _for_each_group(self.optimizer, self.min_lr, "values for min_lr")
        self.best = math.inf if self.mode == "min" else -math.inf
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the figure of an epoch into account."""
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                rate = max(group["lr"] * self.factor, least)
                if group["lr"] - rate > self.eps:
                    group["lr"] = rate
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def is_better(self, value: float) -> bool:
        """Whether a figure is better than the best by more than the threshold."""
        sign = -1 if self.mode == "min" else 1
        relative = self.threshold_mode == "rel"
        margin = sign * self.threshold * (self.best if relative else 1)
        return math.isinf(self.best) or sign * value > sign * (self.best + margin)
