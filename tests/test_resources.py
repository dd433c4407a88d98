"""The system refuses: descriptors, processes, disk space, folders, interpreter; and a successor that talks nonsense.

Each ends in a clear line of the log, with the old generation serving and nothing leaked, and the next upgrade works."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from outside import check_sole, descriptors, leftovers, settle, start_by_link, unnoticed
from server import DEADLINE, Service, until

Break = Callable[[Service], object]


class Unharmed:
    """What must be the same after an upgrade that has failed."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.workers = service.workers()
        self.held = descriptors(service.master)
        self.files = leftovers(service)

    def check(self, reason: str, mark: int) -> None:
        """Wait for the end of the upgrade, with this reason; see that nothing has changed."""
        service = self.service
        service.wait_log(f"Upgrade failed: .*{reason}", after=mark)
        settle(service)
        assert service.workers() == self.workers
        assert descriptors(service.master) == self.held
        assert service.ask().gen == "A"
        assert leftovers(service) == self.files

    def upgrade(self, release: str = "C") -> None:
        self.service.upgrade(release)
        check_sole(self.service, release)


def ask_for_upgrade(service: Service, release: str = "B") -> int:
    """Send SIGUSR2; there may be no successor. Returns the mark of the log before it."""
    service.release(release)
    mark = service.mark()
    service.signal(signal.SIGUSR2)
    return mark


def in_probation(service: Service) -> tuple[int, int]:
    """Bring an upgrade to its probation; returns the successor, and the mark of the log."""
    service.release("B")
    mark = service.mark()
    successor = service.begin_upgrade()
    service.wait_log("in probation", after=mark)
    return successor, mark


# --- descriptors ------------------------------------------------------------------------------------------------


def lasting(pid: int) -> set[int]:
    """Return the numbers of a process's descriptors, or none if one of them is the status file's."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    return used if len(used) == len(descriptors(pid)) else set()


def limit_descriptors(pid: int, free: int | None) -> None:
    """Leave a process `free` descriptors to open, or what it had."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if free is None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    else:
        used = until(lambda: lasting(pid), "descriptors without the status file, which is just being written")
        soft = 0
        while soft - len({fd for fd in used if fd < soft}) < free or soft <= max(used):
            soft += 1
        assert free >= soft - len(used), "a hole below the highest descriptor"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("free", [0, 1, 2])
def test_no_descriptors_for_a_successor(service: Service, free: int) -> None:
    """For the temporary file, or for either end of the channel."""
    service.configure()
    service.start()
    unharmed = Unharmed(service)
    with unnoticed(service) as load:
        for _ in range(3):
            limit_descriptors(service.master, free)
            mark = ask_for_upgrade(service)
            unharmed.check("Too many open files", mark)
        limit_descriptors(service.master, None)
        load.wait_for(10, gen="A")
        unharmed.upgrade()
        load.wait_for(10, gen="C")


def test_no_descriptors_for_a_worker(service: Service) -> None:
    """A crashed worker that cannot be replaced is a worker less, and not the end of the service."""
    service.configure(workers=2)
    service.start()
    workers = service.workers()
    held = descriptors(service.master)
    limit_descriptors(service.master, 0)
    mark = service.mark()
    service.signal(signal.SIGKILL, workers[0])
    # Its two descriptors are free again; another worker needs three.
    service.wait_log("Cannot boot a worker: .*Too many open files; next try in 5s", after=mark)
    assert service.ask().status == 200
    limit_descriptors(service.master, None)
    until(lambda: len(service.workers()) == 2, "the second worker")
    service.wait_log("Booting worker", after=mark)
    until(lambda: len(descriptors(service.master)) == len(held), "as many descriptors as before")
    service.upgrade("C")
    check_sole(service, "C")


# --- processes --------------------------------------------------------------------------------------------------


