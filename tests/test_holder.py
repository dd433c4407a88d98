"""The service's pid stays: what the holder decides, and what is seen of it from outside."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held import Held
from outside import unnoticed
from server import is_running, process, title, until, wait_gone

from gunicorn_hot import holder
from gunicorn_hot.holder import END, SEND, Hold

# --- decisions --------------------------------------------------------------------------------------------------

TERM, HUP = signal.SIGTERM, signal.SIGHUP


def hold(*pids: int, patience: float = 60) -> Hold:
    made = Hold(patience)
    for generation, pid in enumerate(pids, 2):
        made.announced(pid, generation)
    return made


def test_signals_go_to_the_last_master_that_has_announced_itself() -> None:
    made = hold(7, 8)
    assert (made.master, made.generation) == (8, 3)
    assert made.signalled(HUP) == ((SEND, 8, HUP),)
    assert made.signalled(signal.SIGUSR2) == ((SEND, 8, signal.SIGUSR2),)
    made.exited(7, 0, 1.0)
    assert made.signalled(HUP) == ((SEND, 8, HUP),)


def test_log_files_are_reopened_by_masters_that_drain_too() -> None:
    assert hold(7, 8).signalled(signal.SIGUSR1) == ((SEND, 8, signal.SIGUSR1), (SEND, 7, signal.SIGUSR1))


def test_a_stop_is_for_all_and_also_for_whoever_takes_over_later() -> None:
    made = hold(7, 8)
    assert made.signalled(TERM) == ((SEND, 8, TERM), (SEND, 7, TERM))
    assert made.announced(9, 4) == ((SEND, 9, TERM),)
    assert made.signalled(signal.SIGINT) == tuple((SEND, pid, signal.SIGINT) for pid in (9, 8, 7))


def test_a_dead_process_gets_no_signal() -> None:
    made = hold(7, 8)
    made.exited(7, 0, 1.0)
    assert made.signalled(TERM) == ((SEND, 8, TERM),)
    made.exited(8, 0, 1.0)
    assert made.signalled(TERM) == ()


def test_who_takes_back_is_the_master_again_and_answers_for_later_ones() -> None:
    made = hold(7, 8)
    made.announced(7, 2)
    assert (made.master, made.generation) == (7, 2)
    assert made.signalled(TERM) == ((SEND, 7, TERM),)


@pytest.mark.parametrize("code", [0, 3, 4, -9])
def test_the_end_is_the_masters_end(code: int) -> None:
    made = hold(7)
    assert made.ended(is_child=True) == ()
    assert made.exited(7, code, 1.0) == ()
    assert made.ended(is_child=False) == ((END, code, 0),)


def test_a_master_that_its_predecessor_has_reaped() -> None:
    made = hold(7, 8)
    made.told({"EXITED": "8", "CODE": "3"}, 1.0)
    made.exited(7, 0, 2.0)
    assert made.ended(is_child=False) == ((END, 3, 0),)


def test_a_master_whose_end_nobody_has_seen() -> None:
    made = hold(7, 8)
    made.exited(7, 0, 2.0)
    assert made.ended(is_child=False) == ((END, 0, 0),)
    assert hold(7).ended(is_child=False) == ((END, 1, 0),)


def test_another_master_may_announce_itself_for_a_while() -> None:
    made = hold(7, patience=60)
    made.exited(7, -9, 100.0)
    assert made.tick(159.0) == ()
    assert made.tick(160.0) == ((END, -9, 0),)
    made.announced(8, 3)
    assert made.tick(1000.0) == ()


def test_nobody_is_waited_for_in_haste_while_a_master_lives_that_may_take_back() -> None:
    made = hold(7, 8)
    made.exited(8, -9, 100.0)
    assert made.deadline is None
    made.exited(7, -9, 100.0)
    assert made.deadline == 160.0


def test_without_patience_there_is_no_bound() -> None:
    made = hold(7, patience=0)
    made.exited(7, -9, 100.0)
    assert made.tick(1e9) == ()


def test_the_end_of_other_children_means_nothing() -> None:
    made = hold(7)
    assert made.exited(99, -11, 1.0) == ()
    assert made.masters == {7: None}


@pytest.mark.parametrize("said", [{}, {"MASTER": "x"}, {"MASTER": "8"}, {"EXITED": "7"}, {"LATER": "1"}])
def test_what_a_later_release_says_is_skipped(said: dict[str, str]) -> None:
    made = hold(7)
    assert made.told(said, 1.0) == ()
    assert (made.master, made.masters) == (7, {7: None})


def test_fields() -> None:
    assert holder.fields(b"MASTER=7\nNAME=a=b\nPIDFILE=") == {"MASTER": "7", "NAME": "a=b", "PIDFILE": ""}
    assert holder.fields(b"NOTIFY\nREADY=1\nSTATUS=x") == {"NOTIFY": "READY=1\nSTATUS=x"}


# --- a real service ---------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path, environment: dict[str, str]) -> Iterator[Held]:
    with Held(tmp_path, environment) as service:
        yield service


def configure(service: Held, *lines: str, **settings: Any) -> None:
    service.configure(*lines, **{"hot_pid": "stable", "workers": 1, **settings})


def started(service: Held, *lines: str, **settings: Any) -> None:
    """Start, and upgrade once: the service's pid is the holder's."""
    configure(service, *lines, **settings)
    service.start()
    service.upgrade("B")


def memory(pid: int) -> int:
    """Return what of a process is in memory, bytes."""
    return int(re.findall(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) * 1024


def test_three_upgrades(service: Held) -> None:
    service.use_unix()
    configure(service, "proc_name = 'shop'", workers=2)
    service.start()
    file = service.folder / "pid"
    written = file.stat()
    with unnoticed(service) as load:
        for generation, release in enumerate("BCD", 2):
            service.upgrade(release)
            assert title(service.pid) == f"gunicorn: hot [shop] for master {service.master}, generation {generation}"
            load.wait_for(10, gen=release)
            assert service.pid_in() == service.pid
            assert not (service.folder / "pid.2").exists()
    # The first master's file, or the holder's: they have one pid.
    assert file.stat().st_uid == written.st_uid
    assert file.stat().st_mode == written.st_mode
    assert memory(service.pid) <= 12 * 1024 * 1024
    assert os.readlink(f"/proc/{service.pid}/cwd") == "/"
    # The three standard ones, the channel, and a pipe to wait with.
    assert len(os.listdir(f"/proc/{service.pid}/fd")) == 6
    assert "gunicorn" not in Path(f"/proc/{service.pid}/maps").read_text()
    service.signal(signal.SIGTERM, service.pid)
    assert service.ended() == 0
    assert not file.exists()
    assert not (service.folder / "sock").exists()


@pytest.mark.parametrize("sig", ["HUP", "USR1", "TTIN", "TTOU"])
def test_signals_are_passed_on(service: Held, sig: str) -> None:
    started(service)
    mark = service.mark()
    service.signal(signal.Signals[f"SIG{sig}"], service.pid)
    service.wait_log(rf"\[{service.master}\] .* Handling signal: {sig.lower()}", after=mark)
    if sig == "HUP":
        service.wait_log("Booting worker", after=mark)
    # gunicorn would find its own pid file taken, and end.
    service.upgrade("C")
    assert service.ask().gen == "C"
    assert service.pid_in() == service.pid


@pytest.mark.parametrize("sig", ["TERM", "INT", "QUIT"])
def test_the_service_ends_as_gunicorn_does(service: Held, sig: str) -> None:
    started(service)
    mark = service.mark()
    with service.held() as connection:
        service.signal(signal.Signals[f"SIG{sig}"], service.pid)
        service.wait_log(rf"\[{service.master}\] .* Handling signal: {sig.lower()}", after=mark)
        if sig == "TERM":
            service.write("go")
            assert connection.answer().gen == "B"
    assert service.ended() == 0


@pytest.mark.parametrize(("application", "code"), [("raise RuntimeError('broken')", 3), ("", 4)])
def test_an_application_that_cannot_be_loaded_any_more_is_the_services_exit_code(
    service: Held, application: str, code: int
) -> None:
    started(service)
    service.write("app.py", application)
    service.signal(signal.SIGKILL, service.workers()[0])
    assert service.ended() == code


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGABRT])
def test_a_master_that_is_killed_ends_the_service_by_the_same_signal(service: Held, sig: signal.Signals) -> None:
    started(service)
    service.signal(sig, service.master)
    assert service.ended() == -sig
    assert not (service.folder / "pid").exists()


def test_without_its_holder_a_master_stops_gracefully(service: Held) -> None:
    started(service)
    mark = service.mark()
    with service.held() as connection:
        service.signal(signal.SIGKILL, service.pid)
        service.wait_log("The process that had the service's pid is gone, stopping", after=mark)
        service.write("go")
        assert connection.answer().gen == "B"
    assert service.ended() == -signal.SIGKILL
    assert "Shutting down: Master" in service.log[mark:]


@pytest.mark.parametrize("state", ["booting", "in probation", "draining"])
def test_without_the_first_master_its_successor_stops_too(service: Held, state: str) -> None:
    # Whoever watches that pid will start the service anew.
    configure(service, hot_probation=60 if state == "in probation" else 0.2)
    service.start()
    service.release("B hold=go" if state == "booting" else "B")
    with service.held("first"):
        service.begin_upgrade()
        if state == "booting":
            service.wait_file("go.held", lines=1)
        else:
            service.wait_log("committed to successor" if state == "draining" else "in probation")
        service.signal(signal.SIGKILL, service.pid)
        service.write("go")
        service.write("first")
    assert service.ended() == -signal.SIGKILL


def test_a_failed_upgrade_changes_nothing(service: Held) -> None:
    started(service)
    before, mark = title(service.pid), service.mark()
    service.release("C broken")
    service.begin_upgrade()
    service.wait_log("Upgrade failed", after=mark)
    assert service.ask().gen == "B"
    assert (title(service.pid), service.pid_in()) == (before, service.pid)
    service.upgrade("D")
    assert service.ask().gen == "D"


def test_a_rollback_and_the_next_upgrade(service: Held) -> None:
    started(service, hot_probation=3)
    mark = service.mark()
    service.release("C")
    new = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    service.signal(signal.SIGKILL, new)
    service.wait_log("Upgrade failed", after=mark)
    assert service.ask().gen == "B"
    service.upgrade("D")
    assert service.ask().gen == "D"


def test_a_successor_that_dies_while_a_held_master_drains_is_taken_back_from(service: Held) -> None:
    started(service)
    old, mark = service.master, service.mark()
    service.release("C")
    with service.held() as connection:
        new = service.begin_upgrade()
        service.wait_log("committed to successor", after=mark)
        until(lambda: f"for master {new}," in title(service.pid), "the holder's title")
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed", after=mark)
        until(lambda: f"for master {old}, generation 2" in title(service.pid), "the holder's title")
        service.write("go")
        assert connection.answer().gen == "B"
    assert service.ask().gen in "BC"
    service.upgrade("D")
    assert service.ask().gen == "D"


def test_a_master_that_dies_while_its_successor_boots_leaves_the_service_to_it(service: Held) -> None:
    started(service)
    service.release("C hold=go")
    old, new = service.master, service.begin_upgrade()
    service.wait_file("go.held", lines=1)
    service.signal(signal.SIGKILL, old)
    service.wait_held(new)
    service.write("go")
    until(lambda: service.ask().gen == "C", "the new release")
    service.upgrade("D")
    assert service.ask().gen == "D"


def test_a_stop_while_the_first_master_drains_stops_all(service: Held) -> None:
    configure(service)
    service.start()
    with service.held() as connection:
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("committed to successor")
        service.signal(signal.SIGTERM, service.pid)
        service.wait_log(rf"\[{new}\] .* Handling signal: term")
        service.write("go")
        assert connection.answer().gen == "A"
    assert service.ended() == 0
    assert not (service.folder / "pid").exists()


def test_an_upgrade_while_the_first_master_drains(service: Held) -> None:
    configure(service)
    service.start()
    with service.held() as connection:
        service.release("B")
        second = service.begin_upgrade()
        service.wait_log("committed to successor")
        service.release("C")
        mark = service.mark()
        third = service.begin_upgrade()
        service.wait_log(rf"\[{second}\] .* Upgrade: done", after=mark)
        wait_gone(second)
        assert service.ask().gen == "C"
        # An orphan of the second master, adopted by the first.
        until(lambda: process(third).parent == service.pid, "the adoption")
        service.write("go")
        assert connection.answer().gen == "A"
    service.wait_held(third)
    assert "generation 3" in title(service.pid)
    service.upgrade("D")
    assert service.ask().gen == "D"


def test_the_first_master_takes_back(service: Held) -> None:
    configure(service)
    service.start()
    with service.held() as connection:
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("committed to successor")
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed")
        service.write("go")
        assert connection.answer().gen == "A"
    assert service.ask().gen in "AB"
    service.upgrade("C")
    assert service.ask().gen == "C"
    assert service.pid_in() == service.pid


def test_without_an_interpreter_the_old_master_holds_as_it_is(service: Held) -> None:
    configure(
        service,
        "import sys",
        "def on_upgrade_done(server):",
        "    sys.executable = sys._base_executable = '/gone'",
    )
    service.start()
    service.upgrade("B")
    assert "this process goes on as it is" in service.log
    service.upgrade("C")
    assert service.ask().gen == "C"
    service.signal(signal.SIGTERM, service.pid)
    assert service.ended() == 0


def test_the_pid_file_may_move(service: Held) -> None:
    started(service)
    configure(service, pidfile="other")
    service.upgrade("C")
    assert service.pid_in("other") == service.pid
    assert not (service.folder / "pid").exists()


def test_orphans_are_reaped(service: Held) -> None:
    command = "cat go & echo $! > orphan"
    started(service, "import subprocess", f"when_ready = lambda _: subprocess.run({command!r}, shell=True)")
    os.mkfifo(service.folder / "go")
    service.upgrade("C")
    orphan = service.pid_in("orphan")
    assert orphan is not None
    assert is_running(orphan)
    service.upgrade("D")
    (service.folder / "go").write_text("")
    until(lambda: process(orphan) is None, "the end of the orphan, reaped")
