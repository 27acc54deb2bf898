"""The agent for a job, on one host or on several."""

from collections.abc import Iterator
from contextlib import contextmanager

from ringlet.launcher.hosts.node import NodeSpec
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.options import WorkerOptions

LISTENING = "ringlet-agent-0-listens-at "
"""Begins the line in which agent 0 tells the launcher that started it over ssh its address."""


@contextmanager
def open_agent(spec: NodeSpec | None, workers: int, options: WorkerOptions) -> Iterator[Agent]:
    """This host's agent, which speaks with those of the job's other hosts, if there are any."""
    agent = _network_agent(spec, workers, options) if spec else Agent(workers, options)
    try:
        yield agent
    finally:
        agent.close()


def _network_agent(spec: NodeSpec, workers: int, options: WorkerOptions) -> Agent:
    # Imported here, since most jobs run on one host.
    from ringlet.launcher.hosts.coordinator import Coordinator
    from ringlet.launcher.hosts.node_agent import NodeAgent

    if spec.node:
        return NodeAgent(spec, workers, options)
    agent = Coordinator(spec, workers, options)
    if spec.over_ssh:
        print(f"{LISTENING}{agent.address}", flush=True)
    return agent
