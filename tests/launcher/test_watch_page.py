"""The page of `ringlet watch --http`: who gets it, and what its readers are told."""

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import threading
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from waiting import until

pytest.importorskip("h11", reason="no h11 here: pip install 'ringlet[watch]'")

from ringlet.launcher.commands.watch.curve import Point
from ringlet.launcher.commands.watch.follow import Reading
from ringlet.launcher.commands.watch.server import MOST, Server, listen
from ringlet.launcher.commands.watch.watched import View


class Shown:
    """Stands in for what is watched: `figure` is what there is to see."""

    def __init__(self):
        self.figure, self.over = "1", False

    def look(self):
        loss = Point(1, 3.0, 4.0, 5.0), Point(3, 2.0, 2.0, 2.0)
        read = Reading({"step": 3}, loss, behind=False)
        figures = (("loss", self.figure),)
        says = "done" if self.over else "step 3"
        return View("a run", "ringlet train", says, says, read, figures, (), (), (), self.over)


class Page:
    """A server on a thread of its own."""

    def __init__(self, port=0, token=None):
        self.shown, self.told, ready = Shown(), [], threading.Event()
        self.server = Server(self.shown, self.told.append)
        self.server.token = token or self.server.token
        self.listener = listen(port)
        self.port = self.listener.getsockname()[1]
        self.path = urlsplit(self.server.address(self.port)).path

        async def serve():
            self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
            ready.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self.server.serve(self.listener)

        self.thread = threading.Thread(target=asyncio.run, args=(serve(),))
        self.thread.start()
        assert ready.wait(10)

    def close(self):
        if not self.thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.listener.close()

    def ask(self, path=None, method="GET", **headers):
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, self.path if path is None else path, headers=given)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def follow(self, buffer=None):
        """A connection that has asked for the events."""
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(f"GET {self.path}events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.watch.server.EVERY_S", 0.05)
    monkeypatch.setattr("ringlet.launcher.commands.watch.server.BEAT_S", 0.1)
    page = Page()
    yield page
    page.close()


def test_the_page_and_its_parts(page):
    for name, kind, part in (
        ("", "text/html", b"<main>"),
        ("page.css", "text/css", b"prefers-color-scheme"),
        ("page.js", "text/javascript", b"EventSource"),
    ):
        status, headers, body = page.ask(page.path + name)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert part in body
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert b"http://" not in body.replace(
            b"http://www.w3.org/2000/svg", b""
        )  # asks nobody else
        assert b"https://" not in body


def test_only_who_knows_the_token_gets_anything(page):
    token = page.path.strip("/")
    assert len(token) >= 32
    for path in ("/", "/events", "/page.css", f"/{token[:-1]}/", f"/{token}x/", "//", "*",
                 f"/{token[:-1]}%C3%A9/events", f"/?{token}", f"/{token.swapcase()}/"):  # fmt: skip
        status, _, body = page.ask(path)
        assert status == 403, path
        assert token.encode() not in body
    assert page.ask(f"/{token}")[:1] == (308,)
    assert page.ask(f"/{token}/../etc/passwd")[0] == 404
    assert page.ask(f"/{token}/page.html")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert page.ask(method=method)[0] == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),  # a tunnel of ssh has another port
        ("127.0.0.1:9", 200),
        ("rebound.example", 403),
        ("127.0.0.1.rebound.example", 403),
        ("localhost.rebound.example:80", 403),
        ("", 403),
    ],
)
def test_another_name_that_leads_here_is_refused(page, host, status):
    assert page.ask(Host=host)[0] == status


@pytest.mark.parametrize(
    "data", [b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 50_000, b""]
)
def test_what_is_no_request_is_refused(page, data):
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(1 << 16)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert page.ask()[0] == 200


def events(connection):
    """The data of each event that comes."""
    buffer = b""
    while more := connection.recv(1 << 16):
        buffer += more
        while b"\ndata: " in buffer and b"\n\n" in buffer.partition(b"\ndata: ")[2]:
            event, _, buffer = buffer.partition(b"\ndata: ")[2].partition(b"\n\n")
            yield json.loads(event)


def test_a_reader_gets_all_at_once_and_then_what_changes(page):
    with page.follow() as connection:
        coming = events(connection)
        first = next(coming)
        assert first["name"] == "a run"
        assert first["figures"] == [["loss", "1"]]
        page.shown.figure = "2"
        assert comes(coming, "2")
    with page.follow() as connection:  # who comes back has missed nothing
        assert next(events(connection))["figures"] == [["loss", "2"]]


def test_the_end_is_told_once_and_the_page_stays(page):
    page.shown.over = True
    assert until(lambda: page.told)
    with page.follow() as connection:
        assert next(events(connection))["over"]
    assert len(page.told) == 1


def comes(coming, figure):
    """Whether an event says so, sooner or later."""
    return any(event["figures"] == [["loss", figure]] for event in coming)


def test_who_does_not_read_is_dropped(page, monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.watch.server.REQUEST_S", 0.2)
    page.shown.figure = "x" * (8 << 20)  # more than the kernel keeps
    with page.follow(buffer=4096), page.follow(buffer=4096):
        assert until(lambda: page.server.readers == 2)
        assert until(lambda: page.server.readers == 0)


def test_fifty_readers(page):
    with ExitStack() as stack:
        coming = [events(stack.enter_context(page.follow())) for _ in range(50)]
        assert all(next(each)["name"] == "a run" for each in coming)
        page.shown.figure = "2"
        assert all(comes(each, "2") for each in coming)
        assert page.server.readers == 50
    assert until(lambda: page.server.readers == 0)


def test_more_readers_than_there_is_room_for(page, monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.watch.server.MOST", 2)
    assert MOST > 50
    with page.follow() as one, page.follow() as two:
        assert next(events(one))
        assert next(events(two))
        assert page.ask()[0] == 503
    page.shown.figure = "2"  # who has gone is noticed when there is something to tell
    assert until(lambda: page.ask()[0] == 200)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_in_a_browser(page):
    from browser import Browser

    with Browser() as browser, contextlib.ExitStack() as stack:
        view = browser.open(page.server.address(page.port))
        assert until(lambda: view.text("#figures") == "loss\n1")
        assert view.text("#link") == "live"
        page.shown.figure = "<b>2</b>"
        assert until(lambda: view.text("#figures") == "loss\n<b>2</b>")
        view.value("document.querySelector('#loss-at').focus()")
        view.press("ArrowLeft")
        assert view.text("#loss-read") == "step 1: loss 4 (3 to 5)"
        view.value("document.querySelector('#pause').focus()")
        view.press("Enter")
        page.shown.figure = "3"
        assert until(lambda: view.value("latest.figures[0][1]") == "3")
        assert view.text("#figures") == "loss\n<b>2</b>"
        view.press("Enter")
        assert view.text("#figures") == "loss\n3"
        for width in (380, 1400):
            view.show(width)
            assert view.value("document.documentElement.scrollWidth <= innerWidth")
        assert view.errors == []
        page.close()
        assert until(lambda: view.text("#link").startswith("the connection is lost"))
        again = Page(page.port, page.server.token)
        stack.callback(again.close)
        again.shown.figure = "4"
        assert until(lambda: (view.text("#link"), view.text("#figures")) == ("live", "loss\n4"))
