"""Every row of the table of signals (section 4 of the design), to the old and to the new master, at each stage."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from outside import LIGHT, check_sole, descriptors, exit_status, settle, unnoticed, wait_dead
from server import DEADLINE, Service, is_running, until, wait_gone

#: What the package does and a reader may not expect: the reason.
KNOWN = {
    "out-of-memory": "workers that are killed while they boot are logged by gunicorn as perhaps out of memory",
    "quick-stop-cuts": "INT and QUIT are gunicorn's quick stop: a successor in the probation cuts what it holds",
}

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
#: s; longer than any test.
LONG = 60


def name(sig: signal.Signals) -> str:
    return sig.name


# The stages at which a signal comes. Each leaves its upgrade at a point where nothing goes on by itself.


def booting(service: Service) -> int:
    """A successor whose workers are held in the import of release B, by the file "boot"."""
    service.release("B hold=boot")
    successor = service.begin_upgrade()
    service.wait_file("boot.held", lines=2)
    return successor


def probation(service: Service) -> int:
    """A successor that serves release B; its probation lasts as long as the test."""
    service.release("B")
    mark = service.mark()
    successor = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    return successor


@contextmanager
def draining(service: Service) -> Iterator[int]:
    """A committed successor that serves release B, and an old master that is held by one request."""
    with service.held() as held:
        service.release("B")
        mark = service.mark()
        successor = service.begin_upgrade()
        service.wait_log(r"draining \d+ requests", after=mark)
        until(lambda: service.pid_in() == successor, "the successor's pid in the pid file")
        yield successor
        service.write("go")
        assert held.answer().gen == "A"


Stage = Callable[[Service], int]
UNCOMMITTED = pytest.mark.parametrize("stage", [booting, probation], ids=lambda stage: stage.__name__)


def started(service: Service, **settings: object) -> list[int]:
    """Start with a probation that does not end; returns the workers."""
    service.configure(**{"hot_probation": LONG, "hot_drain_timeout": LONG, **settings})  # type: ignore[arg-type]
    service.start()
    return service.workers()


# --- SIGUSR2 to the old master ----------------------------------------------------------------------------------


def test_usr2_again_replaces_the_booting_successor(service: Service) -> None:
    workers = started(service, hot_probation=0)
    with unnoticed(service) as load:
        first = booting(service)
        service.release("C")
        mark = service.mark()
        service.signal(signal.SIGUSR2)
        service.wait_log("asked for again, replacing the booting successor", after=mark)
        second = int(service.wait_log(r"Upgrade: booting successor with pid: (\d+)", after=mark)[0][1])
        assert not is_running(first)
        assert second != first
        service.wait_log("Upgrade: done", after=mark)
        wait_dead(*workers)
        load.wait_for(10, gen="C")
        check_sole(service, "C", master=second)
    assert "Upgrade failed" not in service.log


def test_usr2_in_the_probation_is_performed_after_the_commit(service: Service) -> None:
    started(service, hot_probation=1.5)
    with unnoticed(service) as load:
        mark = service.mark()
        second = probation(service)
        service.release("C")
        service.signal(signal.SIGUSR2)
        service.wait_log("asked for again, passed on to the successor", after=mark)
        service.wait_log(rf"\[{second}\] .* Upgrade: asked for, begins when this master has taken over", after=mark)
        third = int(service.wait_log(rf"\[{second}\] .* booting successor with pid: (\d+)", after=mark)[0][1])
        log = service.log[mark:]
        assert log.index("has taken over from") < log.index(f"booting successor with pid: {third}")
        load.wait_for(10, gen="C", timeout=DEADLINE)
        check_sole(service, "C", master=third)


def test_usr2_to_a_draining_master_is_passed_on(service: Service) -> None:
    started(service, hot_probation=0)
    old = service.master
    with draining(service) as second, unnoticed(service, gen="B") as load:
        service.release("C")
        mark = service.mark()
        service.signal(signal.SIGUSR2)
        service.wait_log("asked for again, passed on to the successor", after=mark)
        third = int(service.wait_log(rf"\[{second}\] .* booting successor with pid: (\d+)", after=mark)[0][1])
        load.wait_for(10, gen="C", timeout=DEADLINE)
        wait_gone(second)
        # Two generations on, the first still has its request.
        assert is_running(old)
    check_sole(service, "C", master=third)


# --- TERM, INT and QUIT to the old master -----------------------------------------------------------------------


@UNCOMMITTED
@pytest.mark.parametrize("sig", STOPS, ids=name)
def test_stop_of_the_old_before_the_commit_stops_the_service(
    service: Service, sig: signal.Signals, stage: Stage
) -> None:
    workers = started(service)
    successor = stage(service)
    mark = service.mark()
    service.signal(sig)
    until(service.is_empty, "the end of all processes")
    assert not any(map(is_running, [successor, *workers]))
    assert not (service.folder / "pid").exists()
    assert not (service.folder / "pid.2").exists()
    service.wait_log(f"Upgrade failed: this master was stopped by SIG{sig.name.removeprefix('SIG')}", after=mark)
    service.wait_log(rf"\[{service.master}\] .* Shutting down: Master", after=mark)
    assert exit_status(service) == 0
    # It was asked to end, and has. Of its workers that were loading the application: KNOWN["out-of-memory"].
    assert "killing it" not in service.log
    assert "the successor was killed" not in service.log


def test_term_of_the_old_while_the_successor_boots_finishes_requests(service: Service) -> None:
    started(service)
    with service.held() as held:
        successor = booting(service)
        service.signal(signal.SIGTERM)
        wait_gone(successor)
        service.write("go")
        assert held.answer().gen == "A"
    until(service.is_empty, "the end of all processes")


def test_term_of_the_old_in_the_probation_finishes_the_requests_of_both(service: Service) -> None:
    started(service)
    with service.held("old") as old:
        probation(service)
        with service.held("new") as new:
            mark = service.mark()
            service.signal(signal.SIGTERM)
            service.wait_log("this master was stopped by SIGTERM", after=mark)
            service.write("new")
            assert new.answer().gen == "B"
        service.write("old")
        assert old.answer().gen == "A"
    until(service.is_empty, "the end of all processes")


@pytest.mark.parametrize("sig", STOPS, ids=name)
def test_stop_of_the_old_after_the_commit_leaves_the_successor(service: Service, sig: signal.Signals) -> None:
    workers = started(service, hot_probation=0)
    old = service.master
    with service.held() as held:
        service.release("B")
        mark = service.mark()
        successor = service.begin_upgrade()
        service.wait_log(r"draining \d+ requests", after=mark)
        with unnoticed(service, gen="B") as load:
            service.signal(sig)
            service.wait_log("Drain ended early", after=mark)
            if sig is signal.SIGTERM:
                # gunicorn's own rule: what is in flight has graceful_timeout.
                service.write("go")
                assert held.answer().gen == "A"
            wait_dead(old, *workers)
            load.wait_for(20, gen="B")
            check_sole(service, "B", master=successor)
        held.close()
    assert not service.wait_log(rf"\[{old}\] .* Shutting down", after=mark)[1:]
    assert "Upgrade failed" not in service.log
    service.upgrade("C")
    check_sole(service, "C")


# --- HUP, WINCH, TTIN and TTOU to the old master ----------------------------------------------------------------


def test_the_rest_to_the_old_before_the_cut_over(service: Service) -> None:
    """HUP is refused, the others are gunicorn's."""
    workers = started(service, loglevel="debug", hot_probation=0)
    with unnoticed(service) as load:
        booting(service)
        mark = service.mark()
        service.signal(signal.SIGHUP)
        service.wait_log("SIGHUP ignored: this master is booting a successor", after=mark)
        service.signal(signal.SIGWINCH)
        service.wait_log("SIGWINCH ignored. Not daemonized", after=mark)
        assert set(workers) <= set(service.workers())
        # The successor is among the children.
        service.write("boot")
        service.wait_log("Upgrade: done", after=mark)
        load.wait_for(10, gen="B")
        check_sole(service, "B")


