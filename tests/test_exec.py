"""What is executed as the next generation, and which signal asks for it."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from outside import unnoticed
from server import Service, wait_gone

from gunicorn_hot import settings


@pytest.mark.parametrize(
    ("value", "command"),
    [
        (None, None),
        (["gunicorn", "-c", "a b"], ["gunicorn", "-c", "a b"]),
        (("gunicorn",), ["gunicorn"]),
        ("gunicorn -c 'a b'", ["gunicorn", "-c", "a b"]),
    ],
)
def test_a_command(value: object, command: list[str] | None) -> None:
    assert settings._command(value) == command


@pytest.mark.parametrize(("value", "error"), [([], ValueError), ("", ValueError), ([1], TypeError), (7, TypeError)])
def test_what_is_no_command(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        settings._command(value)


def test_a_new_environment_by_a_command_of_its_own(service: Service) -> None:
    gunicorn = f"exec {sys.executable} -m gunicorn -c hot.conf.py app:app"
    command = ["sh", "-c", f"set -a; . ./release.env; {gunicorn}"]
    service.configure(hot_exec=command)
    service.start()
    assert "SHOP" not in json.loads(service.ask("/environ").body)
    with unnoticed(service):
        for release in "BC":
            service.write("release.env", f"SHOP={release}\n")
            service.upgrade(release)
            assert json.loads(service.ask("/environ").body)["SHOP"] == release


def test_a_release_behind_a_link(service: Service) -> None:
    link = service.folder / "current"
    for release in "AB":
        folder = service.folder / f"release-{release}"
        folder.mkdir()
        (folder / "app.py").write_text(
            "from pathlib import Path\nHERE = Path(__file__).resolve().parent.name\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [('X-Gen', HERE), ('X-Pid', '0'), ('Content-Length', '0')])\n"
            "    return []\n"
        )
    link.symlink_to("release-A")
    (service.folder / "app.py").unlink()
    service.configure(chdir=str(link), pidfile=str(service.folder / "pid"), errorlog=str(service.folder / "log"))
    service.start(serves=False)
    service.wait_log(r"Listening at: .* \((\d+)\)")
    service.master = int(service.wait_log(r"Listening at: .* \((\d+)\)")[0][1])
    assert service.ask().gen == "release-A"
    (service.folder / "next").symlink_to("release-B")
    (service.folder / "next").rename(link)
    service.upgrade()
    assert service.ask().gen == "release-B"


def test_a_command_that_is_not_there_fails_the_upgrade(service: Service) -> None:
    service.configure(hot_exec=["/nowhere/gunicorn"])
    service.start()
    service.begin_upgrade()
    service.wait_log("Upgrade failed: FileNotFoundError")
    assert service.ask().gen == "A"


def test_hup_is_an_upgrade_if_that_is_wanted(service: Service) -> None:
    service.configure(hot_hup=True)
    service.start()
    old = service.master
    service.release("B")
    with unnoticed(service):
        service.signal(signal.SIGHUP)
        service.wait_log("Upgrade: done")
        wait_gone(old)
    service.master = service.pid_in() or 0
    assert service.ask().gen == "B"
    service.release("C broken")
    service.signal(signal.SIGHUP)
    service.wait_log("Upgrade failed")
    assert service.ask().gen == "B"
