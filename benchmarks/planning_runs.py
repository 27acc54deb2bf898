"""Training runs that the planner's benchmarks share: a preset's model on workers over some link."""

import contextlib
import statistics
import time
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from memory import status, watched
from network_pair import NetworkPair, NetworkPairPool

from ringlet import runtime
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.runtime import Setting, Trainer, load_corpus, make_config
from ringlet.runtime.planning.cluster import parse_cluster
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.fit import mesh_shape, parallelism

WARM_UP = 2
HOSTS = {2: (0, 1), 4: (0, 0, 1, 1)}


class Run(NamedTuple):
    """A preset's model, trained so on so many workers; `link` is a transport, or Mbit/s between two
    hosts."""

    preset: str
    model: str = "gpt"
    workers: int = 1
    link: str | int = "auto"
    options: Mapping = MappingProxyType({})

    @property
    def config(self):
        """All its options."""
        return make_config(self.preset, None, {"model": self.model, **self.options})

    @property
    def sizes(self):
        """The model as the planner sees it."""
        config = self.config
        return model_of(model_config(config, corpus_of(config).vocab_size))

    @property
    def setting(self):
        """How its step is cut."""
        config = self.config
        mesh = mesh_shape(config, self.workers)
        micro = config.batch_size // (mesh["dp"] * mesh["ep"] * config.accumulate)
        return Setting(mesh, config.batch_size, micro, parallelism(config))

    @property
    def words(self):
        """Its options in short."""
        return " ".join(f"{name}={value}" for name, value in self.options.items())

    def __str__(self):
        link = self.link if isinstance(self.link, str) else f"{self.link} Mbit/s"
        words = self.words.removeprefix("mesh=")
        return f"{self.preset} {self.model} x{self.workers} {link} {words}"

    def measured(self, pool, steps):
        """What `train` returns, of each rank."""
        how = {"preset": self.preset, "model": self.model, "options": dict(self.options)}
        return pool.run(train, deadline=600, steps=steps, **how)


def corpus_of(config):
    """What it is trained on."""
    return load_corpus("pydoc", config.block_size, config.vocab_size or None)


@contextlib.contextmanager
def pool_of(workers, link):
    """Fresh workers."""
    with contextlib.ExitStack() as stack:
        if isinstance(link, str):
            yield stack.enter_context(WorkerPool(workers, link, 120.0))
        else:
            pair = stack.enter_context(NetworkPair(link))
            yield stack.enter_context(NetworkPairPool(pair, HOSTS[workers], timeout=120.0))


def described(world, seconds):
    """The machine with these ranks, as text."""
    return str(runtime.calibrate(world, seconds))


def calibrated(pool, seconds):
    """The machine with these workers."""
    return parse_cluster(tomllib.loads(pool.run(described, deadline=600, seconds=seconds)[0]))


def train(world, preset, model, options, steps):
    """By step, seconds and the processor's; place in the pipeline, bytes by which the rank grew."""
    config = make_config(preset, None, {"model": model, **options})
    corpus = corpus_of(config)
    before = watched()
    trainer, times = Trainer(config, corpus, world), []
    for _ in range(steps + WARM_UP):
        world.barrier()
        started, busy = time.perf_counter(), time.thread_time()
        trainer._train_step()
        times.append([time.perf_counter() - started, time.thread_time() - busy])
    return [times[WARM_UP:], [trainer.mesh.index("pp"), status("VmHWM") - before]]


def error(wanted, found):
    """How far the expected figure is from the measured one."""
    return wanted / found - 1


def summary(what, errors):
    """A line of the median and the worst."""
    sizes = sorted(map(abs, errors))
    if sizes:
        middle = statistics.median(sizes)
        print(f"{what}: {len(sizes)} figures, median {middle:.1%}, worst {sizes[-1]:.1%}")
