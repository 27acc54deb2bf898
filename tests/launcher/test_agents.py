"""Agents that meet, tell what fails and agree, in this process; and what options cannot mean."""

import contextlib
import re
import threading
import time

import pytest

from ringlet.comm import AuthenticationError
from ringlet.comm.join import meeting as meeting_socket
from ringlet.comm.join.addresses import free_port
from ringlet.comm.join.key import JobKey
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts import coordinator, node_agent
from ringlet.launcher.hosts.addresses import is_own, resolve
from ringlet.launcher.hosts.coordinator import Coordinator
from ringlet.launcher.hosts.hostfile import parse_hosts
from ringlet.launcher.hosts.node import NodeSpec, node_spec
from ringlet.launcher.hosts.node_agent import NodeAgent
from ringlet.launcher.hosts.notices import Assignment
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.placed import PlacedOptions
from ringlet.launcher.supervisor.failure import Failure, first_cause
from ringlet.launcher.supervisor.options import WorkerOptions


def agent_of(
    node, nodes=2, master="127.0.0.1:0", key=None, workers=2, restarts=0, least=None, silence=4.5,
    placed=None,
):  # fmt: skip
    spec = NodeSpec(
        node,
        nodes,
        "127.0.0.1",
        master,
        key,
        least or nodes,
        silence,
        placed=placed or PlacedOptions(),
    )
    return (NodeAgent if node else Coordinator)(spec, workers, WorkerOptions(max_restarts=restarts))


def assign(hosts):
    if sum(host.workers for host in hosts) > 8:
        raise UserError("at most 8 workers would fit")
    return Assignment(hosts, "job", "tcp://127.0.0.1:29500", task="sum")


def meeting(agents, timeout=5.0):
    """Let the agents meet; what each got, or the error."""
    results = {}

    def meet(agent):
        try:
            results[agent] = agent.meet(timeout, assign)
        except (UserError, AuthenticationError) as error:
            results[agent] = error

    threads = [threading.Thread(target=meet, args=[agent]) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[agent] for agent in agents]


@contextlib.contextmanager
def crew(*others, nodes=2, key=None, **more):
    """Agent 0, and others with these differences."""
    agents = [agent_of(0, nodes, key=key, **more)]
    try:
        agents += [
            agent_of(**{"node": 1, "nodes": nodes, "master": agents[0].address, "key": key} | o)
            for o in others
        ]
        yield agents
    finally:
        for agent in agents:
            agent.close(0)


def polled(agent, seconds=5.0, enough=lambda news: news):
    news, until = [], time.monotonic() + seconds
    while not enough(news) and time.monotonic() < until:
        news += agent.poll()
        time.sleep(0.01)
    return news


def test_agents_of_two_jobs_on_one_port_keep_apart(monkeypatch):
    monkeypatch.setattr(meeting_socket, "QUIET_S", 0.6)
    monkeypatch.setattr(meeting_socket, "TELL_EVERY_S", 0.1)
    port, key, agents = free_port(), JobKey.new(), []
    try:
        for workers, job in (1, "a"), (2, "b"):
            placed = PlacedOptions(job=job, spare=(free_port(),))
            of_job = {"key": key, "master": f"127.0.0.1:{port}", "placed": placed}
            agents += [agent_of(node, workers=workers, **of_job) for node in (0, 1)]
        # b's host 1 is the first to ask at a's port.
        assert [result.size for result in meeting(agents[::-1], 20.0)] == [4, 4, 2, 2]
    finally:
        for agent in agents:
            agent.close(0)


