"""A folder and a virtual environment per release, behind a link: what the how-to about releases tells."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gunicorn
import pytest
from outside import unnoticed
from server import REPOSITORY, Service, until

APP = """
import json, os, sys, time
from pathlib import Path
HERE = Path(__file__).resolve().parent
FACTS = {"prefix": sys.prefix, "python": list(sys.version_info[:2]), "folder": os.getcwd(), "SHOP": os.environ["SHOP"]}
with open(HERE / "loaded", "a") as loaded:
    loaded.write("x\\n")

def app(environ, start_response):
    body = json.dumps(FACTS).encode()
    if environ["PATH_INFO"] == "/late":
        (HERE / "late.held").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
        import late
        body = late.RELEASE.encode()
    headers = [("X-Gen", HERE.name), ("X-Pid", str(os.getpid())), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
"""
GUNICORN = """#!{python}
import sys
from gunicorn.app.wsgiapp import run
sys.exit(run())
"""


def other_python() -> str:
    """Return an interpreter of another version than ours, or skip."""
    for minor in range(10, 14):
        if minor == sys.version_info[1] or (found := shutil.which(f"python3.{minor}")) is None:
            continue
        done = subprocess.run(
            [found, "-c", "import sys, venv; print(*sys.version_info[:2], sep='.'); print(sys.executable)"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        version, _, python = done.stdout.strip().partition("\n")
        if done.returncode == 0 and version == f"3.{minor}":
            return python
    pytest.skip("no other Python from 3.10 to 3.13 here")


def release(service: Service, name: str, python: str = sys.executable, **settings: Any) -> Path:
    """Make a release with a virtual environment of its own; returns its folder."""
    folder = service.folder / "releases" / name
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "late.py").write_text(f'RELEASE = "{name}"')
    subprocess.run([python, "-m", "venv", "--without-pip", folder / "venv"], check=True, stdin=subprocess.DEVNULL)
    # gunicorn and the plug-in are the tester's; nothing of them is compiled.
    (packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    shared = [str(Path(gunicorn.__file__).parent.parent), str(REPOSITORY)]
    (packages / "shared.pth").write_text("\n".join(shared))
    program = folder / "venv" / "bin" / "gunicorn"
    program.write_text(GUNICORN.format(python=folder / "venv" / "bin" / "python"))
    program.chmod(0o755)
    service.configure(
        name=f"releases/{name}/gunicorn.conf.py",
        pidfile=str(service.folder / "pid"), errorlog=str(service.folder / "log"), hot_exec=command(service),
        **settings,
    )  # fmt: skip
    return folder


def command(service: Service) -> list[str]:
    """Return what starts any release: the link is looked at by whoever executes it."""
    script = "set -a; . ./shop.env; cd -P current; exec ./venv/bin/gunicorn -c gunicorn.conf.py app:app"
    return ["sh", "-c", f"cd {service.folder}; {script}"]


def put_in_service(service: Service, name: str) -> None:
    (service.folder / "next").symlink_to(f"releases/{name}")
    (service.folder / "next").rename(service.folder / "current")


def facts(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(service.ask().body)
    return answer


def start(service: Service) -> None:
    put_in_service(service, "A")
    service.write("shop.env", "SHOP=one\n")
    (service.folder / "app.py").unlink()
    service.start(command(service), serves=False)
    service.master = int(service.wait_log(r"Listening at: .* \((\d+)\)")[0][1])
    service.wait_file("releases/A/loaded", lines=2)
    a = service.folder / "releases" / "A"
    assert facts(service) == {
        "prefix": str(a / "venv"), "python": list(sys.version_info[:2]), "folder": str(a), "SHOP": "one"
    }


def test_each_release_has_its_environment_folder_and_variables(service: Service) -> None:
    a = release(service, "A", hot_pid="stable")
    b = release(service, "B", hot_pid="stable")
    release(service, "C", hot_pid="stable")
    start(service)
    first = service.master
    with unnoticed(service):
        service.write("shop.env", "SHOP=two\n")
        put_in_service(service, "B")
        service.begin_upgrade()
        service.wait_log("The predecessor has left")
        assert facts(service) == {
            "prefix": str(b / "venv"), "python": list(sys.version_info[:2]), "folder": str(b), "SHOP": "two"
        }
        # The releases before it may go: also the one whose interpreter keeps the pid.
        shutil.rmtree(a)
        put_in_service(service, "C")
        mark = service.mark()
        service.begin_upgrade()
        service.wait_log("The predecessor has left", after=mark)
        shutil.rmtree(b)
        assert service.ask().gen == "C"
    assert service.pid_in() == first
    service.stop()


def test_an_old_release_imports_its_own_modules(service: Service) -> None:
    """The link names the next release by then; `cd` without -P would leave it in the path of the modules."""
    release(service, "A")
    release(service, "B")
    start(service)
    put_in_service(service, "B")
    # A worker that is born again...
    service.signal(signal.SIGKILL, service.workers()[0])
    service.wait_file("releases/A/loaded", lines=3)
    with service.connect() as connection:
        connection.send_request("/late")
        service.wait_file("releases/A/late.held")
        service.begin_upgrade()
        service.wait_log("committed to successor")
        # ...and one that drains.
        service.write("releases/A/go")
        assert connection.answer().body == b"A"
    service.wait_log("Upgrade: done")
    assert service.ask().gen == "B"


def test_another_python(service: Service) -> None:
    python = other_python()
    release(service, "A")
    b = release(service, "B", python)
    release(service, "C")
    start(service)
    with unnoticed(service):
        put_in_service(service, "B")
        service.upgrade()
        assert facts(service)["python"] != list(sys.version_info[:2])
        assert facts(service)["prefix"] == str(b / "venv")
        put_in_service(service, "C")
        service.upgrade()
        assert facts(service)["python"] == list(sys.version_info[:2])


def test_a_release_without_its_environment_is_refused(service: Service) -> None:
    release(service, "A")
    shutil.rmtree(release(service, "B") / "venv")
    start(service)
    put_in_service(service, "B")
    service.begin_upgrade()
    service.wait_log("Upgrade failed: .*venv/bin/gunicorn")
    assert service.ask().gen == "A"
    put_in_service(service, "A")
    until(lambda: service.pid_in() == service.master, "the old master in the pid file")
    service.upgrade()
