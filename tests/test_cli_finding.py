"""Which service a command is about, and what it says when there is none. The status files here name real processes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import commandline
import pytest
from commandline import Ran

from gunicorn_hot import processes
from gunicorn_hot.status import Master, Service, Status, Worker, Written


class Runtime:
    """A folder of status files, and commands that look there."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder / "gunicorn_hot"
        self.folder.mkdir(mode=0o700)
        self.env = {**commandline.environment(env), "XDG_RUNTIME_DIR": str(folder)}

    def put(self, pid: int, name: str = "shop:app", text: str | None = None, **changes: object) -> Path:
        """Write the status of a service whose master is this process."""
        start = processes.start_time(pid)
        status = Status(
            Service(pid, name, "follow", None, "/srv/shop", ["http://127.0.0.1:8000"]),
            Written(pid, start, processes.boot_id(), 1_790_000_000.0),
            "serving", 3,
            masters=[Master("serving", pid, start, 1_790_000_000.0, 3, workers=[Worker(pid, "serving", 0.0)])],
        )
        path = self.folder / f"{pid}.json"
        path.write_text(dataclasses.replace(status, **changes).to_json() if text is None else text)
        return path

    def status(self, *arguments: str | Path | int) -> Ran:
        """Run `status` where no other service of this user is seen than those of the test."""
        code = (
            "import sys\n"
            "from gunicorn_hot import cli, statusfile\n"
            "statusfile.folders = lambda: [sys.argv[1]]\n"
            "sys.exit(cli.main(['status', *sys.argv[2:]]))"
        )
        command = [sys.executable, "-c", code, str(self.folder), *map(str, arguments)]
        popen = subprocess.Popen(
            command, env=self.env, cwd=os.sep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return commandline.finish(popen)


@pytest.fixture
def runtime(tmp_path: Path, environment: dict[str, str]) -> Runtime:
    tmp_path.chmod(0o700)
    return Runtime(tmp_path, environment)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """The pid of another process, which is no service."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as popen:
        yield popen.pid


@pytest.fixture(scope="module")
def dead() -> int:
    """A pid that was some process's."""
    with subprocess.Popen([sys.executable, "-c", ""]) as popen:
        pass
    return popen.pid


def test_the_only_service_of_a_user_needs_no_name(runtime: Runtime) -> None:
    runtime.put(os.getpid())
    assert runtime.status().code == 0


def test_a_service_is_found_by_each_of_its_names(runtime: Runtime, tmp_path: Path, neighbour: int) -> None:
    path = runtime.put(os.getpid(), "mine:app")
    runtime.put(neighbour, "other:app")
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{os.getpid()}\n")
    for option, value in (("--pid", os.getpid()), ("--pid-file", pid_file), ("--status-file", path)):
        ran = runtime.status(option, value)
        assert ran.code == 0, (option, ran)
        assert ran.out.startswith("mine:app: serving, generation 3, "), option


def test_several_services_are_listed_to_choose_from(runtime: Runtime, neighbour: int, dead: int) -> None:
    runtime.put(os.getpid(), "mine:app")
    runtime.put(neighbour, "other:app")
    runtime.put(dead, "dead:app")
    ran = runtime.status()
    assert ran.code == 2
    assert "2 services" in ran.err
    assert f"--pid {os.getpid()}" in ran.err
    assert f"--pid {neighbour}" in ran.err
    assert "dead:app" not in ran.err


def test_no_service_at_all(runtime: Runtime) -> None:
    ran = runtime.status()
    assert ran.code == 4
    assert "no service with gunicorn_hot that runs" in ran.err


def test_a_service_that_has_died_is_named_with_the_time_of_its_last_word(runtime: Runtime, dead: int) -> None:
    path = runtime.put(dead)
    for ran in (runtime.status(), runtime.status("--status-file", path), runtime.status("--pid", dead)):
        assert ran.code == 4, ran
        assert "the service has died: shop:app in /srv/shop" in ran.err
        assert "last wrote" in ran.err
        assert "at 2026-09-" in ran.err


def test_a_pid_that_is_another_process_by_now_is_not_the_service(runtime: Runtime, neighbour: int) -> None:
    written = Written(neighbour, 1, processes.boot_id(), 1.0)
    runtime.put(neighbour, written=written, masters=[Master("serving", neighbour, 1, 1.0, 3)])
    ran = runtime.status()
    assert ran.code == 4
    assert "has died" in ran.err
    assert f"process {neighbour} is no service" in runtime.status("--pid", neighbour).err


def test_a_service_that_nobody_has_reaped_has_died(runtime: Runtime) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as popen:
        runtime.put(popen.pid)
        assert popen.stdin is not None
        popen.stdin.close()
        os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        ran = runtime.status("--pid", popen.pid)
    assert ran.code == 4
    assert f"there is no process {popen.pid} that runs; the service has died: shop:app in /srv/shop" in ran.err


def test_a_process_that_is_no_service(runtime: Runtime, neighbour: int) -> None:
    runtime.put(os.getpid())
    ran = runtime.status("--pid", neighbour)
    assert ran.code == 4
    assert f"process {neighbour} is no service with gunicorn_hot" in ran.err
    assert "--status-file" in ran.err


def test_a_worker_is_not_its_service(runtime: Runtime, neighbour: int) -> None:
    start = processes.start_time(os.getpid())
    master = Master("serving", os.getpid(), start, 1.0, 3, workers=[Worker(neighbour, "serving", 0.0)])
    runtime.put(os.getpid(), masters=[master])
    ran = runtime.status("--pid", neighbour)
    assert ran.code == 4
    assert f"process {neighbour} is a worker; its service: --pid {os.getpid()}" in ran.err


def test_no_such_process(runtime: Runtime, dead: int) -> None:
    ran = runtime.status("--pid", dead)
    assert (ran.code, ran.out) == (4, "")
    assert f"there is no process {dead}" in ran.err


@pytest.mark.parametrize("text", ["", "abc", "12 13", "-1", "0", "\x00\xff"])
def test_a_pid_file_with_something_else_in_it(runtime: Runtime, tmp_path: Path, text: str) -> None:
    path = tmp_path / "pid"
    path.write_text(text)
    ran = runtime.status("--pid-file", path)
    assert ran.code == 4
    assert f"{path} is no pid file" in ran.err


def test_a_pid_file_that_is_not_there(runtime: Runtime, tmp_path: Path) -> None:
    ran = runtime.status("--pid-file", tmp_path / "pid")
    assert ran.code == 4
    assert "no pid file" in ran.err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_status_file_that_is_none(runtime: Runtime, text: str) -> None:
    path = runtime.put(os.getpid(), text=text)
    ran = runtime.status("--status-file", path)
    assert ran.code == 4
    assert f"{path} cannot be read" in ran.err
    assert runtime.status().code == 4


def test_a_status_file_that_is_not_there(runtime: Runtime) -> None:
    ran = runtime.status("--status-file", runtime.folder / "none.json")
    assert ran.code == 4
    assert "no service: it has ended, or writes another file" in ran.err


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder, not even root."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
    elif shutil.which("chattr") is None or subprocess.run(["chattr", "+i", folder], check=False).returncode:
        pytest.skip("this file system cannot keep root from writing to a folder")
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", folder], check=True)
        folder.chmod(0o700)


def test_what_cannot_be_written_any_more_is_doubted(runtime: Runtime, dead: int) -> None:
    path, old = runtime.put(os.getpid()), runtime.put(dead)
    with unwritable(runtime.folder):
        ran = runtime.status("--status-file", path)
        assert ran.code == 0
        assert ran.out.startswith(f"{runtime.folder} cannot be written to: the status there may be outdated; it is of")
        ran = commandline.run(runtime.env, "upgrade", "--status-file", path)
        assert (ran.code, ran.out) == (4, "")
        assert f"this service cannot be asked: {runtime.folder} cannot be written to" in ran.err
        ran = runtime.status("--status-file", old)
        assert ran.code == 4
        assert "the status there may be outdated; its master" in ran.err
        assert "has died" not in ran.err
    assert "cannot be written" not in runtime.status("--status-file", path).out


NOBODY = 65534
#: The interpreter may be where only root can read it: what is needed is imported before.
_AS_NOBODY = f"""
import os, sys
import gunicorn_hot.cli
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""
two_users = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")


@pytest.fixture
def theirs(environment: dict[str, str]) -> Iterator[Runtime]:
    """The folder of another user's services, and what root would type."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        runtime = Runtime(folder, environment)
        for made in (folder, runtime.folder):
            os.chown(made, NOBODY, NOBODY)
        yield runtime


@two_users
def test_another_users_service_is_not_ours_to_ask(runtime: Runtime, theirs: Runtime) -> None:
    code = f"{_AS_NOBODY}\nsys.exit(gunicorn_hot.cli.main(sys.argv[1:]))"
    path = theirs.put(os.getpid())
    os.chown(path, NOBODY, NOBODY)
    for arguments, why in (
        (("status", "--pid", os.getpid()), "belongs to the user root: ask as that user, or as root"),
        (("upgrade", "--status-file", path), "no permission to ask"),
        (("upgrade", "--status-file", runtime.put(os.getpid())), "Permission denied"),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=theirs.env, capture_output=True, text=True,
            timeout=commandline.LONG, check=False,
        )
        assert ran.returncode == 4, ran
        assert why in ran.stderr
        assert not list(theirs.folder.glob("*.request")), "found by the next command that may signal"


@two_users
def test_root_becomes_the_user_whose_service_it_is(theirs: Runtime) -> None:
    code = f"{_AS_NOBODY}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        path = theirs.put(popen.pid)
        os.chown(path, NOBODY, NOBODY)
        for option, value in (("--pid", popen.pid), ("--status-file", path)):
            ran = commandline.run(theirs.env, "upgrade", option, value, "--no-wait")
            assert ran.code == 0, ran
            request = path.with_name(f"{path.name}.request")
            assert request.stat().st_uid == NOBODY, "a request that its master cannot read"
            request.unlink()
        popen.communicate()


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("nonsense",), ("status", "--pid", "0"), ("status", "--pid", "x"), ("upgrade", "--timeout", "0"),
        ("upgrade", "--timeout", "x"), ("upgrade", "--timeout", "5", "--no-wait"), ("status", "--timeout", "5"),
        ("status", "--pid", "1", "--pid-file", "x"),
    ],
)
def test_wrong_usage(runtime: Runtime, arguments: tuple[str, ...]) -> None:
    ran = commandline.run(runtime.env, *arguments)
    assert ran.code == 2
    assert "usage: gunicorn-hot" in ran.err


def test_help_has_the_exit_codes(runtime: Runtime) -> None:
    ran = commandline.run(runtime.env, "--help")
    assert ran.code == 0
    assert "3    --timeout is over; the upgrade goes on" in ran.out


def test_errors_for_a_program(runtime: Runtime) -> None:
    ran = runtime.status("--json")
    assert (ran.code, ran.err) == (4, "")
    [event] = ran.events
    assert (event["event"], event["exit"]) == ("error", 4)
    assert "no service" in event["reason"]


def test_a_terminal_without_the_letters_for_it(runtime: Runtime) -> None:
    runtime.put(os.getpid(), name="shöp")
    runtime.env["PYTHONIOENCODING"] = "ascii"
    ran = runtime.status()
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("sh\\xf6p: serving")


def test_what_an_application_prints_does_not_steer_the_terminal(runtime: Runtime) -> None:
    runtime.put(os.getpid(), name="\x1b[2Jshop")
    ran = runtime.status()
    assert "\x1b" not in ran.out
    assert "?[2Jshop" in ran.out