class Group:
    """A control group with a bound of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(f"{pid}\n")

    def limit(self, free: int | None) -> None:
        current = int((self.folder / "pids.current").read_text())
        (self.folder / "pids.max").write_text("max\n" if free is None else f"{current + free}\n")


@pytest.fixture
def group() -> Iterator[Group]:
    """Named before `service` by its tests: it can go when its processes have."""
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        folder = root / f"gunicorn_hot_test_{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / "pids.max").exists():
            yield Group(folder)
            until(lambda folder=folder: not (folder / "cgroup.procs").read_text(), "an empty group")  # type: ignore[misc]
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("no control group for processes can be made here")


def test_no_process_for_a_successor(group: Group, service: Service) -> None:
    service.configure()
    service.start()
    unharmed = Unharmed(service)
    group.add(service.master)
    with unnoticed(service) as load:
        for _ in range(3):
            group.limit(0)
            mark = ask_for_upgrade(service)
            unharmed.check("could not be started: .*Resource temporarily unavailable", mark)
        group.limit(None)
        load.wait_for(10, gen="A")
        unharmed.upgrade()
        load.wait_for(10, gen="C")


def test_no_process_for_the_successors_workers(group: Group, service: Service) -> None:
    # It is also the bound of the upgrade that must work after that.
    service.configure(hot_ready_timeout=6)
    service.start()
    unharmed = Unharmed(service)
    group.add(service.master)
    with unnoticed(service) as load:
        group.limit(1)
        mark = ask_for_upgrade(service)
        unharmed.check("", mark)
        service.wait_log("Cannot boot a worker: .*Resource temporarily unavailable", after=mark)
        group.limit(None)
        load.wait_for(10, gen="A")
        unharmed.upgrade()
        load.wait_for(10, gen="C")


def test_no_process_for_a_worker(group: Group, service: Service) -> None:
    service.configure()
    service.start()
    held = descriptors(service.master)
    group.add(service.master)
    group.limit(0)
    mark = service.mark()
    service.signal(signal.SIGKILL, service.workers()[0])
    service.wait_log("Cannot boot a worker: .*; next try in 5s", after=mark)
    assert service.ask().status == 200
    # Of the worker that is gone: its link, and its heartbeat file.
    until(lambda: len(descriptors(service.master)) == len(held) - 2, "no descriptor of a worker that was not forked")
    group.limit(None)
    until(lambda: len(service.workers()) == 2, "the second worker")
    service.upgrade("C")
    check_sole(service, "C")


# --- the pid file -----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in the service's folder. Named before `service` by its tests."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


Change = Callable[[Path], object]
DISKS: dict[str, tuple[Change, Change, str]] = {
    "full": (fill, lambda disk: (disk / "filler").unlink(), "No space left on device"),
    "read-only": (lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw"), "Read-only file system"),
}


@pytest.mark.parametrize("kind", DISKS)
def test_disk_of_the_pid_file_before_the_upgrade(disk: Path, service: Service, kind: str) -> None:
    breaks, repairs, reason = DISKS[kind]
    service.configure(pidfile="disk/pid")
    service.start()
    unharmed = Unharmed(service)
    with unnoticed(service):
        breaks(disk)
        try:
            mark = ask_for_upgrade(service)
            unharmed.check("exited with code 1", mark)
            service.wait_log(reason, after=mark)
            assert service.pid_in("disk/pid") == service.master
        finally:
            repairs(disk)
        service.upgrade("C")
        assert service.pid_in("disk/pid") == service.master


@pytest.mark.parametrize("kind", DISKS)
def test_disk_of_the_pid_file_at_the_commit(disk: Path, service: Service, kind: str) -> None:
    """The new generation serves already: a pid file that cannot be written is no reason to go back."""
    breaks, repairs, reason = DISKS[kind]
    service.configure(pidfile="disk/pid", hot_probation=2)
    service.start()
    with unnoticed(service) as load:
        successor, mark = in_probation(service)
        breaks(disk)
        try:
            service.wait_log(rf"\[{successor}\] \[WARNING\] Pid file: .*{reason}", after=mark)
            assert settle(service) == successor
            load.wait_for(10, gen="B")
        finally:
            repairs(disk)
        # No temporary file is left.
        assert {path.name for path in disk.iterdir()} <= {"pid", "pid.2"}
        mark = ask_for_upgrade(service, "C")
        end = service.wait_log("Upgrade: done|Upgrade failed: .*", after=mark)[0][0]
        settle(service)
        assert end == "Upgrade: done"
        assert service.pid_in("disk/pid") == service.master


def test_folder_of_the_pid_file_vanished(service: Service) -> None:
    run = service.folder / "run"
    run.mkdir()
    service.configure(pidfile="run/pid")
    service.start()
    unharmed = Unharmed(service)
    with unnoticed(service):
        shutil.rmtree(run)
        unharmed.files = leftovers(service)
        mark = ask_for_upgrade(service)
        unharmed.check("run doesn't exist. Can't create pidfile", mark)
        run.mkdir()
        service.upgrade("C")
        assert service.pid_in("run/pid") == service.master


def test_folder_of_the_pid_file_vanished_in_the_probation(service: Service) -> None:
    run = service.folder / "run"
    run.mkdir()
    service.configure(pidfile="run/pid", hot_probation=1)
    service.start()
    with unnoticed(service):
        successor, mark = in_probation(service)
        shutil.rmtree(run)
        service.wait_log(rf"\[{successor}\] \[WARNING\] Pid file: .*No such file or directory: .*run", after=mark)
        assert settle(service) == successor
        run.mkdir()
        service.upgrade("C")
        assert service.pid_in("run/pid") == service.master


def symlink(service: Service) -> None:
    file = service.folder / "pid"
    file.rename(service.folder / "real")
    file.symlink_to("real")


CHANGES: dict[str, Break] = {
    "symlink": symlink,
    "foreign": lambda service: service.write("pid", f"{os.getpid()}\n"),
    "vanished": lambda service: (service.folder / "pid").unlink(),
    "garbage": lambda service: service.write("pid", "no pid\n"),
    "empty": lambda service: service.write("pid"),
}


@pytest.mark.parametrize("when", ["before", "probation"])
def test_pid_file_that_is_not_what_it_was(service: Service, when: str) -> None:
    """After the commit it is the new master's, whatever it was."""
    service.configure(hot_probation=1.5 if when == "probation" else 0.2)
    service.start()
    with unnoticed(service):
        for name, change in CHANGES.items():
            if when == "before":
                change(service)
            successor, mark = in_probation(service)
            if when == "probation":
                change(service)
            service.wait_log("Upgrade: done", after=mark)
            check_sole(service, "B", master=successor)
            # Replaced, and not written through.
            assert not (service.folder / "pid").is_symlink(), name


