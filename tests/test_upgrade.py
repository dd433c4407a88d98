"""What an upgrade does, seen from outside: its log, its files, its processes, and what they hold."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest
from outside import descriptors, sockets
from server import Service, free_port, is_running, title, until, wait_gone

STEPS = [
    r"\[{old}\] .* Handling signal: usr2",
    r"\[{old}\] .* Upgrade: booting successor with pid: {new}",
    r"\[{new}\] .* Starting gunicorn",
    r"\[{new}\] .* Listening at: ",
    r"\[{new_worker}\] .* Booting worker with pid: {new_worker}",
    r"\[{old}\] .* Upgrade: 1 of 1 workers ready",
    r"\[{old}\] .* Upgrade: successor with pid: {new} is ready after \d+\.\d\ds",
    r"\[{old}\] .* Upgrade: cut over, in probation for 1s \(hot_probation\)",
    r"\[{new}\] .* Upgrade: this master has taken over from pid: {old}",
    r"\[{old}\] .* Upgrade: committed to successor with pid: {new}; draining 0 requests in 1 workers, 7s at most",
    r"\[{old_worker}\] .* Worker exiting \(pid: {old_worker}\)",
    r"\[{old}\] .* Upgrade: done, drained in \d+\.\d\ds, 0 requests cut",
    r"\[{old}\] .* Shutting down: Master",
    r"\[{new}\] .* The predecessor has left",
]


def test_log_tells_each_step_once_and_in_order(service: Service) -> None:
    # In the probation the worker has time to say that it holds nothing.
    service.configure(workers=1, hot_probation=1, hot_drain_timeout=7)
    service.start()
    old, (old_worker,) = service.master, service.workers()
    mark = service.mark()
    new = service.upgrade("B")
    service.wait_log("The predecessor has left", after=mark)
    (new_worker,) = service.workers()
    answer = service.ask()
    assert (answer.gen, answer.pid) == ("B", new_worker)
    log = service.log[mark:]
    at = 0
    for step in STEPS:
        pattern = step.format(old=old, new=new, old_worker=old_worker, new_worker=new_worker)
        (match,) = re.finditer(pattern, log)
        # Two processes write: what one does when it hears of the other has no order.
        if not step.startswith((r"\[{old_worker}", r"\[{new}\] .* The pre")):
            assert match.start() > at, pattern
            at = match.start()
    assert not re.search("WARNING|ERROR|CRITICAL", log)


class PidFileWatcher(threading.Thread):
    """Reads a pid file all the time, and notes each instant at which it names no live process."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="pid file watcher")
        self.path = path
        self.seen: list[int] = []
        self.wrong: list[str] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                text = self.path.read_text()
            except FileNotFoundError:
                self.wrong.append("absent")
                continue
            if not re.fullmatch(r"\d+\n", text):
                self.wrong.append(repr(text))
            elif not is_running(int(text)) and text == self.path.read_text():
                self.wrong.append(f"names {text.strip()}, which has ended")
            elif int(text) not in self.seen[-1:]:
                self.seen.append(int(text))

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_pid_file_names_a_live_master_at_every_instant(service: Service) -> None:
    # Both files are looked at in it.
    service.configure(hot_probation=1)
    service.start()
    masters = [service.master]
    watcher = PidFileWatcher(service.folder / "pid")
    watcher.start()
    try:
        for release in "BCD":
            mark = service.mark()
            service.release(release)
            new = service.begin_upgrade()
            service.wait_log("in probation", after=mark)
            assert service.pid_in("pid.2") == new
            assert service.pid_in() == service.master
            service.wait_log("committed", after=mark)
            assert not (service.folder / "pid.2").exists()
            wait_gone(service.master)
            service.master = new
            masters.append(new)
    finally:
        watcher.end()
    assert watcher.wrong == []
    assert watcher.seen == masters
    service.stop()
    assert not (service.folder / "pid").exists()


def test_unix_socket_file_stays_until_the_last_master_is_stopped(service: Service) -> None:
    service.use_unix()
    service.configure()
    service.start()
    file = service.folder / "sock"
    before = file.stat()
    for release in "BC":
        service.upgrade(release)
        assert service.ask().gen == release
    assert file.stat().st_ino == before.st_ino
    service.stop()
    assert not file.exists()


def test_several_binds(service: Service) -> None:
    second, third = f"127.0.0.1:{free_port()}", f"unix:{service.folder}/sock"
    addresses = [service.address, second, third]
    service.configure(bind=addresses)
    service.start()
    for release in "BC":
        service.upgrade(release)
        assert [service.ask(address=address).gen for address in addresses] == [release] * 3


def test_titles(service: Service) -> None:
    service.configure("proc_name = 'shop'", workers=1, hot_probation=20)
    service.start()
    old, (old_worker,) = service.master, service.workers()
    assert title(old) == "gunicorn: master [shop]"
    assert title(old_worker) == "gunicorn: worker [shop]"
    mark = service.mark()
    service.release("B hold=go")
    new = service.begin_upgrade()
    service.wait_file("go.held", lines=1)
    until(lambda: title(new) == "gunicorn: master [shop] booting, 0 of 1 workers ready", "the title")
    assert title(old).startswith("gunicorn: master [shop] upgrading, ")
    service.write("go")
    service.wait_log("in probation", after=mark)
    until(lambda: title(old) == "gunicorn: master [shop] in probation", "the title")
    until(lambda: title(new) == "gunicorn: master [shop] in probation", "the title")
    (new_worker,) = service.workers(new)
    assert title(new_worker) == "gunicorn: worker [shop]"


