"""What else gunicorn's users configure, across upgrades: statsd, logging, daemons, folders, limits, reloading."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held import EITHER_PID, Held, either
from outside import descriptors, environment_of, settle, unnoticed
from server import Service, descendants, is_running, until, wait_gone


@pytest.fixture(params=EITHER_PID)
def service(tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Service]:
    with either(request, tmp_path, environment) as service:
        yield service


def operators_pid(service: Service) -> int:
    """Return the pid that an operator sends signals to: the pid file's."""
    found = service.pid_in()
    assert found is not None
    return found


# --- statsd -----------------------------------------------------------------------------------------------------


class Statsd(threading.Thread):
    """Receives what gunicorn sends to statsd."""

    def __init__(self) -> None:
        super().__init__(name="statsd")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.count: dict[str, int] = {}

    def run(self) -> None:
        while text := self.socket.recv(65536).decode():
            for line in text.splitlines():
                name = line.partition(":")[0]
                self.count[name] = self.count.get(name, 0) + 1

    def __enter__(self) -> Statsd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.socket.getsockname())
        self.join()
        self.socket.close()


def test_statsd_counts_each_request_of_each_generation(service: Service) -> None:
    with Statsd() as statsd:
        service.configure(statsd_host=statsd.address, statsd_prefix="shop", loglevel="debug")
        service.start()
        asked = 1
        for upgrades, release in enumerate("BCD", 1):
            with service.held(release) as held:
                new = service.begin_drain(release)
                until(lambda: service.ask().gen == release, "the new release")  # noqa: B023
                service.write(release)
                assert held.answer().status == 200
            service.wait_log("Upgrade: done", count=upgrades)
            service.master = new_master(service, new)
            asked += 2
        # The status is what is sent last.
        until(lambda: statsd.count.get("shop.gunicorn.request.status.200", 0) == asked, f"{asked} requests")
        assert statsd.count["shop.gunicorn.requests"] == asked
        assert statsd.count["shop.gunicorn.workers"] >= 4


def new_master(service: Service, pid: int) -> int:
    """Wait until the old master has left or become the holder; return the new one, `pid`."""
    if isinstance(service, Held):
        service.wait_held(pid)
    else:
        wait_gone(service.master)
    return pid


# --- logging ----------------------------------------------------------------------------------------------------

LOGCONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"one": {"format": "%(process)d|%(name)s|%(message)s"}},
    "handlers": {
        "all": {"class": "logging.FileHandler", "formatter": "one", "filename": "all.log"},
        "log": {"class": "logging.FileHandler", "filename": "log", "formatter": "two"},
    },
    "root": {"level": "WARNING", "handlers": []},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["all", "log"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["all"], "propagate": False},
    },
}
LOGCONFIG["formatters"]["two"] = {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"}
LOGCONFIG_FILE = """
[loggers]
keys=root,gunicorn.error,gunicorn.access
[handlers]
keys=all,log
[formatters]
keys=one,two
[logger_root]
level=WARNING
handlers=
[logger_gunicorn.error]
level=INFO
handlers=all,log
propagate=0
qualname=gunicorn.error
[logger_gunicorn.access]
level=INFO
handlers=all
propagate=0
qualname=gunicorn.access
[handler_all]
class=FileHandler
formatter=one
args=('all.log',)
[handler_log]
class=FileHandler
formatter=two
args=('log',)
[formatter_one]
format=%(process)d|%(name)s|%(message)s
[formatter_two]
format=[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s
"""


def test_logging_as_configured_in_each_generation(service: Service) -> None:
    service.write("logging.conf", LOGCONFIG_FILE)
    # Each once; they have nothing to do with the pid.
    by_file = isinstance(service, Held)
    settings: dict[str, Any] = {"logconfig": "logging.conf"} if by_file else {"logconfig_dict": LOGCONFIG}
    service.configure(errorlog=None, accesslog=None, **settings)
    service.start()
    masters = [service.master]
    for release in "BC":
        service.upgrade(release)
        masters.append(service.master)
        answer = service.ask(f"/?{release}")
        # The answer may be there before its line.
        until(
            lambda: re.search(rf"{answer.pid}\|gunicorn\.access\|.*GET /\?{release} ", service.read("all.log")),  # noqa: B023
            "the line of the request",
        )
    lines = service.read("all.log").splitlines()
    for old, new in itertools.pairwise(masters):
        assert f"{new}|gunicorn.error|Upgrade: this master has taken over from pid: {old}" in lines
    assert "Traceback" not in service.read("all.log") + service.read("output")


def log_files(service: Service, pid: int) -> set[str]:
    """Return the names of the log files that a process has open."""
    try:
        names = {os.path.basename(path) for path in descriptors(pid) if path.startswith(f"{service.folder}/")}
    except (FileNotFoundError, PermissionError):
        return set()  # it has just ended
    return {name for name in names if name.startswith(("log", "access"))}


@pytest.mark.parametrize("state", ["the first drains", "draining", "serving"])
def test_rotated_log_files_are_reopened_by_everybody(service: Service, state: str) -> None:
    """By a signal to the pid that an operator knows, as logrotate's postrotate sends it."""
    service.configure(accesslog="access")
    service.start()
    drains = state != "serving"
    if state != "the first drains":
        service.upgrade("B")
    old = service.ask().gen
    with service.held() as held:
        masters = [service.master]
        if drains:
            masters.append(service.begin_drain("C"))
            until(lambda: service.ask().gen == "C", "the new release")
        for name in ("log", "access"):
            (service.folder / name).rename(service.folder / f"{name}.1")
        service.signal(signal.SIGUSR1, operators_pid(service))
        if drains and not isinstance(service, Held):
            # The file names the new one; who rotates logs by a pid reaches only that.
            service.signal(signal.SIGUSR1, service.master)
        everybody = [pid for master in masters for pid in (master, *service.workers(master))]
        assert len(everybody) >= 3
        for pid in everybody:
            until(
                lambda: not is_running(pid) or log_files(service, pid) == {"log", "access"},  # noqa: B023
                f"process {pid} to write to the new files alone",
            )
        service.write("go")
        answer = held.answer()
        assert answer.gen == old
        until(lambda: f"GET /hold?file=go HTTP/1.1\" {answer.status}" in service.read("access"), "its line")
    # The lines of the old generation's end are where everybody looks for them, too.
    if drains:
        service.wait_log("Upgrade: done")
        service.master = new_master(service, masters[-1])
    service.upgrade("D")
    assert "GET" in service.read("access.1")


# --- how it is started ------------------------------------------------------------------------------------------


def test_a_daemon_with_everything_that_has_a_place(service: Service) -> None:
    """umask, worker_tmp_dir, chdir, preload_app, raw_env; by relative names, which `chdir` must not confuse."""
    (service.folder / "tmp").mkdir()
    (service.folder / "code").mkdir()
    service.write("code/site_app.py", "import sys; sys.path.insert(0, '..')\nfrom app import app\n")
    here = str(service.folder)
    settings = {
        "umask": 0o077,
        "worker_tmp_dir": f"{here}/tmp",
        "chdir": f"{here}/code",
        "raw_env": ["COLOUR=green"],
        "pidfile": f"{here}/pid",
        "errorlog": f"{here}/log",
        "accesslog": f"{here}/access",
        "preload_app": True,
    }
    service.configure(daemon=True, **settings)
    service.start([*service.command()[:-1], "site_app:app"])
    service.wait_log("Listening at")
    with unnoticed(service) as load:
        for release in "BCD":
            service.upgrade(release)
            load.wait_for(10, gen=release)
            assert operators_pid(service) == (service.pid if isinstance(service, Held) else service.master)
            assert f"{here}/code" == os.readlink(f"/proc/{service.master}/cwd")
            for worker in service.workers():
                assert any(path.startswith(f"{here}/tmp/wgunicorn-") for path in descriptors(worker))
            # Once in each master, and not in its workers.
            loaded = [line for line in service.read("loaded").splitlines() if line.startswith(f"{release} ")]
            assert loaded == [f"{release} {service.master}"]
            assert '"COLOUR": "green"' in service.ask("/environ").body.decode()
            # What one generation was given is not in the next one's environment for all time.
            assert "COLOUR" not in environment_of(service.master)
    assert service.read("output") == ""
    service.stop() if not isinstance(service, Held) else service.signal(signal.SIGTERM, service.pid)
    until(service.is_empty, "the end of all processes")
    assert not (service.folder / "pid").exists()
    assert os.listdir(service.folder / "tmp") == []


# --- what ends workers ------------------------------------------------------------------------------------------


def test_workers_are_recycled_while_generations_change(service: Service) -> None:
    worker = "sync" if isinstance(service, Held) else "gthread"
    service.configure(worker_class=worker, max_requests=20, max_requests_jitter=10)
    service.start()
    clients = {"new": 3} if worker == "sync" else {"new": 2, "keep": 1}
    with unnoticed(service, clients=clients) as load:
        for release in "BCD":
            mark = service.mark()
            service.upgrade(release)
            load.wait_for(100, gen=release)
            service.wait_log("Autorestarting worker after current request", after=mark)
    settle_either(service)


def settle_either(service: Service, workers: int = 2) -> None:
    if isinstance(service, Held):
        until(lambda: len(service.workers()) == workers, f"{workers} workers")
        until(lambda: len(descendants(service.pid)) == 1 + workers, "nobody else")
    else:
        settle(service, workers)


def test_reload_restarts_workers_of_the_serving_generation_only(service: Service) -> None:
    """gunicorn's `reload` ends a worker whose code has changed; an old one that drains answers to its end."""
    service.configure(reload=True, reload_engine="poll", workers=1)
    service.start()
    with service.held() as held:
        new = service.begin_drain("B")
        until(lambda: service.ask().gen == "B", "the new release")
        mark = service.mark()
        before = service.workers(new)
        service.release("C")
        reloading = rf"\[{before[0]}\] .*Worker reloading: .*app.py modified"

        def seen() -> bool:
            # Again and again: what changes before the first look at a file is no change.
            os.utime(service.folder / "app.py")
            return re.search(reloading, service.log[mark:]) is not None

        until(seen, "the reloading")
        until(lambda: service.ask().gen == "C", "the changed code")
        service.write("go")
        assert held.answer().gen == "A"
    service.wait_log("Upgrade: done")
    service.master = new_master(service, new)
    assert service.workers() != before
    service.upgrade("D")
    assert service.ask().gen == "D"
