"""An upgrade that fails changes nothing: the old generation serves on, says why, and the next upgrade works."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from outside import descriptors
from server import APPS, DEADLINE, Service, descendants, until, wait_gone

from bench.load import Load

FAILED_HOOK = """
def on_upgrade_failed(server, reason):
    with open("failed", "a") as file:
        file.write(f"{server.pid} {reason!r}\\n")
"""

Break = Callable[[Service], None]


@contextmanager
def unnoticed(service: Service) -> Iterator[Load]:
    """A light load, of which no request may fail."""
    with Load(service.address, {"new": 1, "keep": 1, "idle": 1, "slow": 1}, slow_ms=300, timeout=DEADLINE) as load:
        load.wait_for(20, gen="A")
        yield load
        report = load.stop()
    assert not report.failed, report.summary()


def check_untouched(service: Service, workers: list[int]) -> None:
    """The old generation is what it was, and nothing is left of the other one."""
    until(lambda: {p.pid for p in descendants(service.master)} == set(workers), "the successor's end")
    assert service.pid_in() == service.master
    # Of one that could not remove it itself the old master does, once it has reaped it.
    until(lambda: not (service.folder / "pid.2").exists(), "the end of pid.2")
    answer = service.ask()
    assert answer.gen == "A"
    assert answer.pid in workers


def check_reason(service: Service, reason: str, mark: int) -> None:
    """Wait for the reason in the log, and for the hook to have it."""
    service.wait_log(f"Upgrade failed: .*{reason}", after=mark)
    (line,) = service.wait_file("failed", lines=1).splitlines()
    pid, _, told = line.partition(" ")
    assert int(pid) == service.master
    assert reason.replace("\\", "") in told


def release(text: str) -> Break:
    return lambda service: service.release(text)


def bad_config(service: Service) -> None:
    service.write("hot.conf.py", "this is no Python")


def no_config(service: Service) -> None:
    (service.folder / "hot.conf.py").unlink()



@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        pytest.param(release("B broken"), "RuntimeError: this release is broken", id="broken"),
        pytest.param(release("B exit"), "exited with code 0 while it loaded the application", id="exit"),
        pytest.param(release("B kill"), "SIGKILL", id="worker-killed"),
        pytest.param(release("B hold=never"), r"not ready in 6s \(hot_ready_timeout\)", id="hang"),
        pytest.param(bad_config, "exited with code 1", id="bad-config"),
        pytest.param(no_config, "exited with code 1", id="no-config"),
    ],
)
def test_successor_fails_to_boot(service: Service, breaks: Break, reason: str) -> None:
    # It is also the bound of the upgrade that must work after that.
    service.configure(FAILED_HOOK, hot_ready_timeout=6 if "hot_ready_timeout" in reason else DEADLINE)
    service.start()
    workers = service.workers()
    with unnoticed(service) as load:
        mark = service.mark()
        breaks(service)
        service.begin_upgrade()
        check_reason(service, reason, mark)
        check_untouched(service, workers)
        load.wait_for(20, gen="A")
        service.configure(FAILED_HOOK)
        service.upgrade("C")
        load.wait_for(20, gen="C")


SECOND_HANGS = """
if RELEASE == "B":
    try:
        os.open(FOLDER / "first", os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        hold("never")
"""


def test_who_was_not_ready_in_time(service: Service) -> None:
    """One of two workers: it is named, and that it is then killed is nobody's riddle."""
    service.write("app.py", (APPS / "subject.py").read_text() + SECOND_HANGS)
    # As short as a busy machine allows: by then one must be ready, and the other one be there.
    service.configure(FAILED_HOOK, hot_ready_timeout=6)
    service.start()
    workers = service.workers()
    mark = service.mark()
    service.release("B")
    successor = service.begin_upgrade()
    hung = service.wait_file("never.held", lines=1).strip()
    check_reason(
        service,
        rf"not ready in 6s \(hot_ready_timeout\): worker \(pid: {hung}\) still loads the application; 1 of 2 workers "
        "ready",
        mark,
    )
    assert "0 of 2 workers ready" not in service.log
    check_untouched(service, workers)
    service.wait_log(rf"\[{successor}\] \[INFO\] Killed worker \(pid: {hung}\), which was still loading", after=mark)
    assert "out of memory" not in service.log


def test_nobody_was_ready_in_time(service: Service) -> None:
    service.configure(FAILED_HOOK, hot_ready_timeout=6)
    service.start()
    mark = service.mark()
    service.release("B hold=never")
    successor = service.begin_upgrade()
    service.wait_file("never.held", lines=2)
    pids = list(map(str, service.workers(successor)))
    (failed,) = service.wait_log(r"Upgrade failed: not ready in 6s \(hot_ready_timeout\): (.*)", after=mark)
    assert failed[1] == f"workers (pids: {', '.join(pids)}) still load the application; 0 of 2 workers ready"
    service.wait_log(r"Killed worker \(pid: \d+\), which was still loading", count=2, after=mark)
    assert "out of memory" not in service.log


def test_successor_killed_while_it_boots(service: Service) -> None:
    service.configure(FAILED_HOOK)
    service.start()
    workers = service.workers()
    with unnoticed(service) as load:
        mark = service.mark()
        service.release("B hold=never")
        successor = service.begin_upgrade()
        service.wait_file("never.held", lines=2)
        service.signal(signal.SIGKILL, successor)
        check_reason(service, "was killed by SIGKILL", mark)
        check_untouched(service, workers)
        load.wait_for(20, gen="A")
        service.upgrade("C")
        load.wait_for(20, gen="C")


def test_interpreter_is_missing(service: Service) -> None:
    python = service.folder / "python"
    python.symlink_to(sys.executable)
    # As a link in another folder it is no part of a virtual environment any more.
    found = [path for path in sys.path if path.endswith("-packages")]
    service.env["PYTHONPATH"] = os.pathsep.join([*service.env.get("PYTHONPATH", "").split(), *found])
    service.configure(FAILED_HOOK)
    service.start([python, *service.command()[1:]])
    workers = service.workers()
    mark = service.mark()
    python.unlink()
    service.begin_upgrade()
    check_reason(service, "FileNotFoundError", mark)
    check_untouched(service, workers)
    python.symlink_to(sys.executable)
    service.upgrade("C")
    assert service.ask().gen == "C"


def test_failures_in_a_row(service: Service) -> None:
    service.configure()
    service.start()
    workers = service.workers()
    opened = descriptors(service.master)
    service.release("B broken")
    for _ in range(3):
        mark = service.mark()
        service.begin_upgrade()
        service.wait_log("Upgrade failed", after=mark)
        check_untouched(service, workers)
        until(lambda: descriptors(service.master) == opened, f"{opened}, and nothing else open in the master")
    service.upgrade("C")
    assert service.ask().gen == "C"


def test_successor_killed_in_probation(service: Service) -> None:
    service.configure(FAILED_HOOK, hot_probation=DEADLINE)
    service.start()
    workers = service.workers()
    with unnoticed(service) as load:
        mark = service.mark()
        service.release("B")
        successor = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        load.wait_for(20, gen="B")
        service.signal(signal.SIGKILL, successor)
        check_reason(service, "was killed by SIGKILL", mark)
        load.wait_for(20, gen="A")
    # Its workers are nobody's, and finish what they hold.
    until(lambda: {p.pid for p in descendants(service.master)} == set(workers), "the successor's end")
    check_untouched(service, workers)
    service.configure(FAILED_HOOK)
    # This master goes by the configuration that it was started with.
    mark = service.mark()
    service.release("C")
    service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    assert service.ask().gen == "C"


def test_new_workers_keep_dying_in_probation(service: Service) -> None:
    service.configure(FAILED_HOOK, hot_probation=DEADLINE)
    service.start()
    workers = service.workers()
    mark = service.mark()
    service.release("B")
    successor = service.begin_upgrade()
    service.wait_log("in probation", after=mark)

    def killed() -> str:
        for worker in service.workers(successor):
            with suppress(ProcessLookupError):
                service.signal(signal.SIGKILL, worker)
        return service.read("failed")

    until(killed, "the end of the probation")
    check_reason(service, "in the probation", mark)
    check_untouched(service, workers)


WHILE_ANOTHER_IS_REAPED = """
import os, signal

def child_exit(server, worker):
    try:
        os.remove("both")
    except FileNotFoundError:
        return
    other = next(iter(server.WORKERS))
    os.kill(other, signal.SIGTERM)
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
"""


def test_a_worker_that_leaves_while_another_is_reaped_has_not_died(service: Service) -> None:
    """As at max_requests, and in a probation: that it has ended with 0 must not get lost."""
    service.configure(WHILE_ANOTHER_IS_REAPED, hot_probation=DEADLINE)
    service.start()
    mark = service.mark()
    service.release("B")
    successor = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    service.write("both")
    leaving = service.workers(successor)
    service.signal(signal.SIGTERM, leaving[0])
    until(lambda: len(set(service.workers(successor)) - set(leaving)) == 2, "two others")
    assert "Upgrade failed" not in service.log
    assert service.ask().gen == "B"


def test_successor_killed_while_the_old_generation_drains(service: Service) -> None:
    service.configure(FAILED_HOOK, workers=1)
    service.start()
    workers = service.workers()
    with service.held() as held, unnoticed(service) as load:
        mark = service.mark()
        service.release("B")
        successor = service.begin_upgrade()
        service.wait_log("draining", after=mark)
        load.wait_for(20, gen="B")
        assert service.pid_in() == successor
        service.signal(signal.SIGKILL, successor)
        check_reason(service, "was killed by SIGKILL", mark)
        load.wait_for(20, gen="A")
        check_untouched(service, workers)
        service.write("go")
        answer = held.answer()
        assert (answer.gen, answer.pid) == ("A", workers[0])
        held.close()
        service.upgrade("C")
        load.wait_for(20, gen="C")


def test_predecessor_killed_while_the_successor_boots(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    (worker,) = service.workers()
    old = service.master
    with unnoticed(service) as load:
        service.release("B hold=go")
        successor = service.begin_upgrade()
        service.wait_file("go.held", lines=1)
        service.signal(signal.SIGKILL)
        # Its worker is nobody's, and finishes what it holds.
        wait_gone(worker)
        service.wait_log("The predecessor is gone, going on without it")
        service.write("go")
        load.wait_for(20, gen="B")
        until(lambda: service.pid_in() == successor, "the successor's pid in the pid file")
        until(lambda: not (service.folder / "pid.2").exists(), "the end of pid.2")
        wait_gone(old)
        service.master = successor
        service.upgrade("C")
        load.wait_for(20, gen="C")
