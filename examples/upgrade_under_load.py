#!/usr/bin/env python3
"""Upgrade an example under load, and tell what its clients saw.

    python examples/upgrade_under_load.py examples/flask

In a copy of that folder: `./deploy 1`, start `gunicorn -c hot.conf.py`, let clients ask without a pause, `./deploy 2`
and so on. A release named "broken" is expected not to deploy. Half of the clients open a connection for each request,
half keep theirs; they ask GET / and POST / in turn, and retry nothing. The header X-Gen of an answer says which release
has given it. The exit status is 1 if a request failed, if an older release answered a connection that was opened after
a newer one's first answer, if a deployment did not end as it should, or if the service itself has ended.

Needs gunicorn, gunicorn_hot and what the example needs; itself it is the standard library.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LONGEST_WAIT = 60.0  # s, for anything that should come
PAUSE = 0.005  # s, between two requests of a client
OVERLAP = 50  # answers of a release before the next one is deployed
TAIL = 30  # lines of the server's log, where it is quoted

#: What a run makes, and a copy must not begin with.
_MADE = shutil.ignore_patterns("RELEASE", "hot.pid", "current", "releases", "*.sqlite3*", "__pycache__")


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class Failed(Exception):
    """Something has not come to pass; the text says what, with the end of the server's log."""


# --- the server


class Output:
    """What processes write to a pipe, to its end: when the last one that can write has left."""

    def __init__(self, pipe: IO[str], verbose: bool = False) -> None:
        self._pipe = pipe
        self._verbose = verbose
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._pipe:
            if self._verbose:
                print(line, end="")
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def matching(self, pattern: str) -> list[str]:
        """Return the lines that match."""
        with self._news:
            return [line for line in self._lines if re.search(pattern, line)]

    def wait(self, pattern: str, count: int = 1) -> None:
        """Wait until so many lines match. Raises Failed if the output ends, or after LONGEST_WAIT."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self.matching(pattern)) >= count, LONGEST_WAIT)
            if len(self.matching(pattern)) < count:
                raise Failed(f"not written: {pattern}\n{self}")

    def wait_end(self) -> None:
        self._reader.join(LONGEST_WAIT)

    @property
    def ended(self) -> bool:
        return self._ended

    def __str__(self) -> str:
        with self._news:
            return "".join(["The last lines of the log:\n", *self._lines[-TAIL:]])


class Server:
    """A gunicorn in a folder, with its log on the standard error. Ends with the `with` block."""

    def __init__(self, folder: Path, *arguments: str, verbose: bool = False) -> None:
        self._pidfile = folder / "hot.pid"
        command = [sys.executable, "-m", "gunicorn", "-c", "hot.conf.py", *arguments]
        self._popen = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, errors="replace")
        assert self._popen.stderr is not None
        self.log = Output(self._popen.stderr, verbose)

    def wait_serving(self) -> None:
        """Wait until all workers serve: one that still boots would load what is deployed next."""
        command = ["gunicorn-hot", "watch", "--json", "--pid-file", str(self._pidfile)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            states = (json.loads(line).get("state") for line in watch.stdout)
            if not any(state == "serving" for state in states):
                raise Failed(f"the service does not serve\n{self.log}")
            watch.terminate()

    def upgrade(self) -> None:
        """Send SIGUSR2, and wait until the old generation has left. Raises Failed if the upgrade fails."""
        outcome, failure = r"Upgrade: done|Upgrade failed", "Upgrade failed"
        before, failed = len(self.log.matching(outcome)), len(self.log.matching(failure))
        self.signal(signal.SIGUSR2)
        self.log.wait(outcome, before + 1)
        if len(self.log.matching(failure)) > failed:
            raise Failed(f"the upgrade failed\n{self.log}")

    def signal(self, sig: signal.Signals) -> None:
        """Signal the master that has the service's pid."""
        os.kill(int(self._pidfile.read_text()), sig)

    def __enter__(self) -> Server:
        self.log.wait("Listening at")
        return self

    def __exit__(self, *_: object) -> None:
        if not self.log.ended:
            if self._pidfile.exists():
                self.signal(signal.SIGTERM)
            else:
                self._popen.terminate()
        self.log.wait_end()
        self._popen.wait(LONGEST_WAIT)


# --- the load


@dataclass(frozen=True)
class Answer:
    """The end of one request; `failure` is empty when it was answered with 200."""

    opened: float
    done: float
    release: str
    failure: str


