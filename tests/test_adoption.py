"""Every way to adopt the package: one hook, with whatever gunicorn's users configure, in whatever way they start it.

Each way that starts must also survive an upgrade, with its settings in force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from server import Service, wait_gone

SCRIPT = Path(sys.executable).with_name("gunicorn")
PYTHON_M = [sys.executable, "-m", "gunicorn"]

WRAPPED = """
import gunicorn_hot

def on_starting(server):
    gunicorn_hot.on_starting(server)
    open("wrapped", "a").close()
"""
WRAPPED_LATE = """
def on_starting(server):
    import gunicorn_hot
    gunicorn_hot.on_starting(server)
    open("wrapped", "a").close()
"""
WORKER_HOOK = """
def post_worker_init(worker):
    with open("classes", "a") as file:
        file.write(f"{type(worker).__module__}.{type(worker).__qualname__}\\n")
"""


def check_upgrade(service: Service) -> None:
    """The service upgrades, and its settings, of which this is none of the defaults, are known."""
    mark = service.mark()
    service.upgrade("B")
    assert service.ask().gen == "B"
    assert service.pid_in() == service.master
    service.wait_log(r"in probation for 0\.2s \(hot_probation\)", after=mark)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([SCRIPT, "-c", "hot.conf.py", "app:app"], id="script"),
        pytest.param([*PYTHON_M, "-c", "hot.conf.py", "app:app"], id="python-m"),
        pytest.param([*PYTHON_M, "-c", "hot.conf.py", "--preload", "app:app"], id="preload"),
        pytest.param([*PYTHON_M, "--config=file:hot.conf.py", "app:app"], id="config-file-prefix"),
    ],
)
def test_command(service: Service, command: list[str | Path]) -> None:
    service.configure(preload_app="--preload" in command)
    service.start(command)
    check_upgrade(service)


def test_config_as_a_module(service: Service) -> None:
    service.configure(name="conf_module.py")
    service.start([*PYTHON_M, "-c", "python:conf_module", "app:app"])
    check_upgrade(service)


def test_config_by_default(service: Service) -> None:
    service.configure(name="gunicorn.conf.py")
    service.start([SCRIPT, "app:app"])
    check_upgrade(service)


def test_config_by_environment(service: Service) -> None:
    service.configure()
    service.env["GUNICORN_CMD_ARGS"] = "-c hot.conf.py"
    service.start([SCRIPT, "app:app"])
    check_upgrade(service)


def test_chdir_and_relative_paths(service: Service) -> None:
    """gunicorn executes the successor where `chdir` has taken it, and looks for relative paths there."""
    (service.folder / "code").mkdir()
    service.write("code/site_app.py", "import sys; sys.path.insert(0, '..')\nfrom app import app\n")
    files = {"pidfile": str(service.folder / "pid"), "errorlog": str(service.folder / "log")}
    service.configure(**files)
    relative = os.path.relpath(SCRIPT, service.folder)
    service.start([sys.executable, relative, "-c", "hot.conf.py", "--chdir", "code", "site_app:app"])
    check_upgrade(service)


def test_daemon(service: Service) -> None:
    files = {name: str(service.folder / file) for name, file in [("pidfile", "pid"), ("errorlog", "log")]}
    service.configure(**files)
    service.start([*PYTHON_M, "-c", "hot.conf.py", "--daemon", "app:app"])
    check_upgrade(service)


@pytest.mark.parametrize("hook", [WRAPPED, WRAPPED_LATE], ids=["module", "function"])
def test_hook_of_ones_own(service: Service, hook: str) -> None:
    service.configure(hook=hook)
    service.start()
    (service.folder / "wrapped").unlink()
    check_upgrade(service)
    assert (service.folder / "wrapped").exists()


def test_import_alone_changes_nothing(service: Service) -> None:
    """Without the hook it is gunicorn's own SIGUSR2: the old master stays."""
    service.configure(hook="import gunicorn_hot")
    service.start()
    old = service.master
    service.signal(signal.SIGUSR2)
    service.wait_file("pid.2", lines=1)
    service.wait_file("loaded", lines=4)
    new = service.pid_in("pid.2")
    assert "Upgrade" not in service.log
    service.signal(signal.SIGTERM)
    wait_gone(old)
    assert new is not None
    service.master = new


