"""upgrade, check, abort, rollback, commit, status and watch against a real service, as a deploy script runs them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commandline
import pytest
from commandline import Ran, about, finish, hot, start
from server import Service, is_running, until, wait_gone

from gunicorn_hot import cli, statusfile
from gunicorn_hot.cli import following
from gunicorn_hot.cli import service as service_module

PIDS = ["follow", "stable"]


@pytest.fixture(autouse=True)
def _plain(service: Service) -> None:
    service.env = commandline.environment(service.env)


def begin(service: Service, **settings: Any) -> None:
    """Start the service, and wait until its status says so: clients may be answered before that."""
    service.configure(**settings)
    service.start()
    path = service.folder / settings.get("hot_status_file", f"gunicorn_hot/{service.master}.json")
    until(lambda: path.exists() and statusfile.read(path).state == "serving", "the status of a service that serves")


def upgrading(service: Service, *arguments: str | Path | int) -> subprocess.Popen[str]:
    """Run a command beside the test."""
    return start(service.env, *about(service, *arguments), cwd=service.folder)


def current(service: Service) -> dict[str, Any]:
    own = ["--status-file", "status.json"] if (service.folder / "status.json").exists() else []
    ran = hot(service, "status", "--json", *own)
    assert ran.code == 0, ran
    [event] = ran.events
    return event


def serving(service: Service) -> int:
    """Return the pid of the serving master, by the status."""
    [master] = [master for master in current(service)["masters"] if master["role"] == "serving"]
    pid: int = master["pid"]
    return pid


def wait_probation(service: Service, of: int = 1) -> None:
    """Wait until the upgrade of this number is in probation."""
    def found() -> bool:
        upgrade = current(service)["upgrade"] or {}
        return (upgrade.get("number"), upgrade.get("state")) == (of, "probation")

    until(found, "the probation in the status")


# --- upgrade


@pytest.mark.parametrize("hot_pid", PIDS)
def test_an_upgrade_is_done_when_the_old_generation_has_left(service: Service, hot_pid: str) -> None:
    begin(service, hot_pid=hot_pid)
    assert current(service)["service"]["pid_mode"] == hot_pid
    service.release("B")
    ran = hot(service, "upgrade")
    assert ran.code == 0, ran
    assert (service.ask().gen, ran.err) == ("B", "")
    if hot_pid == "follow":
        # The command has not ended before it was true.
        assert not is_running(service.master)
    lines = ran.out.splitlines()
    assert lines[0] == "Upgrade: asked for"
    assert [line.split()[0].rstrip(":,;") for line in lines if line.startswith("booting")]
    assert re.fullmatch(r"done in [\d.]+ s: generation 2 serves \(boot .*\), 0 requests cut", lines[-1])
    # Once more: by the pid that an operator has.
    service.release("C")
    ran = hot(service, "upgrade", "--pid", service.pid_in() or 0)
    assert ran.code == 0, ran
    assert service.ask().gen == "C"
    assert [past["outcome"] for past in current(service)["history"]] == ["done", "done"]


def test_an_upgrade_for_a_program(service: Service) -> None:
    begin(service)
    service.release("B")
    ran = hot(service, "upgrade", "--json", "--pid-file", "pid")
    assert ran.code == 0, ran
    asked, *steps, end = ran.events
    assert (asked["event"], asked["command"]) == ("asked", "upgrade")
    assert (end["event"], end["outcome"], end["id"]) == ("end", "done", asked["id"])
    assert {step["event"] for step in steps} == {"progress"}
    states = list(dict.fromkeys(step["state"] for step in steps))
    assert states[0] == "booting"
    order = ["booting", "cutting-over", "probation", "committing", "draining"]
    assert states == [state for state in order if state in states]


def test_what_drains_is_told(service: Service) -> None:
    begin(service, hot_drain_timeout=30)
    service.release("B")
    with service.held() as held:
        upgrade = upgrading(service, "upgrade")
        service.wait_log("draining 1 request")
        until(lambda: current(service)["upgrade"]["draining_requests"] == 1, "the request in the status")
        assert upgrade.poll() is None, "the old generation has not left"
        service.write("go")
        assert held.answer().gen == "A"
        ran = finish(upgrade)
    assert ran.code == 0, ran
    assert re.search(r"committed; draining: 1 request in \d old workers?, \d+ s left", ran.out)


def test_a_broken_release_is_refused_with_its_traceback(service: Service) -> None:
    begin(service)
    service.release("B broken")
    ran = hot(service, "upgrade")
    assert ran.code == 1, ran
    assert re.search(r"^failed after .*; generation 1 serves on$", ran.out, re.MULTILINE)
    assert "RuntimeError: this release is broken" in ran.out
    assert "Traceback (most recent call last):" in ran.out
    assert service.ask().gen == "A"
    ran = hot(service, "upgrade", "--json")
    assert ran.code == 1
    assert ran.events[-1]["outcome"] == "failed"
    assert "RuntimeError: this release is broken" in ran.events[-1]["output"]


def test_an_upgrade_that_is_not_waited_for(service: Service) -> None:
    begin(service)
    service.release("B")
    ran = hot(service, "upgrade", "--no-wait")
    assert (ran.code, ran.out) == (0, "Upgrade: asked for\n")
    service.wait_log("Upgrade: done")


def test_a_timeout_leaves_the_upgrade_alone(service: Service) -> None:
    begin(service)
    service.release("B hold=go")
    ran = hot(service, "upgrade", "--timeout", "1")
    assert ran.code == 3, ran
    assert "not done in 1s (--timeout); the upgrade goes on" in ran.err
    # The command that it names does what it says.
    abort = re.search(r"end it: gunicorn-hot (.*)$", ran.err, re.MULTILINE)
    assert abort
    ran = hot(service, *abort[1].split())
    assert ran.code == 0, ran
    assert service.ask().gen == "A"


def test_an_interrupted_command_leaves_the_upgrade_alone(service: Service) -> None:
    begin(service)
    service.release("B hold=go")
    upgrade = upgrading(service, "upgrade")
    service.wait_file("go.held", lines=1)
    upgrade.send_signal(signal.SIGINT)
    ran = finish(upgrade)
    assert ran.code == 130, ran
    assert "interrupted; the upgrade goes on" in ran.err
    assert "Traceback" not in ran.err
    service.write("go")
    service.wait_log("Upgrade: done")
    assert service.ask().gen == "B"


def test_a_second_upgrade_replaces_one_that_boots(service: Service) -> None:
    begin(service)
    service.release("B hold=never")
    first = upgrading(service, "upgrade")
    service.wait_file("never.held", lines=1)
    service.release("C")
    second = hot(service, "upgrade")
    assert second.code == 0, second
    assert "under way already (booting); it will be replaced" in second.out
    assert service.ask().gen == "C"
    ran = finish(first)
    assert ran.code == 1, ran


def test_an_upgrade_in_a_probation_begins_after_it(service: Service) -> None:
    begin(service, hot_probation=600)
    service.release("B")
    first = upgrading(service, "upgrade")
    wait_probation(service)
    service.release("C")
    second = upgrading(service, "upgrade")
    service.wait_log("passed on to the successor")
    assert hot(service, "commit").code == 0
    wait_probation(service, of=2)
    assert hot(service, "commit").code == 0
    ran = finish(second)
    assert ran.code == 0, ran
    assert "Upgrade 1 is under way already (probation); this one begins after it" in ran.out
    assert service.ask().gen == "C"
    ran = finish(first)
    assert ran.code == 0, ran


def test_a_master_that_does_not_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(service, hot_status_file=str(service.folder / "status.json"))
    monkeypatch.setattr(following, "ANSWER", 0.3)
    service.signal(signal.SIGSTOP)
    try:
        code = cli.main(["upgrade", "--status-file", str(service.folder / "status.json")])
    finally:
        service.signal(signal.SIGCONT)
    assert code == 4
    assert "the master has not read the request in 0.3s; it is withdrawn" in capsys.readouterr().err
    assert not list(service.folder.glob("*.request"))
    assert current(service)["upgrade"] is None


def test_a_request_that_another_one_has_overtaken(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(service, hot_status_file=str(service.folder / "status.json"))
    monkeypatch.setattr(following, "_MENTION", 2.0)  # s; by then the master has begun the other one
    service.signal(signal.SIGSTOP)

    def overtake() -> None:
        path = service.folder / "status.json.request"
        until(path.exists, "the request")
        statusfile.replace(str(path), '{"id": "another", "command": "check"}')
        service.signal(signal.SIGCONT)

    other = threading.Thread(target=overtake)
    other.start()
    code = cli.main(["upgrade", "--status-file", str(service.folder / "status.json")])
    other.join()
    assert code == 1
    assert "overtaken by another request; nothing was done" in capsys.readouterr().err
    assert [past["id"] for past in current(service)["history"]] == ["another"]


def test_a_request_of_which_the_status_says_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upgrade may go on: it must not be said that there is none."""
    begin(service, hot_status_file=str(service.folder / "status.json"))
    monkeypatch.setattr(following, "_MENTION", 0.3)
    path = service.folder / "status.json.request"
    service.signal(signal.SIGSTOP)

    def take() -> None:
        until(path.exists, "the request")
        path.unlink()

    master = threading.Thread(target=take)
    master.start()
    try:
        code = cli.main(["upgrade", "--status-file", str(service.folder / "status.json")])
    finally:
        master.join()
        service.signal(signal.SIGCONT)
    assert code == 4
    assert "the request is gone, and the service says nothing of it since" in capsys.readouterr().err


