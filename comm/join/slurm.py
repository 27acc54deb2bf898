"""What the variables of a Slurm step say (srun(1), OUTPUT ENVIRONMENT), and what the controller
knows of its hosts.

Only a step's own variables count: those of the job are set in batch scripts, too, and are stale in
steps of another shape. Ranks need not be host by host (`srun -m cyclic`).
"""

import re
from collections.abc import Mapping

from ringlet.comm.errors import CommError
from ringlet.comm.join.addresses import is_loopback, local_address, resolve, tcp

MOST_DIGITS = 10

ANSWER_S = 20.0
"""How long the controller may take."""


def tasks_here(variables: Mapping[str, str]) -> str:
    """How many of the step's tasks are on this host; empty if it does not say."""
    text, node = variables.get("SLURM_STEP_TASKS_PER_NODE"), variables.get("SLURM_NODEID", "")
    if not text or not node.isdecimal():
        return ""
    before = 0
    for group in text.split(","):  # 2(x3),1 is 2,2,2,1
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", group.strip(), re.ASCII)
        if match is None:
            raise CommError(
                f"SLURM_STEP_TASKS_PER_NODE is {text!r}; it must be numbers as in 2(x3),1"
            )
        before += int(match[2] or 1)
        if int(node) < before:
            return match[1]
    raise CommError(f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE is {text!r}")


def tasks_of_job(variables: Mapping[str, str]) -> tuple[int, str]:
    """How many tasks the job has, 1 if it does not say, and what starts them. A heterogeneous job
    says it of each component."""
    group = "SLURM_NTASKS_HET_GROUP_"
    parts = [variables[name] for name in variables if name.startswith(group)]
    how = f"srun --het-group=0-{len(parts) - 1}" if parts else "srun"
    parts = parts or [variables.get("SLURM_NTASKS", "")]
    known = [int(text) for text in parts if text.isdecimal() and len(text) < MOST_DIGITS]
    return sum(known) or 1, how


def first_host(nodes: str) -> str:
    """The first name in a list as Slurm writes it: n[1-2,05-07],m is n1, and rack[2-3]n[07,9]x
    rack2n07x."""
    first = re.match(r"(?!-)(?:[^\[\],\s]|\[\d+[\d,-]*\])+", nodes.strip(), re.ASCII)
    if first is None or nodes.strip()[first.end() :][:1] not in ("", ","):
        raise CommError(f"SLURM_STEP_NODELIST: {nodes!r} is no list of hosts as in n[1-2,05-07]")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def first_address(variables: Mapping[str, str]) -> str:
    """Where rank 0's host is reached: its address as the controller knows it, else its name. It is
    not where srun runs (SLURM_LAUNCH_NODE_IPADDR)."""
    first = variables.get("SLURM_NODEID") == "0"
    if variables.get("SLURM_PROCID") == "0" and not first:
        raise CommError(
            "rank 0 is not on the step's first host (srun -m arbitrary): set MASTER_ADDR and "
            "MASTER_PORT to an address of its host"
        )
    name = first_host(variables.get("SLURM_STEP_NODELIST", ""))
    host = _known_address(name) or name
    try:
        address = resolve(tcp(host, 1))
        launcher = variables.get("SLURM_LAUNCH_NODE_IPADDR")
        if not is_loopback(address) or address == tcp(host, 1):
            return host
        if first and launcher:  # /etc/hosts gives this host's own name an address of the loopback
            return local_address(tcp(launcher, 1))
        reason = "is this host's loopback"
    except OSError as error:
        reason = f"has no address here ({error.strerror or error})"
    raise CommError(
        f"rank 0 is on {name}, and {host} {reason}: set MASTER_ADDR to an address of {name}"
    )


def _known_address(name: str) -> str:
    """The NodeAddr of a host; empty without scontrol, as in most containers."""
    import subprocess  # most ranks need none

    try:
        done = subprocess.run(
            ["scontrol", "--oneliner", "show", "node", name],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return found[1] if found and not done.returncode else ""