def test_stale_second_pid_file(service: Service) -> None:
    """One that names a live process stops gunicorn; one that names a dead one does not."""
    service.configure()
    service.start()
    unharmed = Unharmed(service)
    mark = service.mark()
    service.write("pid.2", f"{os.getpid()}\n")
    unharmed.files = leftovers(service)
    ask_for_upgrade(service)
    unharmed.check(f"Already running on PID {os.getpid()}", mark)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    service.write("pid.2", ended.stdout.decode())
    unharmed.upgrade()


# --- what is executed -------------------------------------------------------------------------------------------


def test_working_directory_deleted(service: Service) -> None:
    where = service.folder / "where"
    where.mkdir()
    files = {"pidfile": str(service.folder / "pid"), "errorlog": str(service.folder / "log")}
    service.configure(f"chdir = {str(service.folder)!r}", **files)
    command = service.command()
    command[command.index("hot.conf.py")] = str(service.folder / "hot.conf.py")
    service.start(command, cwd=where)
    where.rmdir()
    unharmed = Unharmed(service)
    with unnoticed(service):
        mark = ask_for_upgrade(service)
        unharmed.check(f"FileNotFoundError: .*{where}", mark)
        where.mkdir()
        unharmed.upgrade()


def delete_environment(link: Path) -> None:
    link.unlink()


def not_executable(link: Path) -> None:
    link.unlink()
    link.write_text("#!/bin/sh\n")


def no_program(link: Path) -> None:
    link.unlink()
    link.write_bytes(b"\0\1\2\3")
    link.chmod(0o755)


def folder(link: Path) -> None:
    link.unlink()
    link.mkdir()


def no_interpreter(link: Path) -> None:
    link.unlink()
    link.write_text("#!/nowhere/python\n")
    link.chmod(0o755)


