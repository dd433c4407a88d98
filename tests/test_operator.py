"""What a running service says of itself in its status file, and what it does when it is asked."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server import DEADLINE, Service, title, until, wait_gone

from gunicorn_hot import request, statusfile
from gunicorn_hot.status import Past, Status


def path(service: Service) -> str:
    """Return where the service's status is."""
    folder = service.folder / "gunicorn_hot"
    (found,) = until(lambda: list(folder.glob("*.json")), "the status file")
    return str(found)


def status(service: Service) -> Status:
    return statusfile.read(path(service))


def wait(service: Service, fact: Callable[[Status], Any], what: str) -> Status:
    """Wait until the status says something, and is no stale one."""
    found: list[Status] = []

    def says() -> bool:
        found[:] = [status(service)]
        return bool(fact(found[0])) and not found[0].is_stale()

    until(says, f"the status that says: {what}")
    return found[0]


def ask(service: Service, command: str) -> str:
    return request.send(path(service), command, "somebody@tty")


def wait_past(service: Service, id: str) -> Past:
    past = wait(service, lambda s: s.past(id), f"that {id} is over").past(id)
    assert past is not None
    return past


def roles(found: Status) -> dict[str, int]:
    return {master.role: master.pid for master in found.masters}



# --- the file


def test_a_service_at_rest(service: Service) -> None:
    service.write("REVISION", "abc123\n")
    service.configure("raw_env = ['X=1']", workers=2, proc_name="shop")
    service.start()
    found = wait(service, lambda s: s.state == "serving", "it serves")
    assert Path(path(service)).name == f"{service.master}.json"
    assert found.service.pid == service.master
    assert (found.service.name, found.service.pid_mode, found.service.control_socket) == ("shop", "follow", None)
    assert (found.service.pid_file, found.service.folder) == (f"{service.folder}/pid", str(service.folder))
    assert found.service.listeners == [f"http://{service.address}"]
    (master,) = found.masters
    assert (master.role, master.pid, master.generation, master.revision) == ("serving", service.master, 1, "abc123")
    assert [(worker.pid, worker.state) for worker in master.workers] == [(p, "serving") for p in service.workers()]
    assert (found.upgrade, found.history, found.generation) == (None, [], 1)
    written = os.stat(path(service)).st_ino
    for _ in range(20):
        service.ask()
    os.kill(service.master, signal.SIGUSR1)
    service.wait_log("Handling signal: usr1")
    # Nothing has changed. A worker that is replaced is a change.
    assert os.stat(path(service)).st_ino == written
    victim = service.workers()[0]
    service.signal(signal.SIGKILL, victim)
    found = wait(
        service,
        lambda s: len(s.masters[0].workers) == 2 and all(w.state == "serving" for w in s.masters[0].workers)
        and victim not in [w.pid for w in s.masters[0].workers],
        "two workers serve again",
    )  # fmt: skip
    file = path(service)
    service.stop()
    assert not os.path.exists(file)


def test_a_service_that_boots_says_so(service: Service) -> None:
    service.configure(workers=1)
    service.release("A hold=go")
    service.start(serves=False)
    service.wait_file("go.held", lines=1)
    found = wait(service, lambda s: s.masters[0].workers, "a worker")
    assert (found.state, found.masters[0].workers[0].state) == ("booting", "booting")
    service.master = found.service.pid
    service.write("go")
    wait(service, lambda s: s.state == "serving", "it serves")


def test_a_worker_that_is_too_busy_to_answer_the_pause_has_a_request_in_flight(service: Service) -> None:
    service.configure(workers=1, worker_class="sync", hot_probation=DEADLINE)
    service.start()

    def old(found: Status) -> list[tuple[str, int | None]]:
        (master,) = (master for master in found.masters if master.pid == service.master)
        return [(worker.state, worker.in_flight) for worker in master.workers]

    with service.held() as held:
        service.release("B")
        service.begin_upgrade()
        wait(service, lambda s: old(s) == [("paused", 1)], "it holds one")
        service.write("go")
        assert held.answer().gen == "A"
        wait(service, lambda s: old(s) == [("paused", 0)], "it holds none")


