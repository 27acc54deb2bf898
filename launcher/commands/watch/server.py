"""`ringlet watch --http`: what is watched, as a page for many readers on this host.

h11 reads and writes HTTP; asyncio moves the bytes. One loop looks, once a second, and makes one
event of it for all: whoever is slow misses some, and who does not read at all is dropped. Each
event (server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html) says all
that there is, so that a reader who comes back has missed nothing.

The page shows what a run does to everybody who knows its address, which is secret: a random token
is a part of it. It binds the loopback only, and answers only requests to a name of the loopback,
since another name may be led here by whoever owns it (DNS rebinding).
"""

import asyncio
import contextlib
import errno
import json
import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import h11

from ringlet.launcher.commands.watch.watched import EVERY_S, Watched
from ringlet.launcher.errors import UserError

ADDRESS = "127.0.0.1"
NAMES = (b"127.0.0.1", b"localhost")

PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""path -> file, and its type."""

MOST = 256
"""Connections at a time; more are refused."""

LONGEST = 1 << 14
"""Bytes of a request."""

REQUEST_S = 10.0
"""So long a request may take to come, and an answer or an event to be read."""

BEAT_S = 15.0
"""After so long without news, a line shows both ends that the other is there."""

RETRY_MS = 1000
"""After so long a browser that has lost the connection tries again."""

HEADERS = [
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]


class Answer(NamedTuple):
    """A status, the body's type, the body, and more headers; `events` stands for all of them."""

    status: int
    kind: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    events: bool = False


def listen(port: int) -> socket.socket:
    """A socket on this port of the loopback; raises UserError."""
    hint = "choose another, or 0 for one that is free"
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"another program listens there; {hint}",
            errno.EACCES: f"it is for root alone; {hint}",
        }
        reason = reasons.get(error.errno or 0, error.strerror)
        raise UserError(f"--http {port}: {reason}") from error


class Server:
    """Serves the page of what is watched."""

    def __init__(self, watched: Watched, tell: Callable[[str], None]) -> None:
        self._watched, self._tell = watched, tell
        self.token = secrets.token_urlsafe(24)
        self._number, self._text, self._event = 0, "", b""
        self._news = asyncio.Event()
        self.readers, self._over = 0, False  # connections that are open

    def address(self, port: int) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{port}/{self.token}/"

    async def serve(self, listener: socket.socket) -> None:
        """Serve until this is cancelled."""
        self._accepting = await asyncio.start_server(self._connected, sock=listener, limit=LONGEST)
        while True:
            self._look()
            await asyncio.sleep(EVERY_S)

    def _look(self) -> None:
        view = self._watched.look()
        if view.over and not self._over:
            self._over = True
            self._tell(f"the run is over: {view.says}; the page stays until Ctrl-C")
        text = json.dumps(view.as_json(), allow_nan=False, separators=(",", ":"))
        if text != self._text:
            self._number, self._text = self._number + 1, text
            self._event = f"retry: {RETRY_MS}\nid: {self._number}\ndata: {text}\n\n".encode()
            self._news.set()
            self._news = asyncio.Event()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; then the connection ends."""
        self.readers += 1
        # Then `drain` waits until the kernel has all of it.
        writer.transport.set_write_buffer_limits(0)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST)
        try:
            answer = Answer(503, body=b"There are too many readers.\n")
            if self.readers <= MOST:
                answer = await self._answer(connection, reader)
            await _send(connection, writer, answer)
            if answer.events:
                await self._follow(connection, writer)
            writer.close()
        # It has gone, is too slow (TimeoutError), or all ends.
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.readers -= 1

    async def _answer(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Answer:
        try:
            async with asyncio.timeout(REQUEST_S):
                while (event := connection.next_event()) is h11.NEED_DATA:
                    connection.receive_data(await reader.read(LONGEST))
        except h11.RemoteProtocolError as error:
            return Answer(error.error_status_hint, body=b"This is no request.\n")
        if not isinstance(event, h11.Request):
            raise ConnectionResetError
        return self._found(event)

    def _found(self, request: h11.Request) -> Answer:
        """What there is for a request, if it may have it."""
        if request.method != b"GET":
            return Answer(405, headers=(("Allow", "GET"),))
        host = dict(request.headers).get(b"host", b"").partition(b":")[0].lower()
        parts = request.target.partition(b"?")[0].split(b"/", 2)
        _, token, name = [*parts, None, None][:3]
        known = secrets.compare_digest(token or b"", self.token.encode())
        if not known or host not in NAMES:
            text = "The address is the one that `ringlet watch` has shown, with all of its token.\n"
            return Answer(403, body=text.encode())
        if name is None:  # without the slash, from which the page's other parts are found
            return Answer(308, headers=(("Location", f"/{self.token}/"),))
        if name == b"events":
            return Answer(200, "text/event-stream", events=True)
        if name.decode("latin-1") not in PAGE:
            return Answer(404, body=b"There is no such page.\n")
        file, kind = PAGE[name.decode("latin-1")]
        return Answer(200, kind, files(__package__).joinpath("page", file).read_bytes())

    async def _follow(self, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
        """Events, the newest first, for as long as somebody reads them."""
        seen = 0
        while True:
            news = self._news
            part = self._event if seen != self._number else b":\n\n"
            seen = self._number
            await _write(writer, connection.send(h11.Data(data=part)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await news.wait()


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """The answer; of events, what comes before them."""
    headers = [*HEADERS, ("Content-Type", answer.kind), *answer.headers]
    if not answer.events:
        headers.append(("Content-Length", str(len(answer.body))))
    await _write(writer, connection.send(h11.Response(status_code=answer.status, headers=headers)))
    if answer.body:
        await _write(writer, connection.send(h11.Data(data=answer.body)))


async def _write(writer: asyncio.StreamWriter, data: bytes | None) -> None:
    """Wait until the kernel has the data; raises TimeoutError."""
    async with asyncio.timeout(REQUEST_S):
        writer.write(data or b"")
        await writer.drain()
