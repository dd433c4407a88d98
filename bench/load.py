"""A load of honest HTTP/1.1 clients, which record what a user sees while a server is being upgraded.

Nothing is retried and nothing is hidden: each request ends as exactly one `Record`, answered or not.

    with Load("127.0.0.1:8000", {"new": 4, "idle": 8}) as load:
        load.wait_for(100, gen="A")     # the load is running
        ...                             # upgrade the server
        load.wait_for(100, gen="B")
        report = load.stop()
    assert not report.failed, report.summary()

The clients:

    new      a connection for each request, Connection: close
    keep     one connection, a request about every 5 ms until the server says Connection: close
    idle     the same with 0.1-1.5 s of thinking between two requests, like the pool of a reverse proxy
    slow     a connection for each request, GET /slow?ms=N
    upload   a connection for each request, POST /upload, 256 KiB spread over N ms
    stream   a connection for each request, GET /stream?ms=N, an answer that takes N ms

The server says with X-Gen and X-Pid who answered. An answer is "ok" when it is whole and its status is 200.
Everything else is a failure:

    refused          nobody listens, or the queue of a unix socket is full (EAGAIN)
    unixgone         the unix socket's file is absent
    connect_timeout  connect() did not end in time
    connect_reset    connect() failed in another way
    tls              the handshake failed or did not end in time
    reset            a fresh connection was closed or reset before the first byte of the answer
    reuse_reset      a kept-alive connection was closed or reset after a request had been written on it
    truncated        the answer began and did not end
    malformed        what came is not an HTTP answer
    status_NNN       a whole head with a status other than 200
    timeout          no whole answer in time

A kept-alive connection that the server closed *before* the client wrote on it is no failure. A client looks
at its connection before it uses it again, as real ones do, and opens another one if it finds an EOF there.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

OK = "ok"

_KEPT_ALIVE = ("keep", "idle")
_TAKE_SLOW_MS = ("slow", "upload", "stream")
KINDS = ("new", *_KEPT_ALIVE, *_TAKE_SLOW_MS)

_DEFAULT_CLIENTS = {"new": 4, "keep": 4, "idle": 8, "slow": 4, "upload": 2, "stream": 2}
_UPLOAD = bytes(256 * 1024)
_UPLOAD_PIECES = 16
_READ_SIZE = 64 * 1024
_HEAD_LIMIT = 64 * 1024
_PAUSE = 0.005                  # s between two requests of one client
_PAUSE_AFTER_FAILURE = 0.02     # s, so that a dead server does not turn the load into a busy loop
_LOOKS = 5                      # turns of the loop from bytes of TLS to a closed connection: 4 in Python 3.10
_EXAMPLES = 5


# --- What happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """The end of one request. Times are `time.monotonic()` seconds."""

    kind: str
    opened: float           # just before connect(), of the connection that carried the request
    sent: float             # just before the first byte was written; `done` if it never connected
    done: float             # when the whole answer had come, or the request had failed
    gen: str                # X-Gen; "?" if the answer has none, "" if there was no answer
    fresh: bool             # first request on its connection
    outcome: str            # OK or a kind of failure
    detail: str = ""        # what was seen, for a failure
    pid: int = 0            # X-Pid; 0 if unknown
    idle: float = 0.0       # s from the previous answer on this connection to `sent`; 0.0 if fresh

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    @property
    def began(self) -> float:
        """When the user began to wait: for the connection if it is fresh, else for the answer."""
        return self.opened if self.fresh else self.sent


@dataclass(frozen=True, slots=True)
class Generation:
    """The ok answers of one generation. Times are `time.monotonic()` seconds."""

    name: str
    count: int
    first_done: float
    last_opened: float
    last_done: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` (sorted, ascending) that at least `percent` (0-100) of them do not exceed.

    Raises ValueError if there are no values, or for a percent out of range.
    """
    if not values:
        raise ValueError("no percentile of no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"not a percent: {percent!r}")
    rank = -int(-len(values) * percent // 100)      # rounded up
    return values[max(rank, 1) - 1]


class Report:
    """What a list of records says. Pure: it reads nothing but its records.

    `kinds` are the kinds of client that ran; they are taken from the records if not given.
    """

    percentile = staticmethod(percentile)

    def __init__(self, records: Iterable[Record], kinds: Iterable[str] = ()) -> None:
        self.records = tuple(records)
        named = {*kinds} or {record.kind for record in self.records}
        self.kinds = tuple(kind for kind in KINDS if kind in named)

    @property
    def failures(self) -> Counter[str]:
        """How often each "kind:outcome" other than ok was seen."""
        return Counter(f"{record.kind}:{record.outcome}" for record in self.records if not record.ok)

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(not record.ok for record in self.records)

    @property
    def generations(self) -> list[Generation]:
        """Who answered, in the order of their first ok answers."""
        answers: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.ok:
                answers[record.gen].append(record)
        generations = [
            Generation(
                name=name,
                count=len(records),
                first_done=min(record.done for record in records),
                last_opened=max(record.opened for record in records),
                last_done=max(record.done for record in records),
            )
            for name, records in answers.items()
        ]
        return sorted(generations, key=lambda generation: generation.first_done)

    @property
    def went_back(self) -> list[Record]:
        """The answers of an older generation on connections opened after a newer one had answered."""
        generations = self.generations
        closed_at = {old.name: new.first_done for old, new in itertools.pairwise(generations)}
        return [
            record for record in self.records
            if record.ok and record.gen in closed_at and record.opened > closed_at[record.gen]
        ]

    def overlapped(self, start: float, end: float) -> list[str]:
        """The kinds of client that had no ok request, in flight or completed, during [start, end].

        `start` and `end` are `time.monotonic()` seconds. Empty means that the load covered the time.
        """
        seen = {
            record.kind for record in self.records
            if record.ok and record.began <= end and record.done >= start
        }
        return [kind for kind in self.kinds if kind not in seen]

    def waits(self, kind: str, start: float | None = None, end: float | None = None) -> list[float]:
        """How long, in s and sorted, new connections waited for their first answer, connect() included.

        Of the ok ones of `kind`, opened not before `start` and not after `end` (`time.monotonic()`, s).
        """
        return sorted(
            record.done - record.opened for record in self.records
            if record.kind == kind and record.fresh and record.ok
            and (start is None or record.opened >= start) and (end is None or record.opened <= end)
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures of `summary()`, for a program. Times are s after "start", a `time.monotonic()`."""
        start = self._start()
        return {
            "start": start,
            "requests": len(self.records),
            "failed": self.failed,
            "failures": dict(self.failures),
            "examples": {name: [self._example(record, start) for record in records]
                         for name, records in self._examples().items()},
            "clients": {kind: self._figures(kind) for kind in self.kinds},
            "generations": [
                {
                    "name": generation.name,
                    "count": generation.count,
                    "first_done": generation.first_done - start,
                    "last_opened": generation.last_opened - start,
                    "last_done": generation.last_done - start,
                }
                for generation in self.generations
            ],
            "went_back": len(self.went_back),
        }

    def summary(self) -> str:
        """A text for people: the message of a failed test, the output of the command."""
        start = self._start()
        failed = Counter(record.kind for record in self.records if not record.ok)
        lines = [f"{len(self.records)} requests, {self.failed} failed (+s: after monotonic {start:.3f})"]
        for kind in self.kinds:
            figures = self._figures(kind)
            line = f"  {kind:<7}{figures['ok']:>8} ok {failed[kind]:>6} failed"
            if figures["ok"]:
                line += "   p50 {p50_ms:.1f}  p99 {p99_ms:.1f}  max {max_ms:.1f} ms".format_map(figures)
            lines.append(line)
        examples = self._examples()
        for name, count in self.failures.most_common():
            lines.append(f"  {name}: {count}")
            lines += [f"    {self._example(record, start)}" for record in examples[name]]
        for generation in self.generations:
            lines.append(
                f"  generation {generation.name}: {generation.count} ok, "
                f"first +{generation.first_done - start:.3f}, last +{generation.last_done - start:.3f}, "
                f"last connection opened +{generation.last_opened - start:.3f}"
            )
        went_back = self.went_back
        if went_back:
            lines.append(f"  went back to an older generation: {len(went_back)}")
            lines += [f"    {self._example(record, start)}" for record in went_back[:_EXAMPLES]]
        return "\n".join(lines)

    def _start(self) -> float:
        return min((record.opened for record in self.records), default=0.0)

    def _examples(self) -> dict[str, list[Record]]:
        examples: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            if not record.ok:
                few = examples[f"{record.kind}:{record.outcome}"]
                if len(few) < _EXAMPLES:
                    few.append(record)
        return dict(examples)

    @staticmethod
    def _example(record: Record, start: float) -> str:
        connection = "fresh" if record.fresh else f"idle for {record.idle:.3f}s"
        return (
            f"opened +{record.opened - start:.3f} ({connection}), sent +{record.sent - start:.3f}, "
            f"done +{record.done - start:.3f}, gen {record.gen or '-'}, pid {record.pid or '-'}"
            + (f": {record.detail}" if record.detail else "")
        )

    def _figures(self, kind: str) -> dict[str, float]:
        records = [record for record in self.records if record.ok and record.kind == kind]
        ms = sorted((record.done - record.began) * 1000 for record in records)
        if not ms:
            return {"ok": 0}
        return {"ok": len(ms), "p50_ms": percentile(ms, 50), "p99_ms": percentile(ms, 99), "max_ms": ms[-1]}


# --- One connection -----------------------------------------------------------------------------------------


class _Failed(Exception):
    """A request ended without an ok answer."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to connect, resolved once."""

    family: int
    address: Any
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, address: str, tls: bool) -> _Target:
        context = None
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if address.startswith("unix:"):
            return cls(socket.AF_UNIX, address.removeprefix("unix:"), context)
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"not HOST:PORT, [HOST]:PORT or unix:PATH: {address!r}")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, resolved = found[0]
        return cls(family, resolved, context)


@dataclass(frozen=True, slots=True)
class _Request:
    """The bytes of a request. The body, if any, is sent in pieces spread over `spread` s."""

    head: bytes
    pieces: tuple[memoryview, ...] = ()
    spread: float = 0.0

    @classmethod
    def of(cls, kind: str, slow_ms: int) -> _Request:
        paths = {"slow": f"/slow?ms={slow_ms}", "stream": f"/stream?ms={slow_ms}", "upload": "/upload"}
        path = paths.get(kind, "/")
        connection = "keep-alive" if kind in _KEPT_ALIVE else "close"
        head = f"{path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
        if kind != "upload":
            return cls(f"GET {head}\r\n".encode())
        size = len(_UPLOAD) // _UPLOAD_PIECES
        body = memoryview(_UPLOAD)
        return cls(
            f"POST {head}Content-Length: {len(_UPLOAD)}\r\n\r\n".encode(),
            tuple(body[start:start + size] for start in range(0, len(body), size)),
            slow_ms / 1000,
        )


def _connect_outcome(error: Exception) -> str:
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):     # two classes until Python 3.11
        return "connect_timeout"
    if isinstance(error, (ConnectionRefusedError, BlockingIOError)):
        return "refused"
    if isinstance(error, FileNotFoundError):
        return "unixgone"
    return "connect_reset"


