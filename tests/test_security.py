"""What must reach nobody else: the masters' channels, our variables, and another file by way of the pid file."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from outside import check_sole, descriptors, settle, sockets
from server import Service, descendants, until

OURS = ("GUNICORN_HOT_", "GUNICORN_PID", "GUNICORN_FD", "LISTEN_PID", "LISTEN_FDS")

#: An application that starts processes, in each way in which a descriptor can get into one.
STARTER = """
import os
import signal
import subprocess
import sys
import time

from app import app as _app

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
NAMES = []


def _note(kind, pid):
    with open("children", "a") as file:
        file.write(f"{kind} {pid}\\n")


def _start():
    _note("program", subprocess.Popen(SLEEP, close_fds=False).pid)
    pid = os.fork()
    if not pid:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(60)
        while True:
            signal.pause()
    _note("fork", pid)


if "at-import" in os.environ.get("STARTER", ""):
    _start()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/start":
        _start()
    return _app(environ, start_response)
"""

WRITES_ENVIRONMENT = """
import json, os
with open("seen", "a") as file:
    file.write(json.dumps(dict(os.environ)) + "\\n")
from app import app
"""


def ours(names: list[str] | dict[str, str]) -> list[str]:
    return [name for name in names if name.startswith(OURS)]


@contextmanager
def starter(service: Service, **settings: object) -> Iterator[None]:
    """A service whose application starts processes, which are ended at the end."""
    service.write("starter.py", STARTER)
    service.configure(**{"hot_probation": 60, **settings})  # type: ignore[arg-type]
    service.start([*service.command()[:-1], "starter:app"])
    try:
        yield
    finally:
        for pid in children(service).values():
            if pid in {found.pid for found in descendants(os.getpid())}:
                os.kill(pid, signal.SIGKILL)


def children(service: Service) -> dict[str, int]:
    """Return what the application has started last, by kind."""
    lines = [line.split() for line in service.read("children").splitlines()]
    return {kind: int(pid) for kind, pid in lines}


def channels(old: int, new: int, listeners: set[str]) -> set[str]:
    """Return all sockets of two masters but those that listen: the channel, and their ends of the workers' links."""
    return (set(sockets(old)) | set(sockets(new))) - listeners


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_no_process_of_the_application_holds_a_masters_channel(service: Service, worker: str) -> None:
    with starter(service, worker_class=worker):
        listeners = set(sockets(service.master)) & set(sockets(service.workers()[0]))
        assert len(listeners) == 1
        service.release("B")
        assert service.ask("/start").gen == "A"
        service.wait_file("children", lines=2)
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        mine = channels(service.master, new, listeners)
        # Each has its end of the channel, and one of each of two links.
        assert len(mine) == 6
        old_children = children(service)
        assert service.ask("/start").gen == "B"
        service.wait_file("children", lines=4)
        started = [*old_children.values(), *children(service).values()]
        assert len(set(started)) == 4
        workers = [pid for master in (service.master, new) for pid in service.workers(master) if pid != new]
        assert len(workers) == 4
        for pid in [*workers, *started]:
            assert not set(sockets(pid)) & mine, (pid, old_children)
        # A program gets no end of any kind, only what gunicorn lets it have: the listening socket.
        for pid in (old_children["program"], children(service)["program"]):
            assert set(sockets(pid)) <= listeners
            assert not [name for name in descriptors(pid) if "(deleted)" in name], "a temporary file of a master's"
        # So the death of a master is an EOF, whatever its workers' children do.
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed: .*was killed by SIGKILL", after=mark)
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(service.workers()) == 2, "the old workers, and nobody else")
        assert service.ask().gen == "A"


def test_a_forked_process_does_not_keep_the_successor_from_hearing_of_a_death(service: Service) -> None:
    """The predecessor is killed: the successor reads EOF, though children of the old workers live on."""
    with starter(service):
        assert service.ask("/start").gen == "A"
        service.release("B")
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        service.signal(signal.SIGKILL)
        service.wait_log("The predecessor is gone, going on without it", after=mark)
        until(lambda: service.pid_in() == new, "the successor's pid in the pid file")
        for pid in children(service).values():
            os.kill(pid, signal.SIGKILL)
        check_sole(service, "B", master=new)


def test_a_program_of_a_preloaded_application(service: Service) -> None:
    """It is started before the successor has read a line of its configuration's hooks."""
    service.env["STARTER"] = "at-import"
    with starter(service, preload_app=True):
        old_children = children(service)
        # The master's other children are such programs too, from before there were sockets.
        others = set(old_children.values())
        until(lambda: len(set(service.workers()) - others) == 2, "two workers")
        workers = set(service.workers()) - others
        listeners = set.intersection(*(set(sockets(pid)) for pid in (service.master, *workers)))
        assert len(listeners) == 1
        service.release("B")
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        mine = channels(service.master, new, listeners)
        assert len(mine) == 6
        started = children(service)
        for pid in [*old_children.values(), *started.values()]:
            assert not set(sockets(pid)) & mine, pid
        for pid in old_children.values():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_our_variables_do_not_reach_the_application(service: Service, worker: str) -> None:
    service.write("seeing.py", WRITES_ENVIRONMENT)
    service.configure(worker_class=worker)
    service.start([*service.command()[:-1], "seeing:app"])
    for release in "ABC":
        if release != "A":
            service.upgrade(release)
        assert service.ask().gen == release
        assert ours(json.loads(service.ask("/environ").body)) == []
    at_import = [json.loads(line) for line in service.read("seen").splitlines()]
    assert len(at_import) == 6
    assert [ours(seen) for seen in at_import] == [[]] * 6
    # And nothing else has changed from generation to generation.
    assert all(seen.keys() == at_import[0].keys() for seen in at_import)