def test_it_is_where_the_setting_says_for_every_generation(service: Service) -> None:
    service.configure(hot_status_file="status")
    service.start()
    file = str(service.folder / "status")
    until(lambda: os.path.exists(file), "the status file")
    assert statusfile.read(file).service.pid == service.master
    assert not (service.folder / "gunicorn_hot").exists()
    service.configure(hot_status_file="other")
    service.upgrade("B")
    until(lambda: statusfile.read(file).past and statusfile.read(file).history, "the end of the upgrade")
    assert not (service.folder / "other").exists()
    service.stop()
    assert not os.path.exists(file)


def test_there_is_none_when_none_is_wanted(service: Service) -> None:
    service.configure(hot_status_file="")
    service.start()
    service.upgrade("B")
    assert service.ask().gen == "B"
    assert not (service.folder / "gunicorn_hot").exists()


def test_a_folder_that_is_not_safe_is_said_and_harms_nothing(service: Service) -> None:
    # Neither place can be used: the other one belongs to this user's other services.
    (service.folder / "gunicorn_hot").mkdir(mode=0o755)
    service.configure(hot_status_file=str(service.folder / "none" / "status"))
    service.start()
    service.upgrade("B")
    assert len(service.wait_log("Status file: .*No such file")) <= 2
    assert service.ask().gen == "B"


# --- upgrades


def test_an_upgrade_as_it_goes(service: Service) -> None:
    service.configure(workers=1, hot_probation=DEADLINE, threads=4)
    service.start()
    old = service.master
    service.release("B hold=go")
    id = ask(service, "upgrade")
    service.wait_file("go.held", lines=1)
    found = wait(service, lambda s: s.master("successor") and s.master("successor").workers, "its worker")
    assert found.upgrade is not None
    new = found.masters[1].pid
    assert (found.state, found.upgrade.id, found.upgrade.state) == ("upgrading", id, "booting")
    assert (found.upgrade.number, found.upgrade.check, found.upgrade.ready, found.upgrade.total) == (1, False, 0, 1)
    assert roles(found) == {"serving": old, "successor": new}
    assert [worker.state for worker in found.masters[1].workers] == ["booting"]
    assert found.masters[1].generation == 2
    with service.held("done") as held:
        service.write("go")
        found = wait(
            service,
            lambda s: s.upgrade.state == "probation" and s.masters[0].workers[0].in_flight == 1
            and s.masters[1].workers[0].state == "serving",
            "the probation, with a request in flight",
        )  # fmt: skip
        assert found.upgrade is not None
        assert found.masters[0].workers[0].state == "paused"
        assert found.upgrade.deadline is not None
        ask(service, "commit")
        service.wait_log("the probation is ended by somebody@tty")
        found = wait(service, lambda s: s.upgrade.draining_requests == 1, "a request that drains")
        assert found.upgrade is not None
        assert (found.written.pid, found.generation, found.service.pid) == (new, 2, new)
        assert (found.upgrade.id, found.upgrade.state, found.upgrade.draining_workers) == (id, "draining", 1)
        assert found.upgrade.deadline is not None
        assert roles(found) == {"serving": new, "draining": old}
        assert found.masters[1].workers[0].state == "draining"
        service.write("done")
        assert held.answer().gen == "A"
    past = wait_past(service, id)
    assert (past.number, past.outcome, past.reason, past.output, past.cut) == (1, "done", "", "", 0)
    assert (past.generation_from, past.generation_to) == (1, 2)
    assert min(past.phases.boot, past.phases.cutover_ms, past.phases.probation, past.phases.drain) > 0
    assert past.duration >= past.phases.boot + past.phases.probation + past.phases.drain
    service.master = new
    found = wait(service, lambda s: s.upgrade is None and len(s.masters) == 1, "one master")
    assert found.state == "serving"
    assert (found.totals.upgrades["done"], found.totals.duration.count) == (1, 1)
    service.signal(signal.SIGUSR2)
    wait(service, lambda s: s.upgrade and s.upgrade.state == "probation", "the probation")
    ask(service, "commit")
    found = wait(service, lambda s: len(s.history) == 2 and len(s.masters) == 1, "both upgrades")
    assert [(past.number, past.outcome) for past in found.history] == [(2, "done"), (1, "done")]
    assert found.history[0].id != id
    assert Path(path(service)).name == f"{old}.json"