class _Connection:
    """One connection to the server, and the answer that is being read from it."""

    def __init__(
        self,
        sock: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tls: bool,
        opened: float,
    ) -> None:
        self._sock = sock
        self._reader = reader
        self._writer = writer
        self._tls = tls
        self._buffer = bytearray()
        self._answered = False      # a byte of the present answer has come
        self._expired = False
        self.opened = opened
        self.fresh = True
        self.last_done = 0.0
        self.gen = ""
        self.pid = 0
        self.closes = False

    @classmethod
    async def open(cls, target: _Target, deadline: float) -> _Connection:
        """Connects, and shakes hands if it is TLS, until `deadline` (`time.monotonic()`). Raises _Failed."""
        opened = time.monotonic()
        try:
            sock = await cls._connect(target, deadline - opened)
        except (OSError, asyncio.TimeoutError) as error:
            raise _Failed(_connect_outcome(error), repr(error)) from error
        left = max(deadline - time.monotonic(), 0.001)
        try:
            if target.tls is None:
                reader, writer = await asyncio.open_connection(sock=sock)
            else:
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=target.tls, server_hostname="localhost", ssl_handshake_timeout=left)
        except OSError as error:        # and asyncio, whose the socket is by now, closes it
            raise _Failed("tls" if target.tls else "connect_reset", repr(error)) from error
        return cls(sock, reader, writer, target.tls is not None, opened)

    @staticmethod
    async def _connect(target: _Target, timeout: float) -> socket.socket:
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            if target.family == socket.AF_UNIX:
                # Ends at once. Not by the loop, which takes the EAGAIN of a full queue for "in progress", and
                # then for success: the request would seem to be reset.
                sock.connect(target.address)
            else:
                loop = asyncio.get_running_loop()
                await asyncio.wait_for(loop.sock_connect(sock, target.address), timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    async def was_closed(self) -> bool:
        """Whether the server has left this idle connection. Does not wait for it."""
        bytes_came = False
        for _ in range(_LOOKS):
            if self._reader.at_eof() or self._reader.exception() is not None or self._sock.fileno() < 0:
                return True
            try:
                if not self._sock.recv(1, socket.MSG_PEEK):
                    return True
                bytes_came = True
            except BlockingIOError:
                if not bytes_came:
                    return False
            except OSError:
                return True
            await asyncio.sleep(0)      # maybe the goodbye of TLS: let the loop read it, and look again
        return False

    async def exchange(self, request: _Request, deadline: float) -> None:
        """Sends the request and reads the whole answer until `deadline` (`time.monotonic()`). Raises _Failed.

        `gen` and `pid` are those of the answer's head, also if the request failed after it.
        """
        self._answered = False
        self.gen = ""
        self.pid = 0
        # The deadline ends the connection, not this task: no task per request, no race with a cancellation.
        timer = asyncio.get_running_loop().call_later(deadline - time.monotonic(), self._expire)
        try:
            self._writer.write(request.head)
            if request.pieces:
                await self._upload(request)
            else:
                await self._read_answer()
            if self._expired:
                raise EOFError
            if self._buffer:
                raise ValueError(f"{len(self._buffer)} bytes after the answer")
        except (OSError, EOFError) as error:
            raise _Failed(self._broken(), "given up" if self._expired else repr(error)) from error
        except ValueError as error:
            raise _Failed("malformed", str(error)) from error
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Closes the connection. Does not wait for the server."""
        self._writer.close()
        if self._tls:
            self._abort()       # our goodbye is sent; theirs is not waited for
        try:
            await self._writer.wait_closed()
        except OSError:
            pass                                # it was closed by the server

    def _expire(self) -> None:
        self._expired = True
        self._abort()

    def _abort(self) -> None:
        try:
            self._writer.transport.abort()
        except AttributeError:
            pass        # Python 3.11.2 says so of TLS that has ended

    def _broken(self) -> str:
        if self._expired:
            return "timeout"
        if self._answered:
            return "truncated"
        return "reset" if self.fresh else "reuse_reset"

    async def _upload(self, request: _Request) -> None:
        # The answer may come before the end of the body (an error, mostly), so both run at once.
        answer = asyncio.ensure_future(self._read_answer())
        try:
            for piece in request.pieces:
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.wait({answer}, timeout=request.spread / len(request.pieces))
                if answer.done():
                    break
        except OSError:
            pass            # the answer, or its absence, says what happened
        finally:
            await answer

    async def _read_answer(self) -> None:
        status = 100
        while status < 200:
            first, *lines = (await self._read_until(b"\r\n\r\n")).split(b"\r\n")
            version, _, rest = first.partition(b" ")
            if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
                raise ValueError(f"not an HTTP answer: {first[:80]!r}")
            status = int(rest[:3])
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        self.gen = sys.intern(headers.get(b"x-gen", b"?").decode("latin-1"))
        self.pid = int(headers.get(b"x-pid", 0))
        self.closes = headers.get(b"connection", b"").lower() == b"close" or version == b"HTTP/1.0"
        if status != 200:
            raise _Failed(f"status_{status}", first.decode("latin-1"))
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            await self._skip_chunks()
        elif b"content-length" in headers:
            await self._skip(int(headers[b"content-length"]))
        else:
            await self._skip_all()

    async def _skip_chunks(self) -> None:
        while size := int((await self._read_until(b"\r\n")).partition(b";")[0], 16):
            await self._skip(size)
            if await self._read_until(b"\r\n"):
                raise ValueError("a chunk longer than its size")
        while await self._read_until(b"\r\n"):
            pass            # trailers

    async def _skip(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a body of {size} bytes")
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer.clear()
            await self._read_more()
        del self._buffer[:size]

    async def _skip_all(self) -> None:
        try:
            while True:
                self._buffer.clear()
                await self._read_more()
        except EOFError:
            pass

    async def _read_until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise ValueError(f"no {end!r} in {_HEAD_LIMIT} bytes")
            await self._read_more()
        part = bytes(self._buffer[:at])
        del self._buffer[:at + len(end)]
        return part

    async def _read_more(self) -> None:
        data = await self._reader.read(_READ_SIZE)
        if not data:
            raise EOFError("closed by the server")
        self._answered = True
        self._buffer += data


# --- The clients --------------------------------------------------------------------------------------------


class _Client:
    """One client: a request, a pause, and so on until it is told to stop."""

    def __init__(
        self, kind: str, target: _Target, slow_ms: int, timeout: float, record: Callable[[Record], None]
    ) -> None:
        self._kind = kind
        self._target = target
        self._timeout = timeout
        self._record = record
        self._request = _Request.of(kind, slow_ms)
        self._connection: _Connection | None = None
        self._stopping = False
        self._pausing: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        while not self._stopping:
            record = await self._ask()
            self._record(record)
            if not self._stopping:
                await self._pause(record)
        await self._hang_up()

    def stop(self) -> None:
        """Makes this request the last; ends a pause at once. Called in the loop."""
        self._stopping = True
        if self._pausing is not None:
            self._pausing.cancel()

    async def _pause(self, record: Record) -> None:
        if not record.ok:
            seconds = _PAUSE_AFTER_FAILURE
        elif self._kind == "idle":
            seconds = random.uniform(0.1, 1.5)
        else:
            seconds = _PAUSE
        self._pausing = asyncio.current_task()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._pausing = None

    async def _ask(self) -> Record:
        began = time.monotonic()
        deadline = began + self._timeout
        try:
            connection = await self._connected(deadline)
        except _Failed as failed:
            done = time.monotonic()
            return Record(self._kind, began, done, done, "", True, failed.outcome, failed.detail)
        outcome, detail = OK, ""
        fresh = connection.fresh
        sent = time.monotonic()
        idle = 0.0 if fresh else sent - connection.last_done
        try:
            await connection.exchange(self._request, deadline)
        except _Failed as failed:
            outcome, detail = failed.outcome, failed.detail
        done = connection.last_done = time.monotonic()
        connection.fresh = False
        if outcome != OK or connection.closes or self._kind not in _KEPT_ALIVE:
            await self._hang_up()
        return Record(
            self._kind, connection.opened, sent, done, connection.gen, fresh, outcome, detail,
            pid=connection.pid, idle=idle,
        )

    async def _connected(self, deadline: float) -> _Connection:
        if self._connection is not None and await self._connection.was_closed():
            await self._hang_up()
        if self._connection is None:
            self._connection = await _Connection.open(self._target, deadline)
        return self._connection

    async def _hang_up(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


@dataclass(slots=True)
class _Waiter:
    left: int
    gen: str | None
    outcome: str


class Load:
    """The clients, in a thread and an event loop of their own.

    `address` is "127.0.0.1:8000", "[::1]:8000" or "unix:/path"; with `tls` it is spoken to in TLS, and its
    certificate is not verified. `clients` is how many of each kind. `slow_ms` is the N of those that take N
    ms. Each request, connect() included, fails after `timeout` s.

    Raises ValueError for an address, a kind or a number that makes no sense. Any thread may call its methods.
    """

    def __init__(
        self,
        address: str,
        clients: Mapping[str, int] | None = None,
        slow_ms: int = 1500,
        tls: bool = False,
        timeout: float = 20.0,
    ) -> None:
        counts = dict(_DEFAULT_CLIENTS if clients is None else clients)
        unknown = counts.keys() - set(KINDS)
        if unknown:
            raise ValueError(f"no such kind of client: {', '.join(sorted(unknown))} (of {', '.join(KINDS)})")
        if not counts or min(counts.values()) < 1:
            raise ValueError(f"not a positive number of clients of each kind: {counts}")
        if timeout <= 0 or slow_ms < 0:
            raise ValueError(f"timeout ({timeout}) must be positive, slow_ms ({slow_ms}) not negative")
        if slow_ms >= timeout * 1000 and not counts.keys().isdisjoint(_TAKE_SLOW_MS):
            raise ValueError(f"requests of slow_ms ({slow_ms}) cannot end within timeout ({timeout} s)")
        target = _Target.parse(address, tls)
        self.address = address
        self._timeout = timeout
        self._kinds = tuple(counts)
        self._clients = [
            _Client(kind, target, slow_ms, timeout, self._add)
            for kind, count in counts.items()
            for _ in range(count)
        ]
        self._records: list[Record] = []
        self._waiters: list[_Waiter] = []
        self._news = threading.Condition()      # guards all that both threads touch, below and above
        self._ended = False
        self._crash: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Starts the clients. Raises RuntimeError if it was called before."""
        if self._loop is not None:
            raise RuntimeError("a load starts once")
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def wait_for(self, n: int, gen: str | None = None, timeout: float = 10.0, *, outcome: str = OK) -> None:
        """Blocks until `n` more requests have ended with `outcome`, answered by `gen` if it is given.

        Raises TimeoutError after `timeout` s, with the summary so far; RuntimeError if the load does not run.
        """
        waiter = _Waiter(n, gen, outcome)
        with self._news:
            if self._loop is None:
                raise RuntimeError("the load was not started")
            self._waiters.append(waiter)
            try:
                self._news.wait_for(lambda: waiter.left <= 0 or self._ended, timeout)
            finally:
                self._waiters.remove(waiter)
            if waiter.left <= 0:
                return
            ended = self._ended
        whose = "" if gen is None else f" by generation {gen}"
        what = f"{n - waiter.left} of {n} requests {outcome}{whose}"
        if ended:
            raise RuntimeError(f"{what}: the load has ended\n{self.report().summary()}") from self._crash
        raise TimeoutError(f"{what} in {timeout}s\n{self.report().summary()}")

    def report(self) -> Report:
        """What happened until now."""
        with self._news:
            return Report(self._records, self._kinds)

    def stop(self) -> Report:
        """Begins no more requests, waits for those in flight, and returns what happened. May be called again.

        They end within the `timeout` of a request. Raises RuntimeError if they did not, if the load was not
        started, or if it broke (from the exception that broke it).
        """
        if self._loop is None:
            raise RuntimeError("the load was not started")
        with self._news:
            if not self._ended:
                self._loop.call_soon_threadsafe(self._stop_clients)
        self._thread.join(self._timeout + 5)
        report = self.report()
        if self._thread.is_alive():
            raise RuntimeError(f"not stopped within the timeout ({self._timeout}s)\n{report.summary()}")
        if self._crash is not None:
            raise RuntimeError(f"the load broke\n{report.summary()}") from self._crash
        return report

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # In the loop's thread.

    def _run(self) -> None:
        assert self._loop is not None
        try:
            self._loop.run_until_complete(self._run_clients())
        except BaseException as error:
            self._crash = error
        finally:
            with self._news:
                self._ended = True
                self._loop.close()
                self._news.notify_all()

    async def _run_clients(self) -> None:
        tasks = [asyncio.ensure_future(client.run()) for client in self._clients]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    def _stop_clients(self) -> None:
        for client in self._clients:
            client.stop()

    def _add(self, record: Record) -> None:
        with self._news:
            self._records.append(record)
            for waiter in self._waiters:
                if record.outcome == waiter.outcome and waiter.gen in (None, record.gen):
                    waiter.left -= 1
                    if waiter.left == 0:
                        self._news.notify_all()


# --- The command --------------------------------------------------------------------------------------------


def parse_clients(text: str) -> dict[str, int]:
    """{"new": 4, "keep": 8} of "new:4,keep:8". Raises ValueError."""
    clients = {}
    for part in text.split(","):
        kind, _, count = part.partition(":")
        clients[kind.strip()] = int(count)
    return clients


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a load until its duration, SIGINT or SIGTERM. Returns the exit status: 1 if a request failed."""
    parser = argparse.ArgumentParser("python -m bench.load", description="A load of honest HTTP/1.1 clients.")
    parser.add_argument("--addr", required=True, help="HOST:PORT, [HOST]:PORT or unix:PATH")
    parser.add_argument("--clients", type=parse_clients, metavar="KIND:N,...", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds; until interrupted if not given")
    parser.add_argument("--slow-ms", type=int, default=1500, metavar="MS", help="of slow, upload and stream")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="S", help="of one request")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(argv)
    try:
        load = Load(options.addr, options.clients, options.slow_ms, options.tls, options.timeout)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with load:
            try:
                threading.Event().wait(options.duration)
            except KeyboardInterrupt:
                pass
            report = load.stop()
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(report.summary())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report.as_dict(), file, indent=1)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
