"""The agent for a job, on one host or on several."""

import os
from contextlib import closing

from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.node import node_spec
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.options import WorkerOptions

LISTENING = "RINGLET_LISTENING"
"""Holds how the line begins in which agent 0 tells the launcher that started it over ssh its
address. It is random, it comes before any worker is started, and no worker sees it: what users
print is never taken for it."""


def open_agent(hosts: HostOptions, workers: int, options: WorkerOptions) -> closing[Agent]:
    """This host's agent, which speaks with those of the job's other hosts, if there are any.
    Makes the folder for the workers' output. Raises UserError for options that are not possible."""
    if options.transport == "mpi" and workers != 1:
        raise UserError(
            f"-n {workers}: with --transport mpi each process that mpirun starts has one worker; "
            "mpirun's own -n says how many there are"
        )
    options.make_folder()
    listening = os.environ.pop(LISTENING, "")
    spec = node_spec(hosts)
    if spec is None:
        return closing(Agent(workers, options))
    # Imported here, since most jobs run on one host.
    from ringlet.launcher.hosts.coordinator import Coordinator
    from ringlet.launcher.hosts.node_agent import NodeAgent

    if spec.node:
        return closing(NodeAgent(spec, workers, options))
    agent = Coordinator(spec, workers, options)
    if spec.over_ssh:
        print(f"{listening}{agent.address}", flush=True)
    return closing(agent)
