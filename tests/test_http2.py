"""HTTP/2 in an upgrade: GOAWAY, the streams under way finish, and nothing is lost by a client that keeps to RFC 9113.

Two kinds of client: `httpx`, which people use, and frames by hand, where the frames are what matters."""

from __future__ import annotations

import contextlib
import importlib.metadata
import signal
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from server import Certificate, Connection, Service, until, wait_gone

h2_config = pytest.importorskip("h2.config", reason="HTTP/2 needs h2: gunicorn_hot[test]")
h2_connection = pytest.importorskip("h2.connection")
h2_events = pytest.importorskip("h2.events")
httpx = pytest.importorskip("httpx", reason="a client for HTTP/2: gunicorn_hot[test]")

WORKERS = ["gthread", "gevent", "asgi"]
GUNICORN = tuple(int(part) for part in importlib.metadata.version("gunicorn").split(".")[:2])
NO_CLEARTEXT = "gunicorn speaks HTTP/2 in cleartext from 26 on"
TRANSPORTS = [
    "tls",
    pytest.param("cleartext", marks=pytest.mark.skipif(GUNICORN < (26, 0), reason=NO_CLEARTEXT)),
]

GOAWAY, RST_STREAM, HEADERS, DATA = 0x7, 0x3, 0x1, 0x0
REFUSED_STREAM = 0x7


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, service: Service) -> dict[str, str]:
    settings = {"http_protocols": "h2,h1"}
    if request.param == "cleartext":
        return {**settings, "http2_cleartext": "both"}
    certificate: Certificate = request.getfixturevalue("certificate")
    return {**settings, **service.use_tls(certificate)}


def http_client(service: Service) -> Any:
    return httpx.Client(
        http1=False, http2=True, verify=False, timeout=20,
        base_url=f"{'https' if service.tls else 'http'}://{service.address}",
    )


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    body: bytes


class FrameConnection(Connection):
    """An HTTP/2 connection whose frames can be looked at. Requests are made with h2; what comes is not given to it."""

    def connect(self) -> None:
        self._tls, tls = False, self._tls
        super().connect()
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock)
            assert self.sock.selected_alpn_protocol() == "h2"
        self._h2 = h2_connection.H2Connection(h2_config.H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._scheme = "https" if tls else "http"
        self._data = b""
        self._flush()

    def _flush(self) -> None:
        self.sock.sendall(self._h2.data_to_send())

    def open(self, path: str, body: bytes | None = None, ends: bool = True) -> int:
        """Open a stream; returns its number. `ends`: nothing follows what is given here."""
        number: int = self._h2.get_next_available_stream_id()
        headers = [(":authority", "localhost"), (":scheme", self._scheme), (":path", path)]
        method = "GET" if body is None else "POST"
        self._h2.send_headers(number, [(":method", method), *headers], end_stream=body is None)
        if body is not None:
            self.send_body(number, body, ends)
        self._flush()
        return number

    def send_body(self, number: int, body: bytes, ends: bool = True) -> None:
        self._h2.send_data(number, body, end_stream=ends)
        self._flush()

    def frames(self) -> Iterator[Frame]:
        """The frames that come, until the server closes the connection; SETTINGS and the like left out."""
        while True:
            while len(self._data) < 9 or len(self._data) < 9 + int.from_bytes(self._data[:3], "big"):
                piece = self.sock.recv(65536)
                if not piece:
                    assert not self._data
                    return
                self._data += piece
            length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + self._data[:9])
            body, self._data = self._data[9 : 9 + length], self._data[9 + length :]
            if kind in (GOAWAY, RST_STREAM, HEADERS, DATA):
                yield Frame(kind, flags, stream, body)


class UpgradedConnection(FrameConnection):
    """One that begins with HTTP/1.1, and asks for HTTP/2 (RFC 7540 3.2)."""

    def connect(self) -> None:
        Connection.connect(self)
        self._h2 = h2_connection.H2Connection(h2_config.H2Configuration(client_side=True))
        self._scheme = "http"
        self._data = b""

    def upgrade(self, path: str) -> None:
        """Make a request, which becomes stream 1."""
        settings = self._h2.initiate_upgrade_connection()
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            f"HTTP2-Settings: {settings.decode()}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self.sock.recv(1)
            assert piece, head
            head += piece
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._flush()


