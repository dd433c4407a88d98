"""The examples for process managers, by the managers: as written, but for the folder and the user."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from outside import unnoticed
from server import APPS, REPOSITORY, Service, process, title, until

EXAMPLES = REPOSITORY / "examples"
#: What is beside the interpreter comes first: a manager that was installed for the tests.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def example(service: Service, name: str, target: str) -> Path:
    """Copy a file of the examples; returns the copy."""
    text = (EXAMPLES / name).read_text()
    assert "/srv/shop" in text
    text = text.replace("/srv/shop", str(service.folder))
    # There is no such user here, and a test need not be root's.
    text, users = re.subn(r"(chpst -u shop |s6-setuidgid shop |^(user|uid) ?= ?shop$)", "", text, flags=re.MULTILINE)
    assert users == 1
    path = service.folder / target
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Manager:
    #: All that must be here.
    programs: tuple[str, ...]
    #: Writes the manager's files; returns the command that starts it.
    prepare: Callable[[Service], list[str | Path]]
    upgrade: str
    stop: str
    status: str
    running: str
    #: After the stop, with the service's exit status where the manager tells it.
    stopped: str


def supervisord(service: Service) -> list[str | Path]:
    example(service, "supervisord.conf", "shop.conf")
    main = service.write("main.conf", """
[unix_http_server]
file = %(here)s/ctl
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisord]
logfile = %(here)s/supervisord.log
pidfile = %(here)s/supervisord.pid
[supervisorctl]
serverurl = unix://%(here)s/ctl
[include]
files = %(here)s/shop.conf
""")
    return ["supervisord", "--nodaemon", "-c", main]


def circusd(service: Service) -> list[str | Path]:
    path = example(service, "circus.ini", "circus.ini")
    sockets = f"endpoint = ipc://{service.folder}/ctl\npubsub_endpoint = ipc://{service.folder}/events\n"
    path.write_text(f"{path.read_text()}\n[circus]\n{sockets}")
    return ["circusd", path]


def run_file(supervise: str, name: str) -> Callable[[Service], list[str | Path]]:
    return lambda service: [supervise, example(service, f"{name}/shop/run", "service/run").parent]


CIRCUSCTL = "circusctl --endpoint ipc://{folder}/ctl "
MANAGERS = {
    "supervisord": Manager(
        ("supervisord", "supervisorctl"), supervisord,
        upgrade="supervisorctl -c main.conf signal USR2 shop", stop="supervisorctl -c main.conf stop shop",
        status="supervisorctl -c main.conf status shop", running=r"RUNNING\s+pid {pid}\b", stopped=r"STOPPED",
    ),
    "circus": Manager(
        ("circusd", "circusctl"), circusd,
        upgrade=CIRCUSCTL + "signal shop usr2", stop=CIRCUSCTL + "stop shop --waiting",
        status=CIRCUSCTL + "list shop", running=r"\b{pid}\b", stopped=r"^(?!.*\d)",
    ),
    "runit": Manager(
        ("runsv", "sv"), run_file("runsv", "runit"),
        upgrade="sv 2 ./service", stop="sv -w 40 stop ./service",
        status="sv status ./service", running=r"^run: .*\(pid {pid}\)", stopped=r"^down: ",
    ),
    "s6": Manager(
        ("s6-supervise", "s6-svc", "s6-svstat"), run_file("s6-supervise", "s6"),
        upgrade="s6-svc -2 ./service", stop="s6-svc -d ./service",
        status="s6-svstat ./service", running=r"^up \(pid {pid}", stopped=r"^down \(exitcode 0\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANAGERS)
def test_the_service_is_one_process_to_its_manager(service: Service, name: str) -> None:
    manager = MANAGERS[name]
    for program in manager.programs:
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"no {program} here")
    service.env["PATH"] = PATH

    def ask(command: str) -> str:
        return service.run(*command.format(folder=service.folder).split()).stdout

    # What the examples expect in the shop's folder.
    service.configure(name="gunicorn.conf.py", hot_pid=None)
    shutil.copy(APPS / "subject.py", service.folder / "shop.py")
    gunicorn = service.folder / "venv" / "bin" / "gunicorn"
    gunicorn.parent.mkdir(parents=True)
    gunicorn.write_text(f'#!/bin/sh\nexec {sys.executable} -m gunicorn "$@"\n')
    gunicorn.chmod(0o755)

    command = [str(part) for part in manager.prepare(service)]
    service.start([str(shutil.which(command[0], path=PATH)), *command[1:]])
    first = service.master
    running = manager.running.format(pid=first)
    until(lambda: re.search(running, ask(manager.status)), f"{running} in its status")
    assert re.search(rf"hot_pid: stable, {name} ", service.log)

    def upgrade(release: str, end: str) -> None:
        service.release(release)
        mark = service.mark()
        ask(manager.upgrade)
        service.wait_log(end, after=mark)
        assert re.search(running, ask(manager.status)), ask(manager.status)

    with unnoticed(service):
        upgrade("B", "The predecessor has left")
        until(lambda: title(first).startswith("gunicorn: hot "), "the holder's title")
        assert "for master" in title(first)
        upgrade("C", "The predecessor has left")
        upgrade("D broken", "Upgrade failed: .*this release is broken")
        upgrade("E", "The predecessor has left")
        assert service.ask().gen == "E"
    ask(manager.stop)
    until(lambda: re.search(manager.stopped, ask(manager.status)), f"{manager.stopped} in its status")
    until(lambda: process(first) is None and not masters(service), "the end of the service")
    if name == "supervisord":
        assert "stopped: shop (exit status 0)" in service.read("supervisord.log")


def masters(service: Service) -> list[int]:
    """Return the processes of gunicorn that are left."""
    return [found for found in map(int, filter(str.isdigit, os.listdir("/proc")))
            if title(found).startswith("gunicorn: ") and os.path.exists(f"/proc/{found}/cwd")
            and os.path.realpath(f"/proc/{found}/cwd") == str(service.folder)]