INTERPRETERS: dict[Change, str] = {
    delete_environment: "FileNotFoundError: .*python",
    not_executable: "PermissionError: ",
    no_program: "OSError: .*Exec format error",
    folder: "PermissionError: ",
    no_interpreter: "FileNotFoundError: ",
}


def test_interpreter_replaced(service: Service) -> None:
    service.configure()
    python = start_by_link(service)
    unharmed = Unharmed(service)
    with unnoticed(service):
        for change, reason in INTERPRETERS.items():
            change(python)
            mark = ask_for_upgrade(service)
            unharmed.check(reason, mark)
            if python.is_dir():
                python.rmdir()
            else:
                python.unlink(missing_ok=True)
            python.symlink_to(sys.executable)
        unharmed.upgrade()


def test_release_folder_is_a_link(service: Service) -> None:
    """The environment of a deployment: current -> release-1, which is deleted, and then current -> release-2."""
    for release in ("release-1", "release-2"):
        (service.folder / release).mkdir()
        (service.folder / release / "python").symlink_to(sys.executable)
    current = service.folder / "current"
    current.symlink_to("release-1")
    found = [path for path in sys.path if path.endswith("-packages")]
    service.env["PYTHONPATH"] = os.pathsep.join([*service.env.get("PYTHONPATH", "").split(), *found])
    service.configure()
    service.start([current / "python", *service.command()[1:]])
    unharmed = Unharmed(service)
    shutil.rmtree(service.folder / "release-1")
    unharmed.files = leftovers(service)
    mark = ask_for_upgrade(service)
    unharmed.check("FileNotFoundError", mark)
    current.unlink()
    current.symlink_to("release-2")
    unharmed.upgrade()


# --- a successor that talks nonsense ----------------------------------------------------------------------------

SPEAKER = """#!{python}
import json, os, signal, socket, struct, sys, time

def frame(fields, version=1, magic=0x48, length=None):
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack(">BBI", magic, version, len(body) if length is None else length) + body

def say(*args, **fields):
    channel.sendall(frame(*args, **fields))

def hang():
    # Until it is told to end, and never longer than a test.
    signal.alarm(40)
    while True:
        signal.pause()

def hear(word):
    heard = b''
    while word.encode() not in heard:
        heard += channel.recv(4096)

channel = socket.socket(fileno=int(os.environ["GUNICORN_HOT_FD"]))
channel.setblocking(True)
{speech}
"""

SPEECHES = {
    "garbage": ('channel.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n"); hang()', "not a gunicorn_hot message"),
    "noise": ('channel.sendall(bytes(range(256)) * 4000); hang()', "not a gunicorn_hot message"),
    "newer-version": ('say({"type": "hello"}, version=2); hang()', "protocol version 2, this side speaks 1"),
    "half-a-message-and-end": (
        'channel.sendall(frame({"type": "ready"})[:9])', "it ended within a message|with code 0"
    ),
    "half-a-message-and-hang": (
        'channel.sendall(frame({"type": "ready"})[:9]); hang()', r"not ready in 1.5s \(hot_ready_timeout\)"
    ),
    "nothing": ("hang()", r"not ready in 1.5s \(hot_ready_timeout\)"),
    "endless-message": ('say(b"", length=1 << 30); hang()', "is longer than"),
    "no-json": ('say(b"{hello"); hang()', "not JSON"),
    "no-object": ('say([1, 2]); hang()', "not a JSON object"),
    "no-type": ('say({"kind": "hello"}); hang()', "not a JSON object with a type"),
    "nested": ('say(b"[" * 100000 + b"]" * 100000); hang()', "JSON|recursion"),
    "progress-without-fields": ('say({"type": "progress"}); hang()', ""),
    "progress-in-words": ('say({"type": "progress", "ready": "all", "total": None}); hang()', ""),
    "progress-infinite": ('say(b\'{"type": "progress", "ready": 1e999, "total": 1}\'); hang()', ""),
    "unknown-type": ('say({"type": "novelty"}); hang()', r"not ready in 1.5s \(hot_ready_timeout\)"),
    "reason-is-no-text": ('say({"type": "failed", "reason": {"a": ["b"]}}); hang()', "a.*b"),
    "out-of-turn": (
        'say({"type": "opened"}); say({"type": "leaving"}); say({"type": "staying"}); hang()',
        r"not ready in 1.5s \(hot_ready_timeout\)",
    ),
    "committed-out-of-turn": (
        'say({"type": "committed", "unused": [0]}); hang()', r"not ready in 1.5s \(hot_ready_timeout\)"
    ),
    "committed-nonsense": ('say({"type": "committed", "unused": 5}); hang()', ""),
    "channel-closed": ("channel.close(); hang()", "was killed by SIGTERM"),
    "deaf": ("signal.signal(signal.SIGTERM, signal.SIG_IGN); hang()", r"not ready in 1.5s \(hot_ready_timeout\)"),
    "ready-and-end": ('say({"type": "ready"})', "exited with code 0"),
    "ready-and-hang": ('say({"type": "ready"}); hang()', "1s|not"),
    "ready-twice": (
        'say({"type": "ready"}); say({"type": "ready"}); hear("open"); sys.exit(3)', "exited with code 3"
    ),
    "never-commits": ('say({"type": "ready"}); hear("open"); say({"type": "opened"}); hang()', "5s|commit"),
    "opened-and-end": (
        'say({"type": "ready"}); hear("open"); say({"type": "opened"}); hear("commit"); sys.exit(4)',
        "exited with code 4",
    ),
    "commits-nonsense": (
        'say({"type": "ready"}); hear("open"); say({"type": "opened"}); hear("commit"); '
        'say({"type": "committed", "unused": [7, -9, "x"]}); hang()',
        "",
    ),
}


