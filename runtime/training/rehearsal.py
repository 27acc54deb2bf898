"""A training step of one rank, rehearsed alone: what it would send is noted, and nothing is sent.

What runs is what trains: `parallelize`, its reducers, its sharded layers. Copies of this rank stand
in for its peers, so a number that depends on them means little, but order, shapes and bytes are
real.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.comm import Group
from ringlet.comm.schedules.links import Links
from ringlet.nn import Dropout, Module, Tensor, uninitialized
from ringlet.nn.autograd.backward_hooks import Mark
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.data.bucket_size import BUCKET_BYTES
from ringlet.runtime.device_collectives import Ready
from ringlet.runtime.mesh import Mesh, share
from ringlet.runtime.parallel import Step, parallelize
from ringlet.runtime.pipeline.run import MicroBatch
from ringlet.runtime.sharding.sharding_plans import sharding_plan_of
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.corpus import load_corpus, training_batch
from ringlet.runtime.training.factories import make_model, make_optimizer
from ringlet.runtime.training.fit import check_fit, mesh_shape, parallelism


class Event(NamedTuple):
    """Something that the rank does: "forward" or "backward" of the module `name` begins, "result"
    has the shape of its result; or a collective, of the array that `name` labels."""

    what: str
    name: str
    shape: tuple[int, ...] = ()
    nbytes: int = 0
    """Of the whole array."""


Observer: TypeAlias = Callable[[Event, Array | None], None]
"""Is called at each event, of a collective with this rank's array, which is to be left alone."""


