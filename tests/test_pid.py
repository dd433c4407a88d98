"""hot_pid = "auto": whose pid a service has, by who has started it."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
from typing import Any

import pytest
from server import Service, title, until, wait_gone

from gunicorn_hot import supervisors
from gunicorn_hot.supervisors import Facts, decide

INVOKED = ("INVOCATION_ID", "0123456789abcdef")


def facts(*environ: tuple[str, str], **others: Any) -> Facts:
    return Facts(**{"pid": 4711, "ppid": 4000, "parent": "python", "environ": environ, **others})


STABLE: dict[str, tuple[Facts, str]] = {
    "PID 1 of a container": (facts(pid=1, ppid=0, parent=""), "it is PID 1"),
    "systemd": (
        facts(INVOKED, ppid=1, parent="systemd", unit="gunicorn.service"),
        "systemd has started it (gunicorn.service)",
    ),
    "systemd, by a shell that waits": (
        facts(INVOKED, ("SYSTEMD_EXEC_PID", "4000"), parent="sh", unit="gunicorn.service"),
        "systemd has started it (gunicorn.service)",
    ),
    "systemd, Type=forking": (
        facts(INVOKED, ppid=1, parent="systemd", unit="gunicorn.service", daemon=True),
        "systemd has started it (gunicorn.service)",
    ),
    "systemd, in a namespace without control groups": (
        facts(("SYSTEMD_EXEC_PID", "4711"), ppid=1, parent="systemd"), "systemd has started it"
    ),
    "systemd, SIGHUP ignored": (
        facts(INVOKED, ppid=1, parent="systemd", unit="a.service", nohup=True), "systemd has started it (a.service)"
    ),
    "another manager that wants to be notified": (
        facts(("NOTIFY_SOCKET", "/run/x")), "somebody wants to be notified (NOTIFY_SOCKET)"
    ),
    "supervisord": (
        facts(("SUPERVISOR_ENABLED", "1"), ("SUPERVISOR_PROCESS_NAME", "shop"), parent="supervisord"),
        "supervisord has started it (shop)",
    ),
    "runit": (facts(parent="runsv"), "runit watches it: runsv (pid 4000)"),
    "s6": (facts(parent="s6-supervise"), "s6 watches it: s6-supervise (pid 4000)"),
    "circus": (facts(parent="circusd"), "circus watches it: circusd (pid 4000)"),
    "an init of a container": (facts(ppid=1, parent="tini"), "a container's init watches it: tini (pid 1)"),
    "a terminal": (facts(parent="bash", foreground=True), "it is in the foreground of a terminal"),
    "a runner of processes": (facts(parent="foreman"), "foreman watches it: foreman (pid 4000)"),
    "PID 1 of a container, by a script": (
        facts(ppid=1, parent="entrypoint.sh"), "PID 1 may wait for it: entrypoint.sh (pid 1)"
    ),
    "a container's process, where all of a pod share one namespace": (
        facts(ppid=0, parent=""), "whoever has started it is outside of its pid namespace, and may wait for it"
    ),
    "a container's process in the host's namespace": (
        facts(parent="containerd-shim"), "a container's runtime watches it: containerd-shim (pid 4000)"
    ),
    "PID 1 of a container that cannot be seen": (facts(ppid=1, parent=""), "PID 1 may wait for it: a process (pid 1)"),
}
FOLLOW: dict[str, tuple[Facts, str]] = {
    "a daemon": (facts(ppid=1, parent="systemd", daemon=True), "it is a daemon"),
    "a daemon of a desktop's terminal": (
        facts(INVOKED, ppid=1, parent="systemd", unit="vte-spawn-1.scope", daemon=True), "it is a daemon"
    ),
    "a job in the background": (
        facts(parent="bash"), "bash (pid 4000) is not known to wait for it; if it does, set hot_pid to 'stable'"
    ),
    "nohup": (facts(parent="bash", nohup=True, foreground=True), "it was started by nohup"),
    "an orphan": (
        facts(INVOKED, ppid=1, parent="systemd", unit="session-2.scope"), "it is detached, nobody waits for it"
    ),
    "an orphan of a user's session": (
        facts(ppid=900, parent="systemd", unit="session-2.scope"), "it is detached, nobody waits for it"
    ),
    "a successor of one that has not kept its pid": (
        facts(INVOKED, unit="gunicorn.service", predecessor=4000),
        "its predecessor with pid 4000 has not kept one",
    ),
    "another system": (facts(pid=1, possible=False), "this system cannot keep a pid"),
}


@pytest.mark.parametrize("who", STABLE)
def test_the_pid_stays_where_somebody_may_wait_for_it(who: str) -> None:
    seen, reason = STABLE[who]
    assert decide("auto", seen) == (True, reason)


@pytest.mark.parametrize("who", FOLLOW)
def test_the_pid_follows_where_nobody_can_be_waiting(who: str) -> None:
    seen, reason = FOLLOW[who]
    assert decide("auto", seen) == (False, reason)


def test_what_is_configured_counts() -> None:
    assert decide("follow", facts(pid=1)) == (False, "as configured")
    assert decide("stable", facts(daemon=True)) == (True, "as configured")
    assert decide("stable", facts(possible=False)) == (False, "this system cannot keep a pid")


def test_facts_of_a_process_that_exists() -> None:
    class Config:
        env_orig = {"A": "1"}
        daemon = False

    seen = Facts.of_this_process(Config(), 7)
    assert (seen.pid, seen.ppid, seen.environ, seen.predecessor) == (os.getpid(), os.getppid(), (("A", "1"),), 7)
    assert seen.parent
    assert seen.possible == (sys.platform == "linux")


# --- real services ----------------------------------------------------------------------------------------------


def wait_for_end_of_upgrade(service: Service, mark: int) -> int:
    """Wait until the old master has left, or is the holder; return the pid of the new one."""
    new = int(service.wait_log(r"booting successor with pid: (\d+)", after=mark)[0][1])
    service.wait_log(rf"\[{new}\] .* The predecessor has left", after=mark)
    return new


def test_a_child_of_a_known_watcher(service: Service) -> None:
    service.configure(hot_pid=None, workers=1)
    # A runner of processes, as far as its name tells.
    runner = service.folder / "honcho"
    runner.write_text('#!/bin/sh\n"$@" & wait $!\n')
    runner.chmod(0o755)
    service.start([str(runner), *service.command()])
    assert re.search(r"hot_pid: stable, honcho watches it: honcho \(pid \d+\)", service.log)
    mark = service.mark()
    service.release("B")
    service.signal(signal.SIGUSR2)
    wait_for_end_of_upgrade(service, mark)
    assert service.ask().gen == "B"
    assert service.pid_in() == service.master


def test_a_child_of_anybody_else(service: Service) -> None:
    service.configure(hot_pid=None, workers=1)
    service.start()
    assert re.search(r"hot_pid: follow, \S+ \(pid \d+\) is not known to wait for it", service.log)
    old = service.master
    service.upgrade("B")
    assert service.pid_in() == service.master != old


def test_nohup(service: Service) -> None:
    service.configure(hot_pid=None, workers=1)
    service.start(["nohup", *service.command()])
    assert "hot_pid: follow, it was started by nohup" in service.log
    old = service.master
    service.upgrade("B")
    assert service.pid_in() == service.master != old


def test_a_daemon(service: Service) -> None:
    service.configure(hot_pid=None, workers=1)
    service.env = {name: value for name, value in service.env.items() if name != "INVOCATION_ID"}
    service.start(service.command("--daemon"))
    assert "hot_pid: follow, it is a daemon" in service.log
    old = service.master
    service.upgrade("B")
    assert service.pid_in() == service.master != old


def test_a_terminals_interrupt_stops_the_service_after_an_upgrade_too(service: Service) -> None:
    # Not gthread: on Python 3.10 an interrupt of workers and master at once may leave one waiting for its own threads.
    service.configure(hot_pid=None, workers=1, worker_class="sync")
    ours, theirs = pty.openpty()
    try:
        service.start(["setsid", "--ctty", "--wait", *service.command()], stdin=theirs)
        assert "hot_pid: stable, it is in the foreground of a terminal" in service.log
        first, mark = service.master, service.mark()
        service.release("B")
        service.signal(signal.SIGUSR2)
        new = wait_for_end_of_upgrade(service, mark)
        until(lambda: f"for master {new}," in title(first), "the holder")
        assert service.ask().gen == "B"
        os.write(ours, b"\x03")
        wait_gone(first)
        until(service.is_empty, "the end of all processes")
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_setting_is_one_of_three(service: Service) -> None:
    service.configure(hot_pid="both")
    assert "'both' is none of 'auto', 'follow', 'stable'" in service.run().stdout


def test_every_program_that_watches_has_a_name_that_the_kernel_can_hold() -> None:
    assert all(len(name) <= 15 for name in supervisors._WATCHERS)
