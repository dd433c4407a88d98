#!/usr/bin/env python3
"""Upgrade gunicorn behind nginx, while ab asks nginx without a pause.

    python examples/nginx/under_load.py --worker gthread

In a temporary copy of this folder, on free ports. Prints what nginx answered, and by which releases. The exit status
is 1 if an answer was not 200, if nginx's error log has an error, or if an upgrade failed; and 77 without nginx or ab in
PATH.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from upgrade_under_load import LONGEST_WAIT, Failed, Output, Server, free_address  # noqa: E402 (it is in the folder above this one)

SKIPPED = 77
WORKERS = {"gthread": "wsgi:app", "gevent": "wsgi:app", "asgi": "asgi:app", "uvicorn_worker.UvicornWorker": "asgi:app"}


class Nginx:
    """nginx in a folder, in the foreground, and its logs. Ends with the `with` block."""

    def __init__(self, folder: Path, address: str, upstream: str) -> None:
        self._folder = folder
        configuration = (HERE / "nginx.conf").read_text()
        for before, after in (("127.0.0.1:8080", address), ("127.0.0.1:8000", upstream)):
            configuration = configuration.replace(before, after)
        configuration = configuration.replace("access_log access.log", f"access_log {folder}/access.log")
        paths = "".join(
            f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = configuration.replace("http {\n", f"http {{\n{paths}", 1)
        (folder / "nginx.conf").write_text(configuration)
        command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g",
                   f"daemon off; pid {folder}/nginx.pid; error_log stderr info;"]
        self._popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._popen.stderr is not None
        self._log = Output(self._popen.stderr)

    def answers(self) -> list[list[str]]:
        """Return status, release and the time to connect to gunicorn (s), for each request."""
        return [line.split() for line in (self._folder / "access.log").read_text().splitlines()]

    def errors(self) -> list[str]:
        return self._log.matching(r"\[(warn|error|crit|alert|emerg)\]")

    def __enter__(self) -> Nginx:
        self._log.wait("start worker process ")
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        self._popen.wait(LONGEST_WAIT)


def load(address: str, requests: int, clients: int) -> subprocess.Popen[str]:
    # -r: go on after an error, and count it.
    command = ["ab", "-q", "-r", "-n", str(requests), "-c", str(clients), f"http://{address}/"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ask(address: str) -> None:
    """Ask once, like one client more: each release has been asked for 0 to 1000 ms before the next one comes."""
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://{address}/", timeout=LONGEST_WAIT) as answer:
        answer.read()


def run(folder: Path, worker: str, upgrades: int, requests: int, clients: int, verbose: bool) -> bool:
    upstream, address = free_address(), free_address()
    release = folder / "RELEASE"
    release.write_text("1\n")
    arguments = ["--bind", upstream, "--worker-class", worker, WORKERS[worker]]
    with Server(folder, *arguments, verbose=verbose) as server, Nginx(folder, address, upstream) as nginx:
        said = []
        ab = load(address, requests, clients)
        ask(address)
        server.wait_serving()
        for number in range(2, upgrades + 2):
            release.write_text(f"{number}\n")
            server.upgrade()
            if ab.poll() is not None:  # so many upgrades take longer than so many requests: more of these
                said.append(ab.communicate()[0])
                ab = load(address, requests, clients)
            ask(address)
        said.append(ab.communicate(timeout=10 * LONGEST_WAIT)[0])
    answers, errors = nginx.answers(), nginx.errors()
    statuses = Counter(answer[0] for answer in answers)
    releases = Counter(answer[1] for answer in answers)
    kept = sum(answer[2] == "0.000" for answer in answers)
    failed = sum(int(count) for text in said for count in re.findall(r"Failed requests: +(\d+)", text))
    completed = sum(int(count) for text in said for count in re.findall(r"Complete requests: +(\d+)", text))
    print(f"{worker}: {upgrades} upgrades, {len(answers)} requests by {clients} clients, "
          f"{kept} on a connection that was kept")
    print(f"  statuses: {dict(statuses)}; ab: {completed} completed, {failed} failed")
    print(f"  releases: {dict(releases)}")
    print(f"  nginx's log: {len(errors)} errors")
    for line in errors[:5]:
        print(f"    {line.rstrip()}")
    return (
        set(statuses) == {"200"} and not errors and not failed and completed >= requests
        and len(releases) == upgrades + 1
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Upgrade gunicorn behind nginx, under load.")
    parser.add_argument("--worker", choices=WORKERS, default="gthread")
    parser.add_argument("--upgrades", type=int, default=10, metavar="N")
    parser.add_argument("--requests", type=int, default=10000, metavar="N")
    parser.add_argument("--clients", type=int, default=100, metavar="N")
    parser.add_argument("--verbose", action="store_true", help="show gunicorn's log")
    options = parser.parse_args()
    missing = [program for program in ("nginx", "ab") if shutil.which(program) is None]
    if missing:
        print(f"not run: no {' and no '.join(missing)} in PATH")
        return SKIPPED
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "nginx")
        shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("RELEASE", "hot.pid", "__pycache__"))
        Path(temporary).chmod(0o755)
        try:
            fine = run(folder, options.worker, options.upgrades, options.requests, options.clients, options.verbose)
        except Failed as exc:
            print(exc)
            return 1
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