def test_a_status_file_that_somebody_removes_comes_back(service: Service) -> None:
    begin(service)
    service.release("B hold=go")
    upgrade = upgrading(service, "upgrade")
    service.wait_file("go.held", lines=1)
    [path] = (service.folder / "gunicorn_hot").glob("*.json")
    path.unlink()
    until(path.exists, "the file again")
    service.write("go")
    ran = finish(upgrade)
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("hot_pid", PIDS)
def test_an_upgrade_to_a_release_without_a_status(
    service: Service, hot_pid: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(service, hot_pid=hot_pid, hot_status_file=str(service.folder / "status.json"))
    service.configure(hot_pid=hot_pid, hot_status_file="")
    service.release("B")
    monkeypatch.setattr(service_module, "REWRITE", 0.5)
    code = cli.main(["upgrade", "--status-file", str(service.folder / "status.json")])
    assert code == 4
    assert "is still there, and writes no status any more" in capsys.readouterr().err
    service.wait_log("Upgrade: done")
    assert service.ask().gen == "B"
    ran = hot(service, "status", "--status-file", service.folder / "status.json")
    assert ran.code == 4
    assert "died" not in ran.err


def test_a_status_that_is_seen_through_a_process_that_ends(service: Service) -> None:
    """So it is where the service has a /tmp of its own: through its old master's root."""
    begin(service, hot_status_file=str(service.folder / "status.json"))
    service.release("B hold=go")
    path = f"/proc/{service.master}/root{service.folder}/status.json"
    first = hot(service, "upgrade", "--status-file", path, "--timeout", "1")
    assert first.code == 3, first
    assert f"end it: gunicorn-hot abort --pid {service.master}" in first.err
    second = upgrading(service, "upgrade", "--status-file", path)
    service.wait_log("Upgrade: booting successor", count=2)
    service.write("go")
    ran = finish(second)
    assert (ran.code, ran.err) == (0, "")
    assert not is_running(service.master)


@pytest.mark.parametrize("hot_pid", PIDS)
def test_a_service_that_dies_meanwhile(service: Service, hot_pid: str) -> None:
    begin(service, hot_pid=hot_pid, hot_status_file=str(service.folder / "status.json"))
    service.release("B hold=never")
    upgrade = upgrading(service, "upgrade", "--status-file", "status.json")
    service.wait_file("never.held", lines=1)
    status_file = service.folder / "status.json"
    for master in sorted(current(service)["masters"], key=lambda m: m["role"] == "serving"):
        service.signal(signal.SIGKILL, master["pid"])
        wait_gone(master["pid"])
    ran = finish(upgrade)
    assert ran.code in (1, 4), ran
    if ran.code == 4:
        assert "the service has died" in ran.err
    ran = hot(service, "status", "--status-file", status_file)
    assert ran.code == 4
    assert "the service has died: app:app" in ran.err
    assert hot(service, "status").code == 4


def test_a_service_that_is_stopped_meanwhile(service: Service) -> None:
    begin(service)
    service.release("B hold=never")
    upgrade = upgrading(service, "upgrade")
    service.wait_file("never.held", lines=1)
    service.signal(signal.SIGTERM)
    ran = finish(upgrade)
    assert ran.code in (1, 4), ran
    wait_gone(service.master)
    assert hot(service, "status").code == 4


# --- check


def test_a_check_changes_nothing(service: Service) -> None:
    begin(service)
    service.release("B")
    before = service.workers()
    ran = hot(service, "check")
    assert ran.code == 0, ran
    assert "an upgrade would work; nothing was changed" in ran.out
    assert service.ask().gen == "A"
    assert service.workers() == before
    assert "cut over" not in service.log
    assert current(service)["generation"] == 1


def test_a_check_of_a_broken_release_says_why(service: Service) -> None:
    begin(service)
    service.release("B broken")
    ran = hot(service, "check")
    assert ran.code == 1, ran
    assert "an upgrade would fail" in ran.out
    assert "RuntimeError: this release is broken" in ran.out
    assert service.ask().gen == "A"


# --- abort, rollback, commit


def test_abort_of_what_boots(service: Service) -> None:
    begin(service)
    service.release("B hold=never")
    upgrade = upgrading(service, "upgrade")
    service.wait_file("never.held", lines=1)
    ran = hot(service, "abort")
    assert ran.code == 0, ran
    assert finish(upgrade).code == 1
    assert service.ask().gen == "A"


@pytest.mark.parametrize("command", ["abort", "rollback"])
def test_out_of_probation_by_command(service: Service, command: str) -> None:
    begin(service, hot_probation=60)
    service.release("B")
    upgrade = upgrading(service, "upgrade")
    wait_probation(service)
    assert service.ask().gen == "B"
    ran = hot(service, command)
    assert ran.code == 0, ran
    assert service.ask().gen == "A"
    ran = finish(upgrade)
    assert ran.code == 1, ran
    assert "generation 1 serves on" in ran.out


@pytest.mark.parametrize("hot_pid", PIDS)
def test_commit_ends_the_probation(service: Service, hot_pid: str) -> None:
    begin(service, hot_probation=600, hot_pid=hot_pid)
    service.release("B")
    upgrade = upgrading(service, "upgrade")
    wait_probation(service)
    ran = hot(service, "commit")
    assert ran.code == 0, ran
    assert finish(upgrade).code == 0
    assert service.ask().gen == "B"


def test_a_commit_is_done_when_the_drain_begins(service: Service) -> None:
    begin(service, hot_probation=600)
    with service.held() as held:
        service.release("B")
        upgrade = upgrading(service, "upgrade")
        wait_probation(service)
        ran = hot(service, "commit")
        assert ran.code == 0, ran
        assert "committed" in ran.out.splitlines()[-1]
        assert upgrade.poll() is None
        service.write("go")
        assert held.answer().gen == "A"
    assert finish(upgrade).code == 0
    assert "done when the old generation begins to drain" in hot(service, "commit", "--help").out


@pytest.mark.parametrize("command", ["abort", "rollback", "commit"])
def test_nothing_to_intervene_in(service: Service, command: str) -> None:
    begin(service)
    ran = hot(service, command)
    assert ran.code == 1, ran
    assert "no upgrade is under way" in ran.err


def test_a_rollback_of_what_boots_is_refused(service: Service) -> None:
    begin(service)
    service.release("B hold=go")
    upgrade = upgrading(service, "upgrade")
    service.wait_file("go.held", lines=1)
    ran = hot(service, "rollback")
    assert ran.code == 1, ran
    assert "refused: " in ran.err
    service.write("go")
    assert finish(upgrade).code == 0


# --- status and watch


def test_a_status_for_people(service: Service) -> None:
    begin(service)
    ran = hot(service, "status")
    assert ran.code == 0, ran
    assert f"app:app: serving, generation 1, pid {service.master} (follow)" in ran.out
    assert f"http://{service.address}" in ran.out
    for worker in service.workers():
        assert re.search(rf"^{worker} +{service.master} +serving", ran.out, re.MULTILINE)


def test_watch_shows_each_change_until_it_is_ended(service: Service) -> None:
    begin(service)
    shown = service.folder / "shown"
    with shown.open("w") as out:
        watch = start(service.env, *about(service, "watch"), cwd=service.folder, stdout=out)
        until(lambda: "serving, generation 1" in shown.read_text(), "the status")
        service.release("B")
        service.upgrade()
        until(lambda: "done in" in shown.read_text(), "the end of the upgrade")
        watch.send_signal(signal.SIGINT)
        assert finish(watch).code == 0
    assert "booting" in shown.read_text()


def test_watch_for_a_program_ends_with_the_service(service: Service) -> None:
    begin(service)
    shown = service.folder / "shown"
    with shown.open("w") as out:
        watch = start(service.env, *about(service, "watch", "--json"), cwd=service.folder, stdout=out)
        until(shown.read_text, "the status")
        service.release("B")
        service.upgrade()
        service.signal(signal.SIGTERM)
        ran = finish(watch)
    assert ran.code == 4, ran
    *statuses, end = ran._replace(out=shown.read_text()).events
    assert {event["event"] for event in statuses} == {"status"}
    assert end["event"] == "error"


def test_a_reader_that_leaves_is_no_mistake(service: Service) -> None:
    begin(service)
    read, write = os.pipe()
    os.close(read)
    try:
        ran = finish(start(service.env, *about(service, "status"), cwd=service.folder, stdout=write))
    finally:
        os.close(write)
    assert (ran.code, ran.err) == (141, "")


# --- on a terminal


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    main, other = pty.openpty()
    yield main, other
    os.close(main)
    os.close(other)


class OnTerminal:
    """A command on a terminal, and what that was sent."""

    def __init__(self, service: Service, terminal: tuple[int, int], *arguments: str) -> None:
        self._main, other = terminal
        env = {**service.env, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}
        self.popen = start(env, *about(service, *arguments), cwd=service.folder, stdout=other)
        self._sent = b""

    @property
    def sent(self) -> str:
        while select.select([self._main], [], [], 0)[0]:
            self._sent += os.read(self._main, 65536)
        return self._sent.decode(errors="replace")

    def finish(self) -> tuple[Ran, str]:
        """Wait for its end, and read on meanwhile; returns how it ended, and all that was sent."""
        until(lambda: self.sent and self.popen.poll() is not None, "the end of the command", commandline.LONG)
        return finish(self.popen), self.sent


def on_terminal(service: Service, terminal: tuple[int, int], *arguments: str) -> tuple[Ran, str]:
    return OnTerminal(service, terminal, *arguments).finish()


def test_a_live_line_on_a_terminal(service: Service, terminal: tuple[int, int]) -> None:
    pytest.importorskip("rich")
    begin(service)
    service.release("B sleep=0.5")
    ran, sent = on_terminal(service, terminal, "upgrade")
    assert ran.code == 0, (ran, sent)
    assert "\x1b[" in sent, "no colours, no live line"
    assert "✓" in sent
    assert "done in" in sent
    assert "\x1b[?25h" in sent.rpartition("\x1b[?25l")[2], "the cursor is not shown again"
    service.release("C broken")
    ran, sent = on_terminal(service, terminal, "upgrade")
    assert ran.code == 1, (ran, sent)
    assert "✗" in sent
    assert "RuntimeError: this release is broken" in sent


def test_tables_on_a_terminal(service: Service, terminal: tuple[int, int]) -> None:
    pytest.importorskip("rich")
    begin(service)
    ran, sent = on_terminal(service, terminal, "status")
    assert ran.code == 0, (ran, sent)
    assert "IN FLIGHT" in sent
    assert str(service.master) in sent


def test_watch_on_a_terminal_redraws_itself(service: Service, terminal: tuple[int, int]) -> None:
    pytest.importorskip("rich")
    begin(service)
    watch = OnTerminal(service, terminal, "watch")
    until(lambda: "serving, generation 1" in watch.sent, "the status")
    service.release("B")
    service.upgrade()
    until(lambda: "serving, generation 2" in watch.sent, "the new generation")
    until(lambda: re.search(r"1 > 2 +.*done", watch.sent), "the upgrade in the table")
    watch.popen.send_signal(signal.SIGINT)
    ran, sent = watch.finish()
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"\x1b\[\d*A", sent), "it does not go back up to redraw"
    assert "\x1b[?25h" in sent.rpartition("\x1b[?25l")[2], "the cursor is not shown again"