def test_ttin_and_ttou_to_the_old_before_the_cut_over(service: Service) -> None:
    workers = started(service, hot_probation=0)
    successor = booting(service)
    mark = service.mark()
    service.signal(signal.SIGTTIN)
    # It loads what is on the disk, like the successor's.
    third = int(service.wait_log(r"Booting worker with pid: (\d+)", after=mark)[0][1])
    assert set(service.workers()) == {*workers, successor, third}
    service.signal(signal.SIGTTOU)
    service.wait_log("Handling signal: ttou", after=mark)
    wait_dead(workers[0])
    # Dead is not reaped yet.
    until(lambda: set(service.workers()) == {workers[1], successor, third}, "the end of the oldest worker alone")
    service.write("boot")
    service.wait_log("Upgrade: done", after=mark)
    check_sole(service, "B")
    # Nobody has died.
    assert "a worker has died" not in service.log


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU], ids=name)
def test_the_rest_to_the_old_after_the_cut_over(service: Service, sig: signal.Signals) -> None:
    workers = started(service)
    with service.held():
        successor = probation(service)
        mark = service.mark()
        service.signal(sig)
        service.wait_log(f"{sig.name} ignored: this master is in probation", after=mark)
        assert service.workers() == [*workers, successor]
        # The rollback that follows must find its workers as they were.
        service.signal(signal.SIGTERM, successor)
        service.wait_log("Upgrade failed", after=mark)
        service.write("go")
        check_sole(service, "A")
        assert service.workers() == workers


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU], ids=name)
def test_the_rest_to_the_old_while_it_drains(service: Service, sig: signal.Signals) -> None:
    started(service, hot_probation=0)
    old = service.master
    with draining(service) as successor:
        mark = service.mark()
        service.signal(sig)
        service.wait_log(f"{sig.name} ignored: this master is draining", after=mark)
        assert is_running(old)
    check_sole(service, "B", master=successor)