class Load:
    """Clients in threads, from the beginning to the end of the `with` block. `log`: of the server that they ask."""

    def __init__(self, address: str, clients: int, log: Output) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._log = log
        self.answers: list[Answer] = []
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(clients)]

    def _run(self, keeps: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        method = "GET"
        while not self._stop.wait(PAUSE):
            if connection is None or _was_closed(connection):
                connection = http.client.HTTPConnection(self._host, self._port, timeout=LONGEST_WAIT)
                opened = time.monotonic()
            release = failure = ""
            closes = True
            try:
                connection.request(method, "/", headers={} if keeps else {"Connection": "close"})
                response = connection.getresponse()
                response.read()
                release = response.getheader("X-Gen", "?")
                closes = not keeps or response.will_close
                if response.status != 200:
                    failure = f"{response.status} {response.reason}"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
            if closes:
                connection.close()
                connection = None
            method = "POST" if method == "GET" else "GET"
            with self._news:
                self.answers.append(Answer(opened, time.monotonic(), release, failure))
                self._news.notify_all()
        if connection is not None:
            connection.close()

    def wait_for(self, count: int, release: str) -> None:
        """Wait for so many more answers of a release. Raises Failed if the server ends, or after LONGEST_WAIT."""
        with self._news:
            start = len(self.answers)

            def answered() -> bool:
                return sum(answer.release == release for answer in self.answers[start:]) >= count

            # Clients whom nobody answers any more are news, too.
            self._news.wait_for(lambda: answered() or self._log.ended, LONGEST_WAIT)
            if not answered():
                seen = sorted({answer.failure or f"release {answer.release}" for answer in self.answers[start:]})
                what = "the server has ended" if self._log.ended else f"release {release} does not answer: {seen[:3]}"
                raise Failed(f"{what}\n{self._log}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has ended this idle connection: a client looks before it uses it again."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def tell(answers: list[Answer]) -> bool:
    """Print what the clients saw; returns whether all was well."""
    start = min(answer.opened for answer in answers)
    releases: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.done):
        if not answer.failure:
            releases.setdefault(answer.release, []).append(answer)
    for name, given in releases.items():
        first, last = given[0].done - start, max(answer.opened for answer in given) - start
        print(f"release {name}: {len(given)} answers, the first at {first:.2f}s, "
              f"the last connection opened at {last:.2f}s")
    names = list(releases)
    went_back = sum(
        answer.opened > releases[newer][0].done
        for older, newer in itertools.pairwise(names) for answer in releases[older]
    )
    failures = [answer.failure for answer in answers if answer.failure]
    for failure in failures[:5]:
        print(f"failed: {failure}")
    print(f"{len(answers)} requests, {len(failures)} failed, {len(releases)} generations, "
          f"{went_back} answers of an older release after a newer one")
    return not failures and not went_back


# --- the story


def run(folder: Path, releases: list[str], clients: int, verbose: bool) -> bool:
    address = free_address()
    first, *others = releases
    subprocess.run(["./deploy", first], cwd=folder, check=True)
    with Server(folder, "--bind", address, verbose=verbose) as server:
        with Load(address, clients, server.log) as load:
            serving = first
            load.wait_for(OVERLAP, serving)
            server.wait_serving()
            fine = True
            for release in others:
                status = subprocess.run(["./deploy", release], cwd=folder, check=False).returncode
                print(f"./deploy {release}: exit status {status}")
                if status == 0:
                    serving = release
                fine = fine and (status == 0) == (release != "broken")
                load.wait_for(OVERLAP, serving)
        if not fine and not verbose:
            print(server.log)
    return tell(load.answers) and fine


def main() -> int:
    parser = argparse.ArgumentParser(description="Upgrade an example under load.")
    parser.add_argument("folder", type=Path, help="of the example, for instance examples/flask")
    parser.add_argument("--releases", nargs="+", default=["1", "2", "broken", "3"], metavar="NAME",
                        help="to deploy one after the other (default: 1 2 broken 3)")
    parser.add_argument("--clients", type=int, default=8, metavar="N")
    parser.add_argument("--verbose", action="store_true", help="show the server's log")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, options.folder.resolve().name)
        shutil.copytree(options.folder, folder, ignore=_MADE)
        try:
            return 0 if run(folder, options.releases, options.clients, options.verbose) else 1
        except Failed as exc:
            print(exc)
            return 1


if __name__ == "__main__":
    sys.exit(main())