@pytest.mark.parametrize(
    ("settings", "twin"),
    [
        ({"worker_class": "sync"}, "gunicorn_hot.workers.sync.SyncWorker"),
        ({"worker_class": "sync", "threads": 3}, "gunicorn_hot.workers.gthread.ThreadWorker"),
        ({"worker_class": None}, "gunicorn_hot.workers.sync.SyncWorker"),
        ({"worker_class": "gthread"}, "gunicorn_hot.workers.gthread.ThreadWorker"),
        ({"worker_class": "gevent"}, "gunicorn_hot.workers.ggevent.GeventWorker"),
        ({"worker_class": "asgi"}, "gunicorn_hot.workers.gasgi.ASGIWorker"),
        ({"worker_class": "uvicorn_worker.UvicornWorker"}, "gunicorn_hot.workers.uvicorn.UvicornWorker"),
        ({"worker_class": "uvicorn_worker.UvicornH11Worker"}, "gunicorn_hot.workers.uvicorn.UvicornH11Worker"),
        ({"worker_class": "uvicorn.workers.UvicornWorker"}, "gunicorn_hot.workers.uvicorn_deprecated.UvicornWorker"),
        ({"worker_class": "gunicorn_hot.workers.sync.SyncWorker"},
         "gunicorn_hot.workers.sync.SyncWorker"),
        ({"worker_class": "gunicorn_hot.workers.gthread.ThreadWorker"},
         "gunicorn_hot.workers.gthread.ThreadWorker"),
        ({"worker_class": "gunicorn_hot.workers.ggevent.GeventWorker"},
         "gunicorn_hot.workers.ggevent.GeventWorker"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_hot_twin_is_used(service: Service, settings: dict[str, str | int | None], twin: str) -> None:
    service.configure(WORKER_HOOK, **settings)
    service.start()
    assert service.wait_file("classes", lines=2).split() == [twin] * 2
    check_upgrade(service)
    assert service.wait_file("classes", lines=4).split() == [twin] * 4


def test_worker_class_of_ones_own(service: Service) -> None:
    """It is upgraded like the one that it is derived from: a request in flight is finished."""
    service.write("mine.py", "from gunicorn.workers.gthread import ThreadWorker\nclass Mine(ThreadWorker): pass\n")
    service.configure(worker_class="mine.Mine", workers=1)
    service.start()
    with service.held() as held:
        service.release("B")
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log("committed", after=mark)
        assert service.ask().gen == "B"
        service.write("go")
        assert held.answer().gen == "A"
    wait_gone(service.master)
    service.master = new


def test_misspelt_setting(service: Service) -> None:
    service.configure("hot_drian_timeout = 3")
    for arguments in ["--check-config"], ["--print-config"], []:
        done = service.run(*service.command(*arguments))
        assert done.returncode != 0, arguments
        assert "hot_drian_timeout" in done.stdout
        assert "did you mean 'hot_drain_timeout'?" in done.stdout
    assert not (service.folder / "pid").exists()


def test_misspelt_setting_at_a_reload(service: Service) -> None:
    """The service runs by then: it is told of, and not ended for it."""
    service.configure()
    service.start()
    service.configure(hot_drain_timout=3)
    mark = service.mark()
    service.signal(signal.SIGHUP)
    service.wait_log("Ignored: unknown setting 'hot_drain_timout' .*did you mean 'hot_drain_timeout'", after=mark)
    assert service.ask().status == 200


def test_misspelt_setting_known_late(service: Service) -> None:
    service.configure("hot_drian_timeout = 3", hook=WRAPPED_LATE)
    done = service.run()
    assert done.returncode != 0
    assert "did you mean 'hot_drain_timeout'?" in done.stdout
    assert not (service.folder / "pid").exists()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("hot_probation", -1, "not a number of seconds, 0 or more: -1"),
        ("hot_drain_timeout", "soon", "not a number of seconds, 0 or more: 'soon'"),
        ("hot_ready_timeout", [], "not a number of seconds"),
        ("hot_cutover", "sometimes", "'sometimes' is none of 'atomic', 'overlap'"),
        ("on_upgrade_failed", "print", "print"),
    ],
)
def test_invalid_value(service: Service, name: str, value: object, complaint: str) -> None:
    service.configure(f"{name} = {value!r}")
    done = service.run(*service.command("--check-config"))
    assert done.returncode != 0
    assert complaint in done.stdout
    assert name in done.stdout


def test_invalid_value_known_late(service: Service) -> None:
    service.configure(hook=WRAPPED_LATE, hot_probation=-1)
    done = service.run()
    assert done.returncode != 0
    assert "Invalid value for hot_probation: not a number of seconds, 0 or more: -1" in done.stdout
    assert not (service.folder / "pid").exists()


def test_config_is_checked_and_printed(service: Service) -> None:
    service.configure(hot_drain_timeout=12.5)
    assert service.run(*service.command("--check-config")).returncode == 0
    printed = service.run(*service.command("--print-config"))
    assert printed.returncode == 0
    values = dict(map(str.strip, line.split("=", 1)) for line in printed.stdout.splitlines() if "=" in line)
    assert values["hot_drain_timeout"] == "12.5"
    assert values["hot_probation"] == "0.2"
    assert float(values["hot_ready_timeout"]) == 60
    assert values["hot_cutover"] == "atomic"
    assert not (service.folder / "pid").exists()


def test_import_needs_no_gunicorn_app() -> None:
    """Importing the package outside of gunicorn, as a documentation tool does, does nothing."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, gunicorn_hot; print('gevent' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        capture_output=True, text=True, check=True,
    )
    assert done.stdout == "False\n"