def test_what_a_drain_has_cut(service: Service) -> None:
    service.configure(workers=1, hot_drain_timeout=0.2)
    service.start()
    with service.held():
        service.upgrade("B")
    (past,) = wait(service, lambda s: s.history, "the upgrade").history
    assert (past.outcome, past.cut) == ("done", 1)
    assert status(service).totals.cut == 1


@pytest.mark.parametrize("worker_class", ["gthread", "asgi"])
def test_why_an_application_cannot_be_loaded(service: Service, worker_class: str) -> None:
    service.configure(worker_class=worker_class, workers=1)
    service.start()
    service.release("B broken")
    past = wait_past(service, ask(service, "upgrade"))
    assert (past.outcome, past.number, past.generation_to) == ("failed", 1, 2)
    assert "RuntimeError: this release is broken" in past.reason
    assert "Traceback (most recent call last)" in past.output
    assert "subject.py" in past.output or "app.py" in past.output
    assert past.output.rstrip().endswith("RuntimeError: this release is broken")
    assert status(service).upgrade is None
    past = wait_past(service, ask(service, "check"))
    assert (past.outcome, past.number) == ("check-failed", 2)
    assert past.output.rstrip().endswith("RuntimeError: this release is broken")
    service.upgrade("C")


def test_why_a_preloaded_application_cannot_be_loaded(service: Service) -> None:
    service.configure(preload_app=True, workers=1)
    service.start()
    service.release("B broken")
    past = wait_past(service, ask(service, "upgrade"))
    assert past.outcome == "failed"
    # All that gunicorn prints of a RuntimeError.
    assert past.output == "Error: this release is broken"


# --- what is asked


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", "asgi", "uvicorn_worker.UvicornWorker"])
def test_a_check_changes_nothing(service: Service, worker_class: str) -> None:
    hooks = ("ready(server)", "failed(server, reason)", "done(server)")
    lines = [f"def on_upgrade_{hook}:\n    open('hook', 'w').close()" for hook in hooks]
    service.configure(*lines, worker_class=worker_class)
    service.start()
    workers, mark = service.workers(), service.mark()
    service.release("B")
    id = ask(service, "check")
    past = wait_past(service, id)
    assert (past.outcome, past.reason, past.generation_to) == ("checked", "", 2)
    assert past.phases.boot > 0
    assert (service.workers(), service.ask().gen, service.pid_in()) == (workers, "A", service.master)
    assert not (service.folder / "hook").exists()
    said = service.log[mark:]
    assert "Upgrade check: an upgrade would work" in said
    assert "ERROR" not in said
    assert "Upgrade:" not in said
    service.upgrade("C")


HALF_READY = """
def hot_check(worker):
    import os, time
    while open("release").read() == "B" and worker.age > 1 and not os.path.exists("second"):
        time.sleep(0.01)
"""


def test_a_check_serves_nobody_where_versions_may_mix(service: Service) -> None:
    service.configure(HALF_READY, hot_cutover="overlap")
    service.start()
    service.release("B")
    id = ask(service, "check")
    wait(service, lambda s: s.upgrade and s.upgrade.ready == 1, "one of two is ready")
    assert {service.ask().gen for _ in range(60)} == {"A"}
    service.write("second")
    assert wait_past(service, id).outcome == "checked"


