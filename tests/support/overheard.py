"""What arrives at a rank, as somebody on the network sees it."""

import contextlib


@contextlib.contextmanager
def overheard(world):
    """A list to which the frames of every message that arrives in the block are added, as bytes."""
    endpoint, messages = world._endpoint, []
    inbox, sockets = endpoint.inbox, endpoint.tcp
    accept, beside = inbox.accept, inbox.beside

    def listen(frames):
        messages.append([bytes(frame.buffer) for frame in frames])
        accept(frames)

    def listen_beside(head, payload, source):
        messages.append([head, bytes(payload)])
        endpoint._accept_carried(head, payload, source)

    inbox.accept = listen
    if beside is not None:
        inbox.beside = lambda seconds: sockets.read(listen_beside, seconds)
    for tcp in sockets.outboxes.values():
        tcp._find_sink = lambda *header: None  # all of a message is seen at once
    try:
        yield messages
    finally:
        inbox.accept, inbox.beside = accept, beside
        for tcp in sockets.outboxes.values():
            tcp._find_sink = endpoint._find_sink