def test_title_while_draining(service: Service) -> None:
    # In the probation the idle worker has time to say that it holds nothing.
    service.configure("proc_name = 'shop'", hot_probation=1)
    service.start()
    mark = service.mark()
    with service.held() as held:
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("draining 1 requests in 2 workers", after=mark)
        until(lambda: title(service.master) == "gunicorn: master [shop] draining, 1 in flight", "the title")
        until(lambda: title(new) == "gunicorn: master [shop]", "the title")
        service.write("go")
        assert held.answer().gen == "A"
    wait_gone(service.master)
    assert is_running(new)


def footprint(service: Service) -> dict[str, object]:
    """Return what might grow with each upgrade."""
    folder = Path(f"/proc/{service.master}")
    worker = service.workers()[0]
    return {
        "fds": len(descriptors(service.master)),
        "threads": len(os.listdir(folder / "task")),
        # Not its sockets: it may still have the last client's. There is a test for the others.
        "worker's files": sum(not name.startswith("socket:") for name in descriptors(worker)),
        "environment": sorted(json.loads(service.ask("/environ").body)),
        "children": len(service.workers()),
    }


def test_many_upgrades_leave_nothing_behind(service: Service) -> None:
    service.configure(hot_probation=0)
    service.start()
    footprints = []
    for number in range(5):
        mark = service.mark()
        service.upgrade(f"R{number}")
        assert service.ask().gen == f"R{number}"
        service.wait_log("The predecessor has left", after=mark)
        footprints.append(footprint(service))
    assert footprints[4] == footprints[0]
    names = set(footprints[4]["environment"])  # type: ignore[call-overload]
    assert not names & {"GUNICORN_HOT_FD", "GUNICORN_PID", "GUNICORN_FD"}
    files = {path.name for path in service.folder.iterdir()} - {"__pycache__"}
    assert files == {"app.py", "gunicorn_hot", "hot.conf.py", "loaded", "log", "output", "pid", "release"}
    until(lambda: len(list((service.folder / "gunicorn_hot").iterdir())) == 1, "the status, and no other file")


def test_a_worker_holds_no_end_of_a_channel_but_its_own(service: Service) -> None:
    service.configure(hot_probation=20)
    service.start()
    mark = service.mark()
    service.release("B")
    new = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    masters = [service.master, new]
    listeners = set(sockets(service.master)) & set(sockets(new))
    assert len(listeners) == 1
    workers = [pid for master in masters for pid in service.workers(master) if pid not in masters]
    assert len(workers) == 4
    for worker in workers:
        others = [pid for pid in (*masters, *workers) if pid != worker]
        own = set(sockets(worker)) - listeners
        assert len(own) == 1, f"of worker {worker}"
        assert not own & set().union(*map(sockets, others))


def test_boot_may_take_longer_than_timeout(service: Service) -> None:
    """`timeout` counts from a worker's first heartbeat, here as in gunicorn: an import has another bound."""
    # Not 1: an idle worker's heartbeats are a second apart.
    service.configure(workers=1, timeout=2)
    service.release("A sleep=3.2")
    service.start()
    service.upgrade("B sleep=3.2")
    assert service.ask().gen == "B"
    assert "WORKER TIMEOUT" not in service.log


def test_progress(service: Service) -> None:
    """Ready is what the slowest worker is."""
    # The first that comes to its import takes the file "first" away, and is not held.
    service.write("app2.py", "\n".join([
        "import os",
        "try:",
        "    os.rename('first', 'taken')",
        "except FileNotFoundError:",
        "    from app import app, hold",
        "    hold('go')",
        "else:",
        "    from app import app",
    ]))
    service.write("go")
    service.configure()
    service.start([*service.command()[:-1], "app2:app"])
    mark = service.mark()
    service.write("first")
    (service.folder / "go").unlink()
    (service.folder / "go.held").unlink()
    service.release("B")
    service.begin_upgrade()
    service.wait_log("Upgrade: 1 of 2 workers ready", after=mark)
    service.wait_file("go.held", lines=1)
    assert service.ask().gen == "A"
    assert "2 of 2" not in service.log[mark:]
    service.write("go")
    service.wait_log("Upgrade: 2 of 2 workers ready", after=mark)
    service.wait_log("Upgrade: done", after=mark)
    wait_gone(service.master)
    assert service.ask().gen == "B"


def test_usr2_again_while_booting_takes_the_newer_release(service: Service) -> None:
    service.configure()
    service.start()
    old = service.master
    service.release("B hold=never")
    service.begin_upgrade()
    service.wait_file("never.held", lines=1)
    service.master = service.upgrade("C")
    assert service.ask().gen == "C"
    assert not is_running(old)


def test_usr2_after_the_cut_over_is_passed_on(service: Service) -> None:
    service.configure(hot_probation=1)
    service.start()
    mark = service.mark()
    service.release("B")
    second = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    service.release("C")
    service.signal(signal.SIGUSR2)
    service.wait_log("passed on to the successor", after=mark)
    third = int(service.wait_log(r"booting successor with pid: (\d+)", count=2, after=mark)[1][1])
    wait_gone(service.master)
    wait_gone(second)
    service.master = third
    assert service.ask().gen == "C"
    assert service.pid_in() == third


def test_stop_during_an_upgrade_stops_all(service: Service) -> None:
    service.use_unix()
    service.configure()
    service.start()
    service.release("B hold=never")
    service.begin_upgrade()
    service.wait_file("never.held", lines=1)
    service.stop()
    assert {path.name for path in service.folder.iterdir()}.isdisjoint({"pid", "pid.2", "sock"})
    with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as client:
        client.connect(service.address.removeprefix("unix:"))
