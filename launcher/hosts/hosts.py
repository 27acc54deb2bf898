"""A job on many hosts: what the options say, and starting the other hosts' agents over ssh.

Over ssh the launcher does what a person would do by hand: it starts `ringlet run --nnodes N
--node-rank K --master ...` on every host. The job's key and the variables go through ssh's
standard input, never through a command line; an agent whose standard input ends ends with all
its workers, so that none outlives the connection.
"""

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.addresses import bracketed
from ringlet.comm.join.environment import INSECURE, check_network
from ringlet.comm.join.key import KEY, KEY_FILE, JobKey, find_key
from ringlet.launcher.commands.options.common import check_encrypt
from ringlet.launcher.commands.options.hosts import HostOptions
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.addresses import host_of, is_own, own_address, resolve, resolve_host
from ringlet.launcher.hosts.plan import Place
from ringlet.launcher.supervisor.output import Lines, Screen
from ringlet.launcher.supervisor.restarts import LISTENING

SSH_VARIABLE = "RINGLET_SSH"
"""A command in place of SSH: `ssh -p 2222 -i key`."""

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
PASSED_ON = ("RINGLET_", "OMP_", "OPENBLAS_", "MKL_", "PYTHON")


def apply_security(options: HostOptions) -> JobKey | None:
    """Put what the options say about keys into the environment; returns the job's key."""
    check_encrypt(options.encrypt)
    if options.key_file is not None:
        os.environ[KEY_FILE] = str(options.key_file)
        os.environ.pop(KEY, None)
    if options.insecure:
        os.environ[INSECURE] = "1"
    if options.encrypt is not None:
        os.environ["RINGLET_ENCRYPT"] = options.encrypt
    try:
        return find_key(os.environ)
    except AuthenticationError as error:
        raise UserError(str(error)) from error


def place_of(options: HostOptions, workers: int, restarts: int = 0) -> Place | None:
    """This host's place among several; None for a job of one host. Refuses what cannot be."""
    key = apply_security(options)
    least, most = options.range()
    if most == 1 and options.master is None:
        return None
    if options.master is None or options.node_rank is None:
        raise UserError(
            "several hosts need --master HOST:PORT, an address of host 0, and --node-rank: 0 on "
            "that host, 1, 2, ... on the others"
        )
    if not 0 <= options.node_rank < most:
        raise UserError(
            f"--node-rank is {options.node_rank}; with --nnodes {options.nnodes} it is a number "
            f"from 0 to {most - 1}"
        )
    master = resolve(options.master)
    if options.node_rank == 0 and not is_own(host_of(master)):
        raise UserError(
            f"{options.master} is not an address of this host: --node-rank 0 runs where --master is"
        )
    if master.endswith(":0") and not options.announce:
        raise UserError("--master needs a port that the other hosts can be told, not 0")
    address = own_address(master, options.interface, options.address)
    try:
        check_network([f"tcp://{master}", f"tcp://{bracketed(address)}"], key)
    except AuthenticationError as error:
        raise UserError(str(error)) from error
    return Place(
        options.node_rank,
        most,
        workers,
        address,
        master,
        key,
        started=options.announce,
        least=least,
        restarts=restarts,
    )


# -- over ssh ---------------------------------------------------------------------------------


def parse_hosts(text: str | None, file: Path | None, workers: int) -> list[tuple[str, int]]:
    """`a:2,b:4`, or a file with `a:2` or Open MPI's `a slots=2` on each line; (host, workers).

    A host without a number gets `workers`. Lines from # on are comments.
    """
    if text is not None and file is not None:
        raise UserError("--hosts and --hostfile both name the hosts: give one")
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the hostfile {file}: {error}") from error
        words = [line.partition("#")[0].replace(" slots=", ":").strip() for line in lines]
    else:
        words = [word.strip() for word in (text or "").split(",")]
    hosts = [_parse_host(word, workers) for word in words if word]
    if not hosts:
        raise UserError("no host is named; as in --hosts a:2,b:4")
    return hosts


def _parse_host(word: str, workers: int) -> tuple[str, int]:
    name, colon, count = word.partition(":")
    if "[" in word:  # an IPv6 address: [fd00::1]:2, me@[fd00::1]
        name, _, count = word.replace("[", "").partition("]")
        colon, count = count[:1], count[1:]
    # A name that begins with a dash would be an option of ssh.
    if not name or name.startswith("-") or any(c.isspace() for c in word):
        raise UserError(f"{word!r} is no host; as in a:2, or user@a:2")
    if colon and not (count.isdecimal() and len(count) < 10 and int(count)):
        raise UserError(f"{word!r}: the number of workers has to be a number from 1 up")
    return name, int(count) if colon else workers


def run_over_ssh(command: Sequence[str], options: HostOptions, workers: int) -> int:
    """Run `ringlet COMMAND...` (without the hosts' options) on all hosts, with so many workers on
    those for which no number is given; returns the exit code.

    The first host is host 0. Every host needs the same Python at the same place, and the folder
    in which this runs.
    """
    hosts = parse_hosts(options.hosts, options.hostfile, workers)
    if options.nnodes != "1" and options.range()[1] != len(hosts):
        raise UserError(f"--nnodes is {options.nnodes}, and {len(hosts)} hosts are named")
    key = apply_security(options)
    if key is None and not options.insecure and os.environ.get(INSECURE) != "1":
        key = JobKey.new()  # nobody else has to know it: ssh takes it to the hosts
    ssh = shlex.split(os.environ.get(SSH_VARIABLE, "")) or SSH
    return _Fleet(hosts, command, options, Screen(), ssh, key).run()