class StandIns(Group):
    """A group without peers: in collectives they have what this rank has, unless `everyone` says
    otherwise, and messages from them are zeros."""

    def __init__(self, rank: int, ranks: Sequence[int], observe: Observer) -> None:
        self.rank, self.size, self._members, self._observe = rank, len(ranks), ranks, observe

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(self._members)

    @property
    def shares_memory(self) -> bool:
        return False

    def measure_links(self) -> Links:
        return Links()

    def everyone(self, x: Array) -> Sequence[Array]:
        """The arrays of all ranks."""
        return [x] * self.size

    def split(self, ranks: Sequence[int], *, timeout: float | None = None) -> "StandIns | None":
        members = [self._members[rank] for rank in ranks]
        own = self._members[self.rank]
        return StandIns(members.index(own), members, self._observe) if own in members else None

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return np.empty(shape, dtype)

    def isend(self, x: Array, dst: int, tag: int = 0, *, timeout: float | None = None) -> Any:
        self._observe(Event("send", "", x.shape, x.nbytes), x)
        return Ready(x)

    def irecv(
        self, src: int, tag: int = 0, *, out: Array | None = None, timeout: float | None = None
    ) -> Any:
        assert out is not None, "as ring attention receives"
        out.fill(0)
        return Ready(out)

    def all_reduce(self, x: Array, op: str = "sum", **options: Any) -> Any:
        combine = np.maximum if op == "max" else np.add
        return self._exchange("all_reduce", x, x.nbytes, combine.reduce, x, options)

    def reduce_scatter(
        self, x: Array, op: str = "sum", *, out: Array | None = None, **options: Any
    ) -> Any:
        parts = (self.size, x.shape[0] // self.size, *x.shape[1:])

        def own(every: Sequence[Array]) -> Array:
            return np.sum([each.reshape(parts)[self.rank] for each in every], axis=0)

        return self._exchange("reduce_scatter", x, x.nbytes, own, out, options)

    def all_gather(self, x: Array, *, out: Array | None = None, **options: Any) -> Any:
        return self._exchange("all_gather", x, x.nbytes * self.size, np.stack, out, options)

    def all_to_all(self, x: Array, *, out: Array | None = None, **options: Any) -> Any:
        parts = (self.size, x.shape[0] // self.size, *x.shape[1:])

        def received(every: Sequence[Array]) -> Array:
            return np.concatenate([each.reshape(parts)[self.rank] for each in every])

        return self._exchange("all_to_all", x, x.nbytes, received, out, options)

    def _exchange(
        self,
        what: str,
        x: Array,
        nbytes: int,
        result: Callable[[Sequence[Array]], Array],
        out: Array | None,
        options: Any,
    ) -> Any:
        if self.size > 1:
            self._observe(Event(what, options.get("label", ""), x.shape, nbytes), x)
        found = result(self.everyone(x))
        if out is not None:
            out[...] = found
            found = out
        return Ready(found) if options.get("async_op") else found


class Together(StandIns):
    """The ranks of a group as threads of this process, which exchange what they really have."""

    def __init__(self, rank: int, size: int, arrays: list[Array], barrier: threading.Barrier):
        super().__init__(rank, range(size), lambda event, x: None)
        self._arrays, self._barrier = arrays, barrier

    def everyone(self, x: Array) -> Sequence[Array]:
        self._arrays[self.rank] = x.copy()
        self._barrier.wait()
        found = list(self._arrays)
        self._barrier.wait()
        return found


def together(size: int, run: Callable[[Group], None]) -> None:
    """Run a function on every rank of a group of threads; raises what one of them raises."""
    arrays, barrier = [np.empty(0)] * size, threading.Barrier(size)
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            run(Together(rank, size, arrays, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Rehearsal:
    """The first step of a run, on one of its ranks; without a pipeline. Raises ConfigError and
    MeshError for a run that does not fit so many workers, as `ringlet train` does, and DataError.

    `blocks` are the paths of the model's blocks, `observers` are called at each event. On a real
    `world` its collectives run, and are not noted.
    """

    def __init__(
        self, config: TrainConfig, workers: int, rank: int = 0, world: Group | None = None
    ) -> None:
        check_fit(config, workers)
        self.config, self.observers = config, list[Observer]()
        size = config.vocab_size or None
        self._corpus = load_corpus(config.data, config.block_size, size, config.tokenizer)
        with uninitialized():
            model = make_model(config, self._corpus.vocab_size)
        self.blocks = sharding_plan_of(model).block_paths(model)
        world = world or StandIns(rank, range(workers), self._note)
        self.mesh = Mesh(world, **mesh_shape(config, workers))
        options = parallelism(config)
        options = replace(options, bucket_bytes=options.bucket_bytes or BUCKET_BYTES)
        self.parallel = parallelize(model, self.mesh, options, seed=config.seed)
        self.parallel.use(lambda flat: make_optimizer(config, flat))

    def watch(self, *paths: str) -> None:
        """Note when the modules at these paths begin, and what they give; not those of dropout that
        drops nothing."""
        for path in paths:
            module = self.parallel.model.submodule(path)
            if not isinstance(module, Dropout) or module.p:
                self._watch(path, module)

    def _watch(self, path: str, module: Module) -> None:
        def after(module: Module, inputs: Any, result: Any) -> Any:
            if not isinstance(result, Tensor):
                return None
            self._note(Event("result", path, result.shape), None)
            if not result.requires_grad:
                return None
            return Mark(lambda grad: self._note(Event("backward", path), None))(result)

        module.register_forward_pre_hook(lambda *_: self._note(Event("forward", path), None))
        module.register_forward_hook(after)

    @property
    def samples(self) -> list[range]:
        """The numbers of this rank's samples in each micro-batch."""
        config = self.config
        first, count = share(
            config.batch_size, self.mesh.size("dp", "ep"), self.parallel.data_index
        )
        shares = (share(count, config.accumulate, number) for number in range(config.accumulate))
        return [range(first + skip, first + skip + size) for skip, size in shares]

    def run(self, update: bool = True) -> list[Event]:
        """Take the step, perhaps without its update; returns what happened."""
        events, config = list[Event](), self.config
        self.observers.insert(0, lambda event, x: events.append(event))
        sizes = config.block_size, config.batch_size
        batches = [
            MicroBatch(
                *training_batch(self._corpus, *sizes, config.seed, 0, own.start, len(own)),
                own.start,
            )
            for own in self.samples
        ]
        scale = 1 / (config.batch_size * config.block_size)
        self.parallel.gradients(batches, Step(config.seed, 0, scale))
        if update:
            self._note(Event("update", ""), None)
            self.parallel.update(config.learning_rate)
        return events

    def _note(self, event: Event, x: Array | None) -> None:
        for observe in self.observers:
            observe(event, x)