def last_stream(frame: Frame) -> tuple[int, int]:
    """Return what a GOAWAY says: the last stream, and the error."""
    assert frame.type == GOAWAY, frame
    last, error = struct.unpack_from(">II", frame.body)
    return last, error


def finish(service: Service, new: int, cut: int = 0) -> None:
    service.wait_log(f"Upgrade: done, .* {cut} requests cut")
    wait_gone(service.master)
    service.master = new


@pytest.mark.parametrize("worker", WORKERS)
def test_an_idle_connection_is_told_at_once(service: Service, worker: str, transport: dict[str, str]) -> None:
    # The keep-alive time is longer than anything here waits.
    service.configure(worker_class=worker, workers=1, keepalive=60, hot_probation=60, **transport)
    service.start()
    with FrameConnection(service.address, service.tls) as used:
        frames = used.frames()
        for _ in range(3):
            number = used.open("/")
            assert any(frame.stream == number and frame.flags & 1 for frame in frames)
        service.release("B")
        service.begin_upgrade()
        # Now, and not after the probation.
        assert last_stream(next(frames)) == (5, 0)
        # What crosses it is not processed.
        with contextlib.suppress(OSError):
            used.open("/hold?file=never")
            assert not list(frames)
        assert "never.held" not in [path.name for path in service.folder.iterdir()]


@pytest.mark.parametrize("worker", WORKERS)
def test_a_connection_without_a_stream_yet(service: Service, worker: str, transport: dict[str, str]) -> None:
    """The first one may be on its way: it is served, as on a fresh HTTP/1.1 connection; and that is bounded."""
    service.configure(worker_class=worker, workers=1, keepalive=3, hot_probation=0, **transport)
    service.start()
    address = service.address
    # The keep-alive time is for the drain, and not for a boot.
    service.release("B hold=boot")
    new = service.begin_upgrade()
    service.wait_file("boot.held", lines=1)
    with FrameConnection(address, service.tls) as late, FrameConnection(address, service.tls) as silent:
        # Accepted in order.
        assert service.ask().gen == "A"
        service.write("boot")
        service.wait_log("committed to successor")
        late.open("/hold?file=go")
        assert int(service.wait_file("go.held", lines=1)) not in service.workers(new)
        service.write("go")
        assert [frame.type for frame in late.frames() if frame.body] == [HEADERS, DATA, GOAWAY]
        assert [last_stream(frame) for frame in silent.frames()] == [(0, 0)]
        finish(service, new)


@pytest.mark.parametrize("worker", WORKERS)
def test_streams_under_way_finish(service: Service, worker: str, transport: dict[str, str]) -> None:
    # Until then gunicorn's asgi worker loses the end of an upload over HTTP/2, or never sees it.
    uploads = worker != "asgi" or GUNICORN >= (27, 0)
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=0, **transport)
    service.start()
    with FrameConnection(service.address, service.tls) as connection:
        first = connection.open("/hold?file=go")
        service.wait_file("go.held", lines=1)
        half = connection.open("/upload", b"01234", ends=False) if uploads else 0
        new = service.begin_drain()
        # The server cannot have said that it takes no more.
        late = connection.open("/hold?file=on")
        service.write("go")
        expected = {first: b"hello\n", late: b"hello\n", **({half: b"10\n"} if uploads else {})}
        got: dict[int, bytes] = {}
        ended, goaways = [], []
        for frame in connection.frames():
            if frame.type == GOAWAY:
                goaways.append(last_stream(frame))
                continue
            assert frame.type != RST_STREAM
            got[frame.stream] = got.get(frame.stream, b"") + (frame.body if frame.type == DATA else b"")
            if frame.flags & 1:
                ended.append(frame.stream)
                assert not goaways
            if first in ended:
                service.write("on")
                if half:
                    connection.send_body(half, b"56789")
                    half = 0
        assert sorted(ended) == sorted(expected)
        assert got == expected
        assert goaways == [(late, 0)]
    finish(service, new)
    with http_client(service) as client:
        assert client.get("/").headers["x-gen"] == "B"


