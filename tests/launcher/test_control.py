"""The channel between launcher and worker."""

import os
import socket
import threading

import pytest

from ringlet.launcher.supervisor.control import VARIABLE, Control

MESSAGES = [{"lost": 3, "cause": "killed, 日本"}, {}, {"row": {"loss": 1.5, "steps": [1, 2]}}]


@pytest.fixture
def ends():
    first, second = (Control(end) for end in socket.socketpair())
    yield first, second
    first.close()
    second.close()


def test_messages_arrive_in_order(ends):
    first, second = ends
    for message in MESSAGES:
        first.send(message)
        second.send(message)
    assert [second.receive() for _ in MESSAGES] == MESSAGES
    assert [first.receive() for _ in MESSAGES] == MESSAGES


def test_messages_may_come_byte_by_byte():
    ours, theirs = socket.socketpair()
    Control(theirs).send(MESSAGES[0])
    data = theirs.detach() and ours.recv(1 << 16)
    left, right = socket.socketpair()
    reader, received = Control(right), []
    with left:
        for byte in data:
            assert received == []
            left.sendall(bytes([byte]))
            assert reader.fill()
            received.extend(reader.notices())
    assert received == MESSAGES[:1]
    ours.close()
    reader.close()


def test_what_has_come_is_taken_without_waiting(ends):
    first, second = ends
    assert not second.fill(wait=False)
    for message in MESSAGES:
        first.send(message)
    assert second.fill(wait=False)
    assert list(second.notices()) == MESSAGES
    assert not second.fill(wait=False)


def test_a_message_may_be_longer_than_the_sockets_buffer(ends):
    first, second = ends
    message = {"failed": "x" * 5_000_000}
    sender = threading.Thread(target=first.send, args=[message])
    sender.start()
    assert second.receive() == message
    sender.join()


def test_what_nobody_takes_is_kept_without_waiting(ends):
    first, second = ends
    messages = [{"number": number, "text": "x" * 50_000} for number in range(20)]
    for message in messages:
        first.send(message, wait=False)
    received = []
    while len(received) < len(messages):
        assert second.fill()
        received.extend(second.notices())
        first.push()
    assert received == messages


def test_messages_of_many_threads_stay_whole(ends):
    first, second = ends
    message = {"text": "y" * 100_000}
    senders = [threading.Thread(target=first.send, args=[message]) for _ in range(8)]
    for sender in senders:
        sender.start()
    assert [second.receive() for _ in senders] == [message] * 8
    for sender in senders:
        sender.join()


def test_the_end_is_none_and_sending_to_it_is_no_error(ends):
    first, second = ends
    first.send(MESSAGES[0])
    first.close()
    assert second.receive() == MESSAGES[0]
    assert second.receive() is None
    second.send(MESSAGES[0])


def test_a_worker_takes_its_end_once_and_hands_it_to_nobody(monkeypatch):
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    monkeypatch.setenv(VARIABLE, str(theirs.detach()))
    control = Control.inherited()
    assert VARIABLE not in os.environ
    assert Control.inherited() is None
    assert not os.get_inheritable(control.fileno())
    Control(ours).send(MESSAGES[0])
    assert control.receive() == MESSAGES[0]
    control.close()
    ours.close()