def test_the_status_comes_back_when_somebody_has_tidied_up(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    wait(service, lambda s: s.state == "serving", "it serves")
    found = Path(path(service))
    found.unlink()
    found.parent.rmdir()
    service.upgrade("B")
    assert wait(service, lambda s: s.generation == 2 and s.upgrade is None, "the new generation").history
    assert statusfile.unsafe(str(found.parent)) == ""


def test_the_status_of_a_quiet_service_survives_who_tidies_up(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    wait(service, lambda s: s.state == "serving", "it serves")
    found = Path(path(service))
    # Whoever removes what was not used for days.
    long_ago = time.time() - 9 * 86400
    os.utime(found, (long_ago, long_ago))
    until(lambda: found.stat().st_mtime > long_ago + 86400, "a file that looks used")
    # Whoever removes all.
    found.unlink()
    until(found.exists, "the status again, although nothing has changed")
    found.unlink()
    found.parent.rmdir()
    until(found.exists, "the folder again")
    assert statusfile.read(found).state == "serving"
    assert statusfile.unsafe(str(found.parent)) == ""


def test_a_status_that_cannot_be_written_is_not_left_as_it_was(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    wait(service, lambda s: s.state == "serving", "it serves")
    found = Path(path(service))
    limits = resource.prlimit(service.master, resource.RLIMIT_FSIZE, (1, -1))
    ask(service, "rollback")
    until(lambda: not found.exists(), "the end of what is not true any more")
    resource.prlimit(service.master, resource.RLIMIT_FSIZE, limits)
    wait(service, lambda s: s.refused, "what has happened meanwhile")


@pytest.mark.parametrize("hot_pid", ["follow", "stable"])
def test_a_release_that_writes_none_leaves_none_of_its_predecessor(service: Service, hot_pid: str) -> None:
    service.configure(workers=1, hot_pid=hot_pid)
    service.start()
    found = path(service)
    service.configure(workers=1, hot_pid=hot_pid, hot_status_file="")
    with service.held() as held:
        new = service.begin_drain()
        until(lambda: not os.path.exists(found), "the end of what is not true any more")
        service.signal(signal.SIGKILL, new)
        wait(service, lambda s: s.written.pid == service.master and s.upgrade is None, "the old master's word again")
        service.write("go")
        assert held.answer().gen == "A"
    mark = service.mark()
    new = service.begin_upgrade()
    service.wait_log("Upgrade: done", after=mark)
    if hot_pid == "follow":
        wait_gone(service.master)
    else:
        until(lambda: "gunicorn_hot" in title(service.master) or "holder" in title(service.master), "a holder")
    assert not os.path.exists(found)
    service.master = new


def test_a_stock_gunicorn_to_which_the_service_was_left_has_no_status(service: Service) -> None:
    service.configure(workers=1, hot_leave=True, hot_ready_timeout=4)
    service.start()
    found = path(service)
    service.configure(workers=1, hook=None)
    service.release("B")
    service.begin_upgrade()
    wait_gone(service.master)
    assert service.ask().gen == "B"
    assert not os.path.exists(found)


def test_a_check_of_a_broken_release_changes_nothing(service: Service) -> None:
    service.configure("def on_upgrade_failed(server, reason):\n    open('hook', 'w').close()")
    service.start()
    workers = service.workers()
    service.release("B broken")
    assert wait_past(service, ask(service, "check")).outcome == "check-failed"
    assert "Upgrade check: an upgrade would fail" in service.log
    assert "Upgrade failed" not in service.log
    assert (service.workers(), service.ask().gen) == (workers, "A")
    assert not (service.folder / "hook").exists()


def test_aborting_what_boots(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    service.release("B hold=never")
    id = ask(service, "upgrade")
    service.wait_file("never.held", lines=1)
    ask(service, "abort")
    past = wait_past(service, id)
    assert (past.outcome, past.reason) == ("aborted", "aborted by somebody@tty")
    assert len(service.workers()) == 1
    service.upgrade("C")


@pytest.mark.parametrize("command", ["abort", "rollback"])
def test_rolling_back_what_is_in_probation(service: Service, command: str) -> None:
    service.configure(workers=1, hot_probation=DEADLINE)
    service.start()
    service.release("B")
    id = ask(service, "upgrade")
    wait(service, lambda s: s.upgrade and s.upgrade.state == "probation", "the probation")
    assert service.ask().gen == "B"
    ask(service, command)
    past = wait_past(service, id)
    assert past.outcome == "rolled-back"
    assert past.reason.endswith("by somebody@tty")
    assert service.ask().gen == "A"


def test_a_second_request_replaces_the_first(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    service.release("B hold=never")
    first = ask(service, "upgrade")
    service.wait_file("never.held", lines=1)
    service.release("C")
    second = ask(service, "upgrade")
    assert wait_past(service, first).outcome == "aborted"
    assert wait_past(service, second).outcome == "done"


def test_what_cannot_be_granted_is_refused_with_a_reason(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    for command in ("abort", "rollback", "commit", "reboot"):
        id = ask(service, command)
        found = wait(service, lambda s: s.refused and s.refused.id == id, "the refusal")  # noqa: B023
        assert found.refused is not None
        assert found.refused.reason == (
            "no upgrade is under way" if command != "reboot"
            else "'reboot' is none of upgrade, check, abort, rollback, commit"
        )  # fmt: skip
    Path(request.path(path(service))).write_text("nonsense")
    service.signal(request.SIGNAL)
    service.wait_log("Request ignored: .*is not understood")
    # Without a request it means nothing.
    service.signal(request.SIGNAL)
    service.upgrade("B")


@pytest.mark.parametrize("worker_class", ["gthread", "asgi"])
def test_a_worker_does_not_care_for_the_signal(service: Service, worker_class: str) -> None:
    service.configure(worker_class=worker_class, workers=1)
    service.start()
    caught = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{service.workers()[0]}/status").read_text())[0]
    assert not int(caught, 16) & 1 << (request.SIGNAL - 1)


def test_a_request_that_meets_the_drain_is_the_successors(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    with service.held() as held:
        before = status(service)
        new = service.begin_drain()
        old = service.master
        wait(service, lambda s: s.written.pid == new, "the new master's word")
        service.release("C hold=third")
        # As if it had been sent just before.
        for command in ("abort", "upgrade"):
            asked = {"id": f"late {command}", "command": command}
            statusfile.replace(request.path(path(service)), json.dumps(asked))
            service.signal(request.SIGNAL, old)
            if command == "abort":
                found = wait(service, lambda s: s.refused, "the refusal")
                assert found.refused is not None
                assert (found.refused.id, found.written.pid) == ("late abort", new)
        # Of three generations none is forgotten, whoever spoke last.
        found = wait(service, lambda s: len(s.masters) == 3, "three generations")
        assert sorted(roles(found)) == ["draining", "serving", "successor"]
        service.write("third")
        assert wait_past(service, "late upgrade").outcome == "done"
        assert before.written.pid == old
        service.write("go")
        assert held.answer().gen == "A"
    found = wait(service, lambda s: len(s.history) == 2 and len(s.masters) == 1, "both upgrades")
    assert {past.outcome for past in found.history} == {"done"}
    wait_gone(new)
    service.master = found.service.pid


# --- a pid that stays


def test_it_tells_of_the_holder_and_of_its_master(service: Service) -> None:
    service.configure(workers=1, hot_pid="stable")
    service.start()
    first = service.master
    for number in (1, 2):
        service.release(f"B{number}")
        past = wait_past(service, ask(service, "upgrade"))
        assert (past.outcome, past.number) == ("done", number)
        found = wait(service, lambda s: "holder" in roles(s) and len(s.masters) == 2, "a holder")
        holder = found.master("holder")
        assert holder is not None
        assert (holder.pid, found.service.pid, found.service.pid_mode) == (first, first, "stable")
        assert holder.since <= found.masters[0].since
        assert roles(found)["serving"] != first
    # Whoever knows that pid alone reaches the master too.
    statusfile.replace(request.path(path(service)), '{"id": "by the holder", "command": "check"}')
    service.signal(request.SIGNAL, first)
    assert wait_past(service, "by the holder").outcome == "checked"
    file = path(service)
    service.stop()
    assert not os.path.exists(file)


@pytest.mark.parametrize("hot_pid", ["follow", "stable"])
def test_a_stop_while_the_old_generation_drains_removes_the_file(service: Service, hot_pid: str) -> None:
    service.configure(workers=1, hot_pid=hot_pid)
    service.start()
    with service.held() as held:
        new = service.begin_drain()
        wait(service, lambda s: s.written.pid == new, "the new master's word")
        file = path(service)
        service.signal(signal.SIGTERM, new if hot_pid == "follow" else service.master)
        service.wait_log(rf"\[{new}\] .* Handling signal: term")
        service.write("go")
        assert held.answer().gen == "A"
    until(service.is_empty, "the end of the service")
    assert not os.path.exists(file)


# --- deaths


def test_the_successors_death_in_the_drain_is_taken_back_and_told(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    old = service.master
    with service.held() as held:
        id = ask(service, "upgrade")
        found = wait(service, lambda s: s.upgrade and s.upgrade.draining_requests, "the drain")
        new = found.written.pid
        assert new != old
        service.signal(signal.SIGKILL, new)
        past = wait_past(service, id)
        assert past.outcome == "taken-back"
        assert "was killed by SIGKILL" in past.reason
        found = wait(service, lambda s: len(s.masters) == 1, "one master")
        assert (found.written.pid, found.service.pid, found.generation, found.state) == (old, old, 1, "serving")
        assert [worker.state for worker in found.masters[0].workers] == ["serving"]
        service.write("go")
        assert held.answer().gen == "A"
    assert wait_past(service, ask(service, "upgrade")).number == 2


def test_the_predecessors_death_in_the_drain_is_told(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    old = service.master
    with service.held():
        id = ask(service, "upgrade")
        new = wait(service, lambda s: s.upgrade and s.upgrade.draining_requests, "the drain").written.pid
        service.signal(signal.SIGKILL, old)
        past = wait_past(service, id)
        assert (past.outcome, past.reason) == ("done", "the old master died while it drained")
        service.write("go")
    found = wait(service, lambda s: len(s.masters) == 1, "one master")
    assert (found.written.pid, found.generation) == (new, 2)


def test_the_predecessors_death_before_the_commit_is_told(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    old = service.master
    service.release("B hold=go")
    id = ask(service, "upgrade")
    service.wait_file("go.held", lines=1)
    service.signal(signal.SIGKILL, old)
    found = wait(service, lambda s: s.written.pid != old, "the successor's word")
    assert found.upgrade is not None
    assert (found.state, found.upgrade.id, found.upgrade.state) == ("upgrading", id, "booting")
    service.write("go")
    past = wait_past(service, id)
    assert (past.outcome, past.reason) == ("done", "the old master ended before the commit")
    found = status(service)
    assert (found.state, found.generation, len(found.masters)) == ("serving", 2, 1)


def test_a_service_that_was_killed_leaves_a_stale_file(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    assert not status(service).is_stale()
    service.signal(signal.SIGKILL)
    wait_gone(service.master)
    assert status(service).is_stale()
    with pytest.raises(ProcessLookupError):
        ask(service, "upgrade")


# --- hooks


def test_an_exception_in_a_hook_harms_nothing(service: Service) -> None:
    names = (
        "on_upgrade_ready(server)", "on_upgrade_done(server)", "on_upgrade_failed(server, reason)", "on_drain(worker)",
    )  # fmt: skip
    service.configure(*(f"def {name}:\n    raise RuntimeError('a hook')" for name in names), workers=1)
    service.start()
    service.release("B broken")
    assert wait_past(service, ask(service, "upgrade")).outcome == "failed"
    service.release("C")
    assert wait_past(service, ask(service, "upgrade")).outcome == "done"
    for name in names:
        service.wait_log(f"Exception in {name.partition('(')[0]} hook")
    assert service.ask().gen == "C"