def test_agents_meet_tell_failures_and_agree():
    key = JobKey.new()
    with crew({"node": 2, "workers": 3}, {"node": 1}, nodes=3, key=key) as agents:
        found = meeting(agents)
        assert found[0] == found[1] == found[2]
        assert [list(found[0].ranks(node)) for node in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
        assert found[0].rendezvous == "tcp://127.0.0.1:29500"
        echo = Failure(3, "exited", 1, "PeerLost", echo=True, host="b")
        cause = Failure(5, "was killed", -9, host="c")
        agents[2].report(echo)
        assert polled(agents[0]) == polled(agents[1]) == [echo]
        agents[1].report(cause)
        assert polled(agents[0]) == polled(agents[2]) == [cause]
        end = Failure(2, "exited with code 0", 0, host="b")  # others may wait for it
        agents[1].report(end)
        assert polled(agents[0]) == polled(agents[2]) == [end]
        assert not agents[0].concluded()
        for agent in agents:
            agent.ended(leaving=False)
        polled(agents[0], enough=lambda _: agents[0].concluded())
        assert agents[0].outcome(137) == (cause, 137)
        for agent in agents[1:]:
            polled(agent, enough=lambda _: agent.concluded())  # noqa: B023
            assert agent.outcome(1) == (cause, 137)


MEETINGS = {
    "nobody came": ([], 2, "host 1 did not come to 127.0.0.1:"),
    "one did not come": ([{"node": 2}], 4, "hosts 1 and 3 did not come"),
    "another size": ([{"nodes": 3}], 2, "its --nnodes is 3, host 0's is 2"),
    "twice the same": ([{}, {"workers": 1}], 3, "is there already"),
    "too many": ([{"workers": 9}], 2, "at most 8 workers would fit"),
    "another key": ([{"key": JobKey.new()}], 2, "its job key differs from the listener's"),
}


@pytest.mark.parametrize("case", MEETINGS)
def test_hosts_that_do_not_meet_are_told_why(case):
    others, nodes, text = MEETINGS[case]
    with crew(*others, nodes=nodes, key=JobKey.new()) as agents:
        assert any(text in str(outcome) for outcome in meeting(agents, timeout=1.0))


def test_a_host_whose_ssh_has_failed_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(coordinator, "gone", {1})
    with crew(nodes=3) as agents:
        (outcome,) = meeting(agents, timeout=30.0)
        assert str(outcome) == "host 1 cannot come: what was started there over ssh has ended"
    with crew({"node": 2}, nodes=3, least=2) as agents:  # they can do without it
        assert [numbers(each) for each in meeting(agents, timeout=30.0)] == [[0, 2], [0, 2]]
        monkeypatch.setattr(node_agent, "gone", {0})
        (outcome,) = meeting(agents[1:], timeout=30.0)
        assert "host 0 cannot come: what was started" in str(outcome)


def test_an_agent_that_is_held_up_is_heard_and_one_that_ends_is_not():
    """The first does nothing at all meanwhile, as in a long import; the limit is an option."""
    with crew({}, silence=1.0) as agents:
        meeting(agents)
        assert polled(agents[0], 1.5) == []
        agents[1].close(0)
        news = polled(agents[0], 10.0)
        assert [failure.rank for failure in news] == [2, 3]
        assert "has not been heard for 1 s" in news[0].exit_reason
        agents.pop()


def numbers(assignment):
    return [host.node for host in assignment.hosts]


def test_an_elastic_job_starts_with_the_hosts_that_are_there(monkeypatch):
    """One of three; then that one is stopped, and another comes while the first runs alone."""
    monkeypatch.setattr(coordinator, "LAST_CALL_S", 0.2)
    with crew({"node": 2}, nodes=3, least=1) as agents:
        first, other = agents
        assert [numbers(each) for each in meeting(agents)] == [[0, 2], [0, 2]]
        assert list(first.assignment.ranks(2)) == [2, 3]
        other.ended(leaving=True)
        polled(first, enough=lambda _: first.concluded())
        assert first.host_left
        first.agree(True)
        assert numbers(first.meet(5.0, assign)) == [0]
        with member(first, nodes=3) as late:
            thread, found = joining(late)
            polled(first, 1.5)
            assert not found
            first.agree(True)
            assert numbers(first.meet(5.0, assign)) == [0, 1]
            thread.join(5)
            assert numbers(found[0]) == [0, 1]


def test_an_end_without_a_failure_is_no_cause():
    end, stopped = Failure(0, "exited", 0), Failure(1, "exited", ExitCode.STOPPED)
    echo = Failure(2, "exited", 1, echo=True)
    assert first_cause([end, stopped]) is None
    assert first_cause([end, echo]) is echo


def test_agents_that_start_again_wait_for_each_other():
    with crew({}, restarts=1) as agents:
        meeting(agents)
        failure = Failure(0, "was killed", -9, host="a")
        agents[0].report(failure)
        agents[1].ended(leaving=False)
        polled(agents[0], enough=lambda _: agents[0].concluded())
        agents[0].outcome(137)
        agents[0].agree(True)
        polled(agents[1], enough=lambda _: agents[1].concluded())
        assert agents[1].outcome(0) == (failure, 137)
        assert agents[1].agree(False)
        again = meeting(agents)
        assert numbers(again[0]) == numbers(again[1]) == [0, 1]
        assert not agents[0].concluded()  # what was said of the first start counts no more
        assert not agents[1].concluded()


def test_who_comes_too_late_is_told():
    with crew({}) as agents, member(agents[0]) as late:
        meeting(agents)
        thread, outcomes = joining(late)
        polled(agents[0], 1.0)
        thread.join(5)
        assert "does not restart when it fails" in str(outcomes[0])


@contextlib.contextmanager
def member(first, **more):
    agent = agent_of(1, master=first.address, **more)
    try:
        yield agent
    finally:
        agent.close(0)


def joining(agent):
    """Let it join on a thread; which ends with an outcome in the list."""
    outcomes = []

    def join():
        outcomes.extend(meeting([agent]))

    thread = threading.Thread(target=join)
    thread.start()
    return thread, outcomes


WRONG = {
    "no master": ({"nnodes": "2"}, "--master HOST:PORT"),
    "no rank": ({"nnodes": "2", "master": "127.0.0.1:1"}, "--node-rank"),
    "too high a rank": ({"nnodes": "2", "master": "127.0.0.1:1", "node_rank": 2}, "from 0 to 1"),
    "no range": ({"nnodes": "0:2"}, "--nnodes is '0:2'; it must be like 4 or 1:4"),
    "a range reversed": ({"nnodes": "3:2"}, "the fewest hosts come first"),
    "no port": ({"nnodes": "2", "master": "127.0.0.1", "node_rank": 0}, "HOST:PORT"),
    "port 0": ({"nnodes": "2", "master": "127.0.0.1:0", "node_rank": 0}, "needs a port"),
    "not here": (
        {"nnodes": "2", "master": "192.0.2.1:1", "node_rank": 0}, "not an address of this",
    ),
    "of one link": (
        {"nnodes": "2", "master": "[fe80::1]:1", "node_rank": 0}, "the same from everywhere",
    ),
    "no interface": (
        {"nnodes": "2", "master": "127.0.0.1:1", "node_rank": 0, "interface": "pigeon0"},
        "no interface 'pigeon0'; there are lo",
    ),
    "no address": (
        {"nnodes": "2", "master": "127.0.0.1:1", "node_rank": 1, "address": "here"}, "'here'",
    ),
    "no key with IPv6": (
        {"nnodes": "2", "master": "[::1]:1", "node_rank": 1, "address": "2001:db8::7"}, "key new",
    ),
    "no key": (
        {"nnodes": "2", "master": "127.0.0.1:1", "node_rank": 1, "address": "192.0.2.7"}, "key new",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_the_options_cannot_mean(case, monkeypatch):
    for name in ("RINGLET_KEY", "RINGLET_KEY_FILE", "RINGLET_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    options, text = WRONG[case]
    with pytest.raises(UserError, match=re.escape(text)):
        node_spec(HostOptions(**options))


@pytest.mark.parametrize(
    ("master", "text"),
    [("a:b", "it must be HOST:PORT"), ("nobody.invalid:1", "host 1: cannot find the host of")],
)
def test_in_a_pod_a_name_is_waited_for_unless_it_is_none(master, text, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("ringlet.launcher.hosts.node.FIND_S", 0.1)
    with pytest.raises(UserError, match=re.escape(text)):
        node_spec(HostOptions(nnodes="2", master=master, node_rank=1))


def test_addresses():
    assert resolve("127.0.0.1:29400") == "127.0.0.1:29400"
    assert resolve("localhost:1") == "127.0.0.1:1"
    assert resolve("[::1]:29400") == "[::1]:29400"
    assert resolve("[fd00::0:1]:29400") == "[fd00::1]:29400"
    assert is_own("127.0.0.1")
    assert is_own("::1")
    assert not is_own("192.0.2.1")
    spec = node_spec(HostOptions(nnodes="2", master="127.0.0.1:1", node_rank=1, interface="lo"))
    assert (spec.node, spec.address) == (1, "127.0.0.1")


def test_lists_of_hosts():
    assert parse_hosts("a:2,b", None, 4) == [("a", 2), ("b", 4)]
    assert parse_hosts("[fd00::1]:2,me@[fd00::2]", None, 4) == [("fd00::1", 2), ("me@fd00::2", 4)]
    assert parse_hosts("fd00::1,me@fd00::2", None, 4) == [("fd00::1", 4), ("me@fd00::2", 4)]
    for text in ("", "a:0", "a:x", ":2", "a b", "-oProxyCommand=x", "a:1234567890", "^a"):
        with pytest.raises(UserError):
            parse_hosts(text, None, 1)


HOSTFILES = {
    "ours": ("a:2\nme@b:3\n\nc\n", [("a", 2), ("me@b", 3), ("c", 7)]),
    "comments": ("# all\na slots=2 # big\nb // no\n/* c\nd */ e:3\n",
                 [("a", 2), ("b", 7), ("e", 3)]),
    "blanks and tabs": ("  a\tslots = 2 \n\tb\t slots= 3\r\n", [("a", 2), ("b", 3)]),
    "limits": ("a max_slots=8 slots=2\nb slots=1 max-slots=4\nc slots_max=9\n",
               [("a", 2), ("b", 1), ("c", 7)]),
    "other words": ("a cpu=2\nb count=3 cpu-max=4\n", [("a", 2), ("b", 3)]),
    "users": ("a slots=2 username=me\nyou@b\n", [("me@a", 2), ("you@b", 7)]),
    "addresses": ("10.0.0.1 slots=2\nfd00::1 slots=3\n[fd00::2]:4\n",
                  [("10.0.0.1", 2), ("fd00::1", 3), ("fd00::2", 4)]),
    "a line for each slot": ("a\nb\na\na\n", [("a", 3), ("b", 7)]),
    "byte order mark": ("\ufeffa slots=2\n", [("a", 2)]),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTFILES)
def test_hostfiles(case, tmp_path):
    text, expected = HOSTFILES[case]
    (tmp_path / "hosts").write_text(text, newline="")
    assert parse_hosts(None, tmp_path / "hosts", 7) == expected


BAD_HOSTFILES = {
    "no number": ("a\nb slots=many\n", "line 2: 'slots=many': the number of workers"),
    "no slots": ("a slots=0\n", "line 1: 'slots=0'"),
    "no value": ("a slots\n", "line 1: 'slots' is not known"),
    "two names": ("a b\n", "line 1: 'b' is not known"),
    "unknown": ("/* x\n */a port=22\n", "line 2: 'port=22' is not known; there are slots"),
    "excluded": ("^a\n", "'^a' is not a host"),
    "relative": ("+n0\n", "'+n0' is not a host"),
    "twice": ("a slots=2\nb\na slots=3\n", "a is there twice"),
    "nothing": ("# nobody\n", "no hosts are given"),
}


@pytest.mark.parametrize("case", BAD_HOSTFILES)
def test_a_bad_hostfile_is_told_with_its_line(case, tmp_path):
    text, message = BAD_HOSTFILES[case]
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        parse_hosts(None, tmp_path / "hosts", 7)


@pytest.mark.parametrize("data", [b"\xff\xfe", None])
def test_a_hostfile_that_cannot_be_read(data, tmp_path):
    if data:
        (tmp_path / "hosts").write_bytes(data)
    with pytest.raises(UserError, match="cannot read the hostfile"):
        parse_hosts(None, tmp_path / "hosts", 7)