def test_winch_to_a_daemon_while_its_successor_boots(service: Service) -> None:
    """gunicorn's "graceful stop of workers" leaves a master with none; its upgrade goes on."""
    service.configure(
        hot_probation=0, pidfile=str(service.folder / "pid"), errorlog=str(service.folder / "log"), daemon=True
    )
    service.start()
    workers = service.workers()
    booting(service)
    mark = service.mark()
    service.signal(signal.SIGWINCH)
    service.wait_log("graceful stop of workers", after=mark)
    wait_dead(*workers)
    service.write("boot")
    service.wait_log("Upgrade: done", after=mark)
    check_sole(service, "B")


# --- to the successor, before the commit ------------------------------------------------------------------------


@UNCOMMITTED
@pytest.mark.parametrize("sig", [*STOPS, signal.SIGKILL], ids=name)
def test_stop_of_the_successor_ends_the_upgrade(service: Service, sig: signal.Signals, stage: Stage) -> None:
    workers = started(service)
    # KNOWN["quick-stop-cuts"]: what is in flight in the new generation, at most one for each client.
    quick = stage is probation and sig in (signal.SIGINT, signal.SIGQUIT)
    with unnoticed(service, cut=sum(LIGHT.values()) if quick else 0) as load:
        mark = service.mark()
        successor = stage(service)
        if stage is probation:
            load.wait_for(10, gen="B")
        service.signal(sig, successor)
        said = "was killed by SIGKILL" if sig is signal.SIGKILL else f"the successor was stopped by {sig.name}"
        service.wait_log(f"Upgrade failed: .*{said}", after=mark)
        load.wait_for(10, gen="A")
        if sig is signal.SIGKILL:
            # In the probation its workers are nobody's, and finish what they hold.
            settle(service)
        check_sole(service, "A", master=service.master)
        assert service.workers() == workers
        service.release("C")
        service.begin_upgrade()
        load.wait_for(10, gen="C", timeout=DEADLINE)
    assert len(service.wait_log("Upgrade failed", after=mark)) == 1


@UNCOMMITTED
@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH], ids=name)
def test_the_rest_to_the_successor_is_refused(service: Service, sig: signal.Signals, stage: Stage) -> None:
    started(service, hot_probation=0 if stage is booting else 2)
    successor = stage(service)
    workers = service.workers(successor)
    mark = service.mark()
    service.signal(sig, successor)
    service.wait_log(rf"\[{successor}\] .* {sig.name} ignored: this master has not taken over yet", after=mark)
    assert service.workers(successor) == workers
    service.write("boot")
    check_sole(service, "B", master=successor)