#: In groups, so that one service hears several.
GROUPS = {
    "bytes": [
        "garbage", "noise", "newer-version", "half-a-message-and-end", "endless-message", "no-json", "no-object",
        "no-type",
    ],
    "fields": [
        "progress-without-fields", "progress-in-words", "progress-infinite", "reason-is-no-text", "committed-nonsense",
        "nested",
    ],
    "silence": ["nothing", "half-a-message-and-hang", "unknown-type", "out-of-turn", "committed-out-of-turn"],
    "stubborn": ["channel-closed", "deaf", "never-commits"],
    "turns": ["ready-and-end", "ready-and-hang", "ready-twice", "opened-and-end", "commits-nonsense"],
}
assert {speech for group in GROUPS.values() for speech in group} == set(SPEECHES)


#: Each of these ends by a bound of 5 s.
SLOW = [pytest.param(group, marks=pytest.mark.slow) if group == "stubborn" else group for group in GROUPS]


#: The bound of these is a short one, until the last of them has failed: the next successor may take its time.
HURRY = """
import dataclasses

def bound(server, ready):
    server.outgoing.limits = dataclasses.replace(server.outgoing.limits, ready=ready)

def when_ready(server):
    server.speeches = {count}
    bound(server, 1.5)

def on_upgrade_failed(server, reason):
    server.speeches -= 1
    if not server.speeches:
        bound(server, server.cfg.hot_ready_timeout)
"""


def speak(python: Path, code: str) -> None:
    python.unlink()
    python.write_text(SPEAKER.format(python=sys.executable, speech=code))
    python.chmod(0o755)


@pytest.mark.parametrize("speeches", SLOW)
def test_successor_that_says(service: Service, speeches: str) -> None:
    is_short = any("hot_ready_timeout" in SPEECHES[speech][1] for speech in GROUPS[speeches])
    hurry = HURRY.format(count=len(GROUPS[speeches])) if is_short else ""
    service.configure(hurry, hot_ready_timeout=DEADLINE)
    python = start_by_link(service)
    unharmed = Unharmed(service)
    with unnoticed(service) as load:
        for speech in GROUPS[speeches]:
            code, reason = SPEECHES[speech]
            speak(python, code)
            mark = ask_for_upgrade(service)
            unharmed.check(reason, mark)
            load.wait_for(5, gen="A")
            python.unlink()
            python.symlink_to(sys.executable)
        resumed = service.mark()
        unharmed.upgrade()
        load.wait_for(10, gen="C")
        assert "Upgrade failed" not in service.log[resumed:]