@pytest.mark.skipif(GUNICORN < (26, 0), reason=NO_CLEARTEXT)
@pytest.mark.parametrize("worker", WORKERS)
def test_a_protocol_upgrade_before_the_pause_and_one_after_it(service: Service, worker: str) -> None:
    """Of a connection that was kept, from HTTP/1.1 to HTTP/2."""
    service.configure(
        worker_class=worker, workers=1, keepalive=20, hot_probation=0, http_protocols="h2,h1", http2_cleartext="upgrade"
    )
    service.start()
    with UpgradedConnection(service.address) as early, UpgradedConnection(service.address) as late:
        for connection in early, late:
            assert connection.ask().gen == "A"
        early.upgrade("/hold?file=early")
        service.wait_file("early.held", lines=1)
        new = service.begin_drain()
        # Received, and not yet refused.
        early.open("/")
        late.upgrade("/hold?file=late")
        assert int(service.wait_file("late.held", lines=1)) not in service.workers(new)
        for connection, name, last in (early, "early", 3), (late, "late", 1):
            service.write(name)
            *frames, goaway = connection.frames()
            assert last_stream(goaway) == (last, 0)
            for number in range(1, last + 1, 2):
                mine = [frame for frame in frames if frame.stream == number]
                assert b"".join(frame.body for frame in mine if frame.type == DATA) == b"hello\n"
                assert mine[-1].flags & 1
        finish(service, new)


@pytest.mark.parametrize("worker", WORKERS)
def test_httpx_notices_nothing(service: Service, worker: str, transport: dict[str, str]) -> None:
    """Idle, and in the middle of a slow answer; and then on the successor."""
    service.configure(worker_class=worker, workers=2, keepalive=20, hot_probation=0, **transport)
    service.start()
    with http_client(service) as idle, http_client(service) as busy:
        assert idle.get("/").headers["x-gen"] == "A"
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(busy.get("/hold?file=go")))
        thread.start()
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        # The commit does not wait until each old worker has told its connections.
        until(lambda: idle.get("/").headers["x-gen"] == "B", "an answer of the successor")
        service.write("go")
        thread.join()
        assert [(answer.status_code, answer.headers["x-gen"]) for answer in answers] == [(200, "A")]
        # A request that crosses the GOAWAY behind that answer is answered as well, by the old one.
        until(lambda: busy.get("/").headers["x-gen"] == "B", "an answer of the successor")
        finish(service, new)


@pytest.mark.parametrize("worker", WORKERS)
def test_after_a_rollback(service: Service, worker: str, transport: dict[str, str]) -> None:
    """A GOAWAY cannot be taken back: the client comes again, to the generation that has said it."""
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=20, **transport)
    service.start()
    with http_client(service) as client:
        before = client.get("/").headers["x-pid"]
        mark = service.mark()
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed", after=mark)
        for _ in range(2):
            assert client.get("/").headers["x-pid"] == before


@pytest.mark.parametrize("worker", WORKERS)
def test_what_is_cut_is_reported(service: Service, worker: str, transport: dict[str, str]) -> None:
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=1, hot_probation=0, **transport)
    service.start()
    with FrameConnection(service.address, service.tls) as connection:
        connection.open("/hold?file=go")
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        service.wait_log(r"Cut: GET /hold\?file=go after \d+\.\ds(?:, \d+ bytes sent(?: on its connection)?)? \(worker")
        finish(service, new, cut=1)


@pytest.mark.parametrize("worker", WORKERS)
def test_upgrades_under_httpx_load(service: Service, worker: str, transport: dict[str, str]) -> None:
    """Clients that never stop, over several upgrades; none of them retries anything but what httpx does by itself."""
    service.configure(worker_class=worker, workers=2, hot_probation=0, **transport)
    service.start()
    stop = threading.Event()
    seen: dict[str, int] = {}
    failures: list[str] = []

    def run() -> None:
        with http_client(service) as client:
            while not stop.is_set():
                try:
                    answer = client.get("/slow?ms=5")
                    answer.raise_for_status()
                except Exception as exc:
                    failures.append(repr(exc))
                    return
                seen[answer.headers["x-gen"]] = seen.get(answer.headers["x-gen"], 0) + 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: seen.get("A", 0) > 50, "answers of A")
        for release in "BCD":
            service.upgrade(release)
            until(lambda release=release: failures or seen.get(release, 0) > 50, f"answers of {release}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert sorted(seen) == list("ABCD")


@pytest.mark.parametrize("worker", WORKERS)
def test_idle_connections_take_no_threads(service: Service, worker: str, transport: dict[str, str]) -> None:
    # In gunicorn's gthread each has one: the ninth client would wait for the keep-alive time of the first.
    service.configure(worker_class=worker, workers=1, keepalive=60, **transport)
    service.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(http_client(service)) for _ in range(20)]
        for _ in range(2):
            for client in clients:
                assert client.get("/").status_code == 200
