"""How ranks meet over MPI, which knows them: nobody has to be told where rank 0 is.

What has to be kept from strangers goes this way, too: rank 0 makes a key for the connections
between hosts, unless the user has set one. So the fabric itself has to be trusted.
"""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from ringlet.comm.errors import CommError, CommTimeout
from ringlet.comm.join.addresses import local_address, own_addresses, tcp
from ringlet.comm.join.environment import INSECURE, Environment
from ringlet.comm.join.key import KEY, KEY_BYTES, JobKey
from ringlet.comm.join.meeting import MissingLog, numbered
from ringlet.comm.join.rendezvous import Hello, check_hello, objection
from ringlet.comm.mpi.process import Process, naps, start

TAG = 29400
"""Of what ranks say when they meet, on the communicator of all."""


def settle(environment: Environment) -> Environment:
    """The environment with what MPI knows: who this is, if no launcher has said it; which ranks are
    on this host; and, if there are several hosts, a key, and where others reach this one.

    Raises CommError if MPI and the launcher do not agree.
    """
    process = start() if environment.alone else start(environment.rank, environment.size)
    rank, size = process.world.rank, process.world.size
    environment = replace(environment, rank=rank, size=size, alone=False)
    if size == 1:
        return environment
    addresses = [environment.address] if environment.address else own_addresses()
    secret = environment.key.text if environment.key else secrets.token_hex(KEY_BYTES)
    card = {"host": environment.host, "addresses": addresses, "key": secret}
    cards = exchange(process, card, environment.timeout, lambda: None)
    here = [other for other, each in enumerate(cards) if each["host"] == environment.host]
    environment = replace(environment, local_size=len(here))
    if len(here) == size:
        return environment
    if os.environ.get(INSECURE) != "1":
        environment = replace(environment, key=JobKey.parse(cards[0]["key"], KEY))
    if environment.address:
        return environment
    # An address that another host has, too, is of a network inside each.
    others = {
        text for each in cards if each["host"] != cards[0]["host"] for text in each["addresses"]
    }
    known = [text for text in cards[0]["addresses"] if text not in others]
    try:
        own = known[0] if 0 in here else local_address(tcp(known[0], 1))
    except (IndexError, OSError) as error:
        raise CommError(
            f"rank {rank}: no address of rank 0's host leads there ({cards[0]['addresses']}): set "
            "RINGLET_ADDRESS on each host, to its address that the others reach"
        ) from error
    return replace(environment, address=own)


def meet(hello: Hello, timeout: float, check: Callable[[], None]) -> list[Hello]:
    """Exchange hellos, as `rendezvous.meet` does."""
    process = start(hello["rank"], hello["size"])
    table = [check_hello(each) for each in exchange(process, hello, timeout, check)]
    for each in table[1:]:
        if reason := objection(each, {0: table[0]}):
            raise CommError(
                f"rank {hello['rank']}: rank {each['rank']} cannot join rank 0: {reason}"
            )
    return table


def exchange(
    process: Process, own: dict[str, Any], timeout: float, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """What each rank says, by rank. Raises CommTimeout with those that have not come in time."""
    world, kind = process.world, process.mpi.BYTE
    rank, data, until = world.rank, msgpack.packb(own), time.monotonic() + timeout
    said, log = {rank: own}, MissingLog("rank", f"rank {rank}", "MPI's communicator of all")
    with process.lock:
        sends = [world.Isend([data, kind], peer, TAG) for peer in range(world.size) if peer != rank]
    pause = naps()
    while True:
        with process.lock:
            missing = [peer for peer in range(world.size) if peer not in said]
            for peer in missing:
                status = process.mpi.Status()
                if (message := world.Improbe(peer, TAG, status)) is not None:
                    buffer = bytearray(status.Get_count(kind))
                    message.Recv([buffer, kind])
                    said[peer] = msgpack.unpackb(buffer)
            sends = [send for send in sends if not send.Test()]
        if not missing and not sends:
            return [said[peer] for peer in range(world.size)]
        check()
        log(missing)
        if time.monotonic() > until:
            raise CommTimeout(
                f"rank {rank}: {numbered('rank', missing)} did not come to meet over MPI within "
                f"{timeout:.0f} s", missing,
            )  # fmt: skip
        time.sleep(next(pause))