class _Fleet:
    """The agents of all hosts, each behind a pipe."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        command: Sequence[str],
        options: HostOptions,
        screen: Screen,
        ssh: Sequence[str],
        key: JobKey | None,
    ) -> None:
        self._hosts, self._command, self._options = hosts, command, options
        self._screen, self._ssh, self._key = screen, ssh, key
        self._agents: list[subprocess.Popen[bytes]] = []
        self._master = f"{bracketed(resolve_host(hosts[0][0].rpartition('@')[2]))}:0"
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []

    def run(self) -> int:
        """Start host 0's agent; when it says where it listens, the others; wait for all."""
        passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {n: signal.signal(n, lambda n, _: self._signals.append(n)) for n in passed_on}
        try:
            self._start(0)
            while self._selector.get_map():
                self._turn()
            return self._code()
        finally:
            for agent in self._agents:
                assert agent.stdin is not None
                with contextlib.suppress(OSError):
                    agent.stdin.close()  # it ends, with its workers
            for agent in self._agents:
                try:
                    agent.wait(5)
                except subprocess.TimeoutExpired:
                    agent.kill()
            self._selector.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, node: int) -> None:
        name, workers = self._hosts[node]
        words = [sys.executable, "-m", "ringlet.launcher.hosts.hosts", self._command[0]]
        least = self._options.range()[0] if ":" in self._options.nnodes else len(self._hosts)
        words += ["--nnodes", f"{least}:{len(self._hosts)}", "--node-rank", str(node)]
        words += ["--master", self._master, "--workers", str(workers)]
        if self._options.interface is not None:
            words += ["--interface", self._options.interface]
        words += self._command[1:]
        line = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(words)}"
        here = is_own(resolve_host(name.rpartition("@")[2]))
        agent = subprocess.Popen(
            ["sh", "-c", line] if here else [*self._ssh, "--", name, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is passed on below, once
        )
        self._agents.append(agent)
        self._say(agent, {"environment": self._environment(os.environ)})
        for stream, target in ((agent.stdout, sys.stdout), (agent.stderr, sys.stderr)):
            assert stream is not None
            lines = Lines(lambda text, target=target: self._line(text, target))  # type: ignore[misc]
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, lines)

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        passed = {k: v for k, v in variables.items() if k.startswith(PASSED_ON)}
        for own in (KEY_FILE, "RINGLET_HOST", "RINGLET_ADDRESS"):  # this host's alone
            passed.pop(own, None)
        return passed | ({} if self._key is None else {KEY: self._key.text})

    def _say(self, agent: "subprocess.Popen[bytes]", word: dict[str, object]) -> None:
        assert agent.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; its code will tell
            agent.stdin.write(json.dumps(word).encode() + b"\n")
            agent.stdin.flush()

    def _line(self, text: str, target: object) -> None:
        if text.startswith(LISTENING):
            self._master = text.removeprefix(LISTENING)
            for node in range(1, len(self._hosts)):
                self._start(node)
        else:
            self._screen.line(text, target)  # type: ignore[arg-type]

    def _turn(self) -> None:
        for key, _ in self._selector.select(0.2):
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, 1 << 16)
                key.data.feed(data)
                if not data:
                    key.data.flush()
                    self._selector.unregister(key.fileobj)
        while self._signals:
            number = self._signals.pop(0)
            for agent in self._agents:
                self._say(agent, {"signal": number})

    def _code(self) -> int:
        """Host 0's, which the others share, unless it was lost: then the first that failed on
        its own."""
        codes = [agent.wait() for agent in self._agents]
        if len(codes) < len(self._hosts):
            return codes[0] or ExitCode.FAILED
        for (name, _), code in zip(self._hosts, codes, strict=True):
            if code == 255:
                self._screen.line(f"ringlet: ssh to {name} failed", sys.stderr)
        if codes[0] == 0:
            return ExitCode.OK
        agreed = [code for code in codes if code not in (0, 255)]
        if agreed:
            return ExitCode.SIGNAL - agreed[0] if agreed[0] < 0 else agreed[0]
        return ExitCode.PEER_LOST if any(codes) else ExitCode.OK


def _obey(words: IO[bytes]) -> None:
    """In an agent that ssh started: signals come as lines; at the end of the lines it ends."""
    for line in words:
        os.kill(os.getpid(), int(json.loads(line)["signal"]))
    os.kill(os.getpid(), signal.SIGKILL)  # the workers' guards see it, and end too


def main() -> None:
    """An agent that another host's launcher started."""
    words = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - to the end
    os.environ.update(json.loads(words.readline())["environment"])
    threading.Thread(target=_obey, args=[words], name="ringlet-obey", daemon=True).start()
    from ringlet.launcher import cli

    cli.main([*sys.argv[1:2], "--announce", *sys.argv[2:]])


if __name__ == "__main__":
    main()
