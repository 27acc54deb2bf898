"""Starting a job on several hosts from one of them, over ssh.

The launcher does what a person would do by hand: it starts `ringlet run --nnodes N --node-rank K
--master ...` on every host. The job's key and the environment go through ssh's standard input,
never through a command line. An agent whose standard input ends kills its workers and itself, so
that none outlives the connection.
"""

import contextlib
import json
import math
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from ringlet.comm.join.addresses import bracketed
from ringlet.comm.join.environment import INSECURE
from ringlet.comm.join.key import KEY, KEY_FILE, JobKey
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.addresses import is_own, resolve_host
from ringlet.launcher.hosts.agents import LISTENING
from ringlet.launcher.hosts.hostfile import parse_hosts
from ringlet.launcher.hosts.node import apply_security
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.supervisor.output import Pipe, Screen
from ringlet.launcher.supervisor.signals import noted_signals

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
HELD_S = 0.02
"""How long to leave agents alone whose output nobody takes."""

LEAVE_S = 5.0
"""How long agents may take to end after the second signal, or once nothing is left to do."""

PASSED_ON = ("RINGLET_", "OMP_", "OPENBLAS_", "MKL_", "PYTHON")


class SshLauncher:
    """Runs `ringlet COMMAND...` on all hosts of the options, with `workers` on those for which no
    number is given. The agent of each is started through a pipe.

    The first host is host 0. Every host needs the same Python at the same path, and this working
    folder.
    """

    def __init__(self, command: Sequence[str], options: HostOptions, workers: int) -> None:
        hosts = parse_hosts(options.hosts, options.hostfile, workers)
        if options.master is not None or options.node_rank is not None:
            raise UserError("--hosts and --hostfile set --master and --node-rank: leave them out")
        if options.nnodes != "1" and options.range()[1] != len(hosts):
            raise UserError(f"--nnodes is {options.nnodes}, but {len(hosts)} hosts are named")
        self._hosts, self._command, self._options = hosts, command, options
        self._key = apply_security(options)
        if self._key is None and not options.insecure and os.environ.get(INSECURE) != "1":
            self._key = JobKey.new()  # ssh takes it to the hosts; nobody else needs it
        # RINGLET_SSH names a command to use instead: `ssh -p 2222 -i key`.
        self._ssh = shlex.split(os.environ.get("RINGLET_SSH", "")) or SSH
        self._screen = Screen()
        self._agents: list[subprocess.Popen[bytes]] = []
        self._gone: set[int] = set()
        self._listening = f"agent 0, {secrets.token_hex(16)}, listens at "
        self._master = f"{bracketed(resolve_host(hosts[0][0].rpartition('@')[2]))}:0"
        self._selector = selectors.DefaultSelector()
        self._signals: list[signal.Signals] = []
        self._told, self._patience = False, math.inf
        self._unsent: dict[int, bytearray] = {}

    def run(self) -> int:
        """Start host 0's agent, and the others once it says where it listens; wait for all.
        Returns the exit code."""
        with noted_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as self._signals:
            try:
                self._start(0)
                while self._selector.get_map() or any(each.poll() is None for each in self._agents):
                    self._read_output()
                    self._tell_who_is_gone()
                    self._pass_signals_on()
                    if time.monotonic() > self._patience:
                        return ExitCode.SIGNAL + signal.SIGKILL
                return self._code()
            finally:
                self._clean_up()

    def _read_output(self) -> None:
        """Pass on what the agents show, as fast as it is read here."""
        for key, _ in self._selector.select(0.2 if self._selector.get_map() else 0.02):
            if self._screen.full(key.data.target) and not self._told:
                time.sleep(HELD_S)
            elif key.data.read() == b"":
                self._selector.unregister(key.data)
                key.data.close()

    def _pass_signals_on(self) -> None:
        """Pass signals on to the agents, and, after the second, do not wait for them any more."""
        if self._screen.abandoned and not self._told:
            self._signals.append(signal.SIGTERM)
        while self._signals:
            number = self._signals.pop(0)
            self._screen.hurry()
            if self._told:
                self._patience = min(self._patience, time.monotonic() + LEAVE_S)
            self._told = True
            for agent in self._agents:
                self._send(agent, {"signal": number})
        for agent in self._agents:
            self._push(agent)

    def _tell_who_is_gone(self) -> None:
        """Tell the agents whose have failed: they need not wait for those that have not come."""
        for node, agent in enumerate(self._agents):
            if node not in self._gone and agent.poll():
                self._gone.add(node)
                for other in self._agents[1:] if node == 0 else self._agents[:1]:
                    self._send(other, {"gone": node})

    def _clean_up(self) -> None:
        for agent in self._agents:
            assert agent.stdin is not None
            with contextlib.suppress(OSError):
                agent.stdin.close()  # it ends, with its workers
        until = min(self._patience, time.monotonic() + LEAVE_S)
        for agent in self._agents:
            try:
                agent.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                agent.kill()
        for key in self._selector.get_map().values():
            key.data.close()
        self._selector.close()

    def _start(self, node: int) -> None:
        name, workers = self._hosts[node]
        words = [sys.executable, "-m", "ringlet.launcher.remote", self._command[0]]
        least = self._options.range()[0] if ":" in self._options.nnodes else len(self._hosts)
        words += ["--nnodes", f"{least}:{len(self._hosts)}", "--node-rank", str(node)]
        words += ["--master", self._master, "--workers", str(workers)]
        words += ["--host-timeout", str(self._options.host_timeout)]
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
            start_new_session=True,  # Ctrl-C comes once, from here
        )
        assert agent.stdin is not None
        os.set_blocking(agent.stdin.fileno(), False)
        self._agents.append(agent)
        self._unsent[agent.pid] = bytearray()
        # Without the variables that are about this host.
        own = (KEY_FILE, "RINGLET_HOST", "RINGLET_ADDRESS")
        found = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and k not in own}
        key = {} if self._key is None else {KEY: self._key.text}
        word = {} if node else {LISTENING: self._listening}
        self._send(agent, {"environment": found | key | word})
        for stream, target in ((agent.stdout, sys.stdout), (agent.stderr, sys.stderr)):
            pipe = Pipe(stream, target, partial(self._line, target))
            self._selector.register(pipe, selectors.EVENT_READ, pipe)

    def _send(self, agent: "subprocess.Popen[bytes]", notice: dict[str, object]) -> None:
        self._unsent[agent.pid] += json.dumps(notice).encode() + b"\n"
        self._push(agent)

    def _push(self, agent: "subprocess.Popen[bytes]") -> None:
        """Send what an agent takes now; it may be stopped, or its connection stuck."""
        assert agent.stdin is not None
        unsent = self._unsent[agent.pid]
        try:
            while unsent:
                del unsent[: os.write(agent.stdin.fileno(), unsent)]
        except BlockingIOError:
            return
        except OSError:  # it has ended: its exit code will tell
            unsent.clear()

    def _line(self, target: TextIO, text: str) -> None:
        _, found, address = text.partition(self._listening)  # behind what a login may print
        if found and len(self._agents) == 1:
            self._master = address
            for node in range(1, len(self._hosts)):
                self._start(node)
        else:
            self._screen.line(text, target)

    def _code(self) -> int:
        """Host 0's exit code, which the others share; if host 0 was lost, that of the first host
        that failed by itself."""
        codes = [agent.wait() for agent in self._agents]
        for (name, _), code in zip(self._hosts, codes, strict=False):
            if code == 255:
                self._screen.say(f"ssh to {name} failed")
        if len(codes) < len(self._hosts):
            return ExitCode.PEER_LOST if codes[0] == 255 else codes[0] or ExitCode.FAILED
        agreed = [code for code in codes if code not in (0, 255)]
        if codes[0] and agreed:
            return ExitCode.SIGNAL - agreed[0] if agreed[0] < 0 else agreed[0]
        return ExitCode.PEER_LOST if codes[0] else ExitCode.OK
