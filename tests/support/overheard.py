"""What arrives at a rank, as somebody on the network sees it."""

import contextlib


@contextlib.contextmanager
def overheard(world):
    """A list to which the frames of every message that arrives in the block are added, as bytes."""
    endpoint, messages = world._endpoint, []
    inbox, sockets = endpoint.inbox, endpoint.tcp
    accept, beside, heads = inbox.accept, inbox.beside, {}

    def listen(frames):
        messages.append([bytes(frame.buffer) for frame in frames])
        accept(frames)

    def begin(source, number, head, size):
        heads[source] = head
        head, seal, _ = endpoint._begin(source, number, head, size)
        return head, seal, None  # all of a message is seen at once

    def listen_beside(head, payload, source, seal):
        messages.append([heads[source], bytes(payload)])
        endpoint._accept_carried(head, payload, source, seal)

    inbox.accept = listen
    if beside is not None:
        inbox.beside = lambda seconds: sockets.read(listen_beside, seconds)
    for tcp in sockets.outboxes.values():
        tcp._begin = begin
    try:
        yield messages
    finally:
        inbox.accept, inbox.beside = accept, beside
        for tcp in sockets.outboxes.values():
            tcp._begin = endpoint._begin
