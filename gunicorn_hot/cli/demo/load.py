"""The clients of the demo: threads that ask, wait, and write down what they saw. Nothing is retried or left out."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from types import TracebackType
from typing import NamedTuple

#: s; the longest that a client waits for anything.
PATIENCE = 20.0
OK = "ok"

#: What each kind of client asks for, how long it thinks in between (s), and whether it keeps its connection.
KINDS = {"new": ("/", 0.03, False), "kept": ("/", 0.03, True), "slow": ("/report", 0.05, False)}
#: s from the first client of a kind to the next: what is slow must not end all at once.
_STAGGER = {"new": 0.0, "kept": 0.0, "slow": 0.5}


class Record(NamedTuple):
    """One request, as its client saw it. Times are `time.monotonic()` seconds."""

    begun: float        # before connect(), or before the request on a kept connection
    ended: float        # the answer was whole, or the request had failed
    kind: str
    outcome: str        # OK, or what went wrong
    generation: str     # the release that answered; "" if none did


class _Client(threading.Thread):
    """One client, until it is told to stop: it then finishes the request that it has begun."""

    def __init__(self, kind: str, port: int, stop: threading.Event, begins: float) -> None:
        super().__init__(name=f"client-{kind}", daemon=True)
        self.kind = kind
        self.records: list[Record] = []
        self._path, self._thinking, self._keeps = KINDS[kind]
        self._port = port
        self._begins = begins
        self._stop_wanted = stop
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        if not self._stop_wanted.wait(self._begins):
            while not self._stop_wanted.wait(self._thinking):
                self.records.append(self._ask())
        self._hang_up()

    def _ask(self) -> Record:
        self._leave_if_left()
        begun = time.monotonic()
        outcome, generation = OK, ""
        try:
            if self._connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
                connection.auto_open = 0  # no second try behind our back
                self._connection = connection
                connection.connect()
            connection = self._connection
            connection.request("GET", self._path, headers={} if self._keeps else {"Connection": "close"})
            response = connection.getresponse()
            generation = response.getheader("X-Release", "")
            response.read()  # raises when it is not whole
            if response.status != 200:
                outcome = f"status {response.status}"
            if connection.sock is None:  # the server said Connection: close
                self._connection = None
        except (OSError, http.client.HTTPException) as exc:
            outcome = type(exc).__name__
        if outcome != OK or not self._keeps:
            self._hang_up()
        return Record(begun, time.monotonic(), self.kind, outcome, generation)

    def _leave_if_left(self) -> None:
        """Look, as every client should, whether the server has closed the connection while it was idle."""
        sock: socket.socket | None = self._connection.sock if self._connection is not None else None
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Load:
    """All clients, as a context manager. At its end each has finished its last request."""

    def __init__(self, port: int, clients: dict[str, int]) -> None:
        self._stop = threading.Event()
        self._clients = [
            _Client(kind, port, self._stop, index * _STAGGER[kind])
            for kind, count in clients.items() for index in range(count)
        ]

    @property
    def records(self) -> list[Record]:
        """What has ended so far, in the order of its end."""
        return sorted((record for client in self._clients for record in list(client.records)), key=lambda r: r.ended)

    def stop(self) -> list[Record]:
        """End all clients; returns all that they saw."""
        self._stop.set()
        for client in self._clients:
            if client.ident is not None:
                client.join()
        return self.records

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._stop.set()  # they are daemons, and nobody wants their records