@UNCOMMITTED
def test_usr2_to_the_successor_is_performed_after_the_commit(service: Service, stage: Stage) -> None:
    started(service, hot_probation=0 if stage is booting else 1.5)
    mark = service.mark()
    with unnoticed(service) as load:
        successor = stage(service)
        service.release("C")
        service.signal(signal.SIGUSR2, successor)
        service.wait_log(rf"\[{successor}\] .* asked for, begins when this master has taken over", after=mark)
        # Its workers import B.
        service.write("boot")
        third = int(service.wait_log(rf"\[{successor}\] .* booting successor with pid: (\d+)", after=mark)[0][1])
        log = service.log[mark:]
        assert log.index("has taken over from") < log.index(f"booting successor with pid: {third}")
        load.wait_for(10, gen="C", timeout=DEADLINE)
        check_sole(service, "C", master=third)


# --- SIGUSR1 ----------------------------------------------------------------------------------------------------


def logs_of(service: Service, pid: int) -> set[str]:
    """Return the names of the log files that a process has open."""
    folder = f"{service.folder}/"
    return {name.removeprefix(folder) for name in descriptors(pid) if name.startswith(f"{folder}log")}


@UNCOMMITTED
@pytest.mark.parametrize("first", ["old", "new"])
def test_usr1_reopens_the_log_files(service: Service, stage: Stage, first: str) -> None:
    started(service, hot_probation=0 if stage is booting else 2)
    successor = stage(service)
    old = [service.master, *(pid for pid in service.workers() if pid != successor)]
    new = [successor, *service.workers(successor)]
    (service.folder / "log").rename(service.folder / "log.1")
    order = [old, new] if first == "old" else [new, old]
    rest = order[1]
    for generation in order:
        service.signal(signal.SIGUSR1, generation[0])
        until(
            lambda pids=generation: all(logs_of(service, pid) == {"log"} for pid in pids),  # type: ignore[misc]
            "the new log file, and no other, in each process of the generation",
        )
        if generation is not rest:
            assert all(logs_of(service, pid) == {"log.1"} for pid in rest)
    service.write("boot")
    service.wait_log("Upgrade: done")
    check_sole(service, "B", master=successor)


# --- what workers do meanwhile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_max_requests_recycles_no_old_worker_while_an_upgrade_runs(service: Service, worker: str) -> None:
    """A recycled one would come back with the new release. After a failed upgrade it may."""
    limit = 20
    workers = started(service, worker_class=worker, max_requests=limit, hot_probation=0)
    successor = booting(service)
    for _ in range(3 * limit * len(workers)):
        assert service.ask().gen == "A"
    assert service.workers() == [*workers, successor]
    mark = service.mark()
    service.signal(signal.SIGTERM, successor)
    service.wait_log("Upgrade failed", after=mark)
    until(lambda: service.workers() == workers, "the successor's end")
    # The release that failed is not on the disk any more.
    service.release("A")

    def recycled() -> bool:
        service.ask()
        return not set(service.workers()) & set(workers) and len(service.workers()) == len(workers)

    until(recycled, "new workers in the place of all old ones")
    assert service.ask().gen == "A"
    assert "a worker has died" not in service.log
    service.upgrade("C")
    check_sole(service, "C")


def test_a_crashed_old_worker_is_replaced_while_a_successor_boots_and_that_is_said(service: Service) -> None:
    workers = started(service, hot_probation=0)
    successor = booting(service)
    mark = service.mark()
    service.signal(signal.SIGKILL, workers[0])
    service.wait_log(
        rf"\[{service.master}\] \[WARNING\] Upgrade: a worker has died and is replaced; the new one loads", after=mark
    )
    third = int(service.wait_log(r"Booting worker with pid: (\d+)", after=mark)[0][1])
    assert set(service.workers()) == {workers[1], successor, third}
    assert service.ask().gen == "A"
    service.write("boot")
    service.wait_log("Upgrade: done", after=mark)
    check_sole(service, "B")