def test_our_variables_do_not_reach_a_preloaded_application(service: Service) -> None:
    service.write("seeing.py", WRITES_ENVIRONMENT)
    service.configure(preload_app=True)
    service.start([*service.command()[:-1], "seeing:app"])
    for release in "BC":
        service.upgrade(release)
        assert ours(json.loads(service.ask("/environ").body)) == []
    at_import = [ours(json.loads(line)) for line in service.read("seen").splitlines()]
    assert at_import[0] == []
    # gunicorn's own are its own.
    assert not any(name.startswith("GUNICORN_HOT_") for seen in at_import for name in seen), at_import


@pytest.mark.parametrize("variable", ["GUNICORN_HOT_FD", "GUNICORN_HOT_BIND", "GUNICORN_HOT_STDERR"])
def test_our_variables_from_outside(service: Service, variable: str) -> None:
    """A first start in an environment that has them, by mistake or on purpose, is a first start."""
    service.env[variable] = "0" if variable != "GUNICORN_HOT_STDERR" else "0:0"
    service.configure()
    service.start()
    assert ours(json.loads(service.ask("/environ").body)) == []
    service.upgrade("B")
    assert ours(json.loads(service.ask("/environ").body)) == []
    check_sole(service, "B")


def test_channel_variable_of_another_process(service: Service) -> None:
    """What names no channel of ours is refused in words, and not spoken to."""
    service.env |= {"GUNICORN_HOT_FD": "0", "GUNICORN_PID": str(os.getpid()), "GUNICORN_FD": "0"}
    service.configure()
    done = service.run()
    assert done.returncode != 0
    assert "GUNICORN_HOT_FD=0 is not the channel to a predecessor" in done.stdout
    assert not (service.folder / "pid").exists()


# --- the pid file in a folder that others may write to ----------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_mode_of_the_pid_file(shared: Path, service: Service) -> None:
    """As gunicorn makes it, whatever the umask, and as a new file each time."""
    service.configure("umask = 0o077", pidfile="shared/pid")
    service.start()
    file = shared / "pid"
    before = file.stat()
    assert mode(file) == 0o644
    with open(file) as held:
        mark = service.mark()
        service.upgrade("B")
        # A reader of the old file still reads the old pid, whole: it was replaced, and not written to.
        assert int(held.read()) != service.master
    assert service.pid_in("shared/pid") == service.master
    assert (mode(file), file.stat().st_uid) == (0o644, before.st_uid)
    assert file.stat().st_ino != before.st_ino
    assert [path.name for path in shared.iterdir()] == ["pid"]
    assert "Pid file" not in service.log[mark:]


@pytest.mark.parametrize("name", ["pid.2", "pid"])
@pytest.mark.parametrize("content", ["precious\n", "", "99999999\n"], ids=["text", "empty", "dead-pid"])
def test_symlink_in_the_place_of_a_pid_file(shared: Path, service: Service, name: str, content: str) -> None:
    """Whoever may write in the folder can name a file of ours; it must not be written through."""
    victim = service.folder / "victim"
    victim.write_text(content)
    before = victim.stat()
    service.configure(pidfile="shared/pid")
    service.start()
    link = shared / name
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    service.upgrade("B")
    settle(service)
    assert victim.read_text() == content
    assert victim.stat() == before or victim.stat().st_mtime_ns == before.st_mtime_ns
    assert mode(victim) == stat.S_IMODE(before.st_mode)
    assert service.pid_in("shared/pid") == service.master
    assert not (shared / "pid").is_symlink()
    assert [path.name for path in shared.iterdir()] == ["pid"]


def test_symlink_in_the_place_of_the_pid_file_at_a_rollback(shared: Path, service: Service) -> None:
    """The old master takes its pid file back in the same way."""
    victim = service.folder / "victim"
    victim.write_text("precious\n")
    service.configure(pidfile="shared/pid", hot_probation=0)
    service.start()
    old = service.master
    with service.held() as held:
        service.release("B")
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log(r"draining \d+ requests", after=mark)
        (shared / "pid").unlink()
        (shared / "pid").symlink_to(victim)
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed: .*SIGKILL", after=mark)
        until(lambda: service.pid_in("shared/pid") == old, "the old master's pid in the pid file")
        service.write("go")
        assert held.answer().gen == "A"
    settle(service)
    assert victim.read_text() == "precious\n"
    assert not (shared / "pid").is_symlink()
