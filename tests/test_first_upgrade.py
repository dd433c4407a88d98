"""The first upgrade, from a stock gunicorn that is already running: whom it may end, and whom it must let serve on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outside import unnoticed, wait_dead
from server import Service, until, wait_gone

from gunicorn_hot.supervisors import Facts, who_misses

NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
# Not "python -m gunicorn": gunicorn executes the file of its package then.
STOCK = [Path(sys.executable).with_name("gunicorn"), "-c", "hot.conf.py", "app:app"]


def facts(*environ: tuple[str, str], **others: Any) -> Facts:
    return Facts(**{"pid": 4711, "ppid": 4000, "parent": "bash", "environ": environ, **others})


MISSED = {
    "PID 1": (facts(pid=1, ppid=0, parent=""), "it is PID 1"),
    "systemd": (
        facts(("INVOCATION_ID", "0"), ppid=1, parent="systemd", unit="shop.service"),
        "systemd has started it (shop.service)",
    ),
    "systemd, by its pid": (
        facts(("SYSTEMD_EXEC_PID", "4711"), ppid=1, parent="systemd"), "systemd has started it"
    ),
    "supervisord": (facts(("SUPERVISOR_ENABLED", "1"), ("SUPERVISOR_PROCESS_NAME", "shop")),
                    "supervisord has started it (shop)"),
    "runit": (facts(parent="runsv"), "runit watches it: runsv (pid 4000)"),
    "a script that is PID 1": (facts(ppid=1, parent="entrypoint.sh"), "PID 1 may wait for it: entrypoint.sh (pid 1)"),
}
NOT_MISSED = {
    "a shell": facts(),
    "a daemon": facts(ppid=1, parent="systemd", daemon=True),
    "an orphan": facts(ppid=1, parent="systemd", unit="session-2.scope"),
    "a process of which nothing can be read": facts(ppid=-1, parent=""),
}


@pytest.mark.parametrize("who", MISSED)
def test_who_misses_it(who: str) -> None:
    seen, reason = MISSED[who]
    assert who_misses("auto", seen) == reason
    assert who_misses("stable", seen) == "hot_pid is 'stable'"
    assert who_misses("follow", seen) == ""


@pytest.mark.parametrize("who", NOT_MISSED)
def test_nobody_misses_it(who: str) -> None:
    assert who_misses("auto", NOT_MISSED[who]) == ""
    assert who_misses("stable", NOT_MISSED[who]) == "hot_pid is 'stable'"


def test_facts_of_a_process_that_exists() -> None:
    class Config:
        env_orig = {"A": "1"}
        daemon = False

    # As a new master sees its predecessor: from below.
    done = Facts.of_stock(Config(), os.getpid())
    assert (done.pid, done.ppid, done.environ, done.predecessor) == (os.getpid(), os.getppid(), (("A", "1"),), 0)
    assert done.parent == Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    assert Facts.of_stock(Config(), 2**22 + 1).ppid == -1


# --- real services ----------------------------------------------------------------------------------------------


def adopt(service: Service, **settings: Any) -> None:
    """Add the line to the configuration of a stock gunicorn that runs, and send it SIGUSR2."""
    service.configure(workers=1, **{"hot_pid": None, **settings})
    service.release("B")
    service.signal(signal.SIGUSR2)


def start(service: Service, *command: str | Path, **options: Any) -> None:
    # Whatever has started the tests must not be taken for who has started the service.
    for name in ("INVOCATION_ID", "SUPERVISOR_ENABLED", "SYSTEMD_EXEC_PID"):
        service.env.pop(name, None)
    service.configure(hook=None, workers=1)
    service.start([*command, *STOCK], **options)


def check_refused(service: Service, why: str) -> None:
    """The successor says why it ends, and leaves nothing; the stock gunicorn serves on, and would try again."""
    workers = service.workers()
    with unnoticed(service):
        for count in (1, 2):
            adopt(service)
            service.wait_log(rf"Upgrade failed: the predecessor \(pid: \d+\) is a stock gunicorn, .*: {why}", count)
            until(lambda: service.workers() == workers, "the end of the successor")
    assert "B" not in service.read("loaded")
    assert not (service.folder / "pid.2").exists()
    assert service.ask().gen == "A"


def check_taken(service: Service) -> None:
    service.wait_log("All 1 workers are ready, stopping the predecessor, which is no gunicorn_hot")
    wait_gone(service.master)
    until(lambda: service.pid_in() not in (None, service.master), "the new master's pid in the file")
    service.master = service.pid_in() or 0
    assert service.ask().gen == "B"


def test_the_main_process_of_a_container(service: Service) -> None:
    if subprocess.run([*NAMESPACE, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no namespaces for this user")
    start(service, *NAMESPACE)
    # Its pid outside of the namespace.
    assert service._popen is not None
    (service.master,) = service.workers(service._popen.pid)
    check_refused(service, "it is PID 1")
    service.stop()


def test_supervisord(service: Service) -> None:
    start(service, "env", "SUPERVISOR_ENABLED=1", "SUPERVISOR_PROCESS_NAME=shop")
    check_refused(service, r"supervisord has started it \(shop\)")


def test_a_parent_that_watches(service: Service) -> None:
    runner = service.folder / "honcho"
    runner.write_text('#!/bin/sh\n"$@" & wait $!\n')
    runner.chmod(0o755)
    start(service, runner)
    check_refused(service, r"honcho watches it: honcho \(pid \d+\)")


def test_a_pid_that_was_to_be_kept(service: Service) -> None:
    start(service)
    adopt(service, hot_pid="stable")
    service.wait_log(r"Upgrade failed: .*: hot_pid is 'stable'\. It serves on")
    assert service.ask().gen == "A"
    until(lambda: len(service.workers()) == 1, "the end of the successor")
    adopt(service)
    check_taken(service)


def test_the_operator_knows_better(service: Service) -> None:
    """As under systemd with Type=forking and PIDFile=, which goes by the file."""
    start(service, "env", "SUPERVISOR_ENABLED=1", "SUPERVISOR_PROCESS_NAME=shop")
    adopt(service, hot_pid="follow")
    check_taken(service)


def test_a_shell(service: Service) -> None:
    start(service)
    adopt(service)
    check_taken(service)
    service.upgrade("C")
    assert service.ask().gen == "C"


def test_a_terminal(service: Service) -> None:
    """Its prompt comes back; the log says what that means."""
    ours, theirs = pty.openpty()
    try:
        start(service, "setsid", "--ctty", "--wait", stdin=theirs)
        adopt(service)
        check_taken(service)
        assert "hot_pid: follow, its predecessor with pid" in service.log
        assert "has not kept one; the terminal's Ctrl-C does not reach it" in service.log
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_daemon(service: Service) -> None:
    files = {"pidfile": str(service.folder / "pid"), "errorlog": str(service.folder / "log")}
    service.env.pop("INVOCATION_ID", None)
    service.configure(hook=None, workers=1, daemon=True, **files)
    service.start(STOCK)
    stock, workers = service.master, service.workers()
    adopt(service, daemon=True, **files)
    service.wait_log("All 1 workers are ready, stopping the predecessor")
    wait_dead(stock, *workers)
    until(lambda: service.pid_in() not in (None, stock), "the new master's pid in the file")
    assert service.ask().gen == "B"