def test_plain_lines_where_there_is_no_rich(service: Service, terminal: tuple[int, int]) -> None:
    begin(service)
    hidden = service.folder / "hidden"
    hidden.mkdir()
    (hidden / "rich.py").write_text("raise ImportError")
    path = os.pathsep.join(filter(None, (str(hidden), service.env.get("PYTHONPATH"))))
    service.env["PYTHONPATH"] = path
    service.release("B")
    ran, sent = on_terminal(service, terminal, "upgrade")
    assert ran.code == 0, (ran, sent)
    assert "\x1b" not in sent
    assert "done in" in sent


# --- beside gunicorn's own control socket


def test_with_gunicorns_control_socket_too(service: Service) -> None:
    begin(service, control_socket_disable=False, control_socket=str(service.folder / "ctl"))
    service.release("B")
    ran = hot(service, "upgrade")
    assert ran.code == 0, ran
    assert current(service)["service"]["control_socket"] == str(service.folder / "ctl")
    service.master = serving(service)


@pytest.mark.parametrize("when", ["booting", "probation", "draining"])
def test_a_service_that_ends_with_its_pid_is_no_upgrade_that_is_done(service: Service, when: str) -> None:
    begin(service, hot_pid="stable", hot_probation=600 if when == "probation" else 0.2)
    with service.connect() as connection:
        if when == "draining":
            connection.send_request("/hold?file=never")
            service.wait_file("never.held", lines=1)
        service.release("B hold=never" if when == "booting" else "B")
        upgrade = upgrading(service, "upgrade")
        if when == "booting":
            service.wait_file("never.held", lines=1)
        elif when == "probation":
            wait_probation(service)
        else:
            service.wait_log("committed to successor")
        service.signal(signal.SIGKILL)
        ran = finish(upgrade)
        service.write("never")
    assert ran.code == 4, ran
    assert re.search("the service has (ended|died)", ran.err), ran
