"""An on_starting of the user's that does not call ours: nobody should run without upgrades and not know it."""

from __future__ import annotations

import pytest
from server import HOOK, Service

HIDES = f"""
{HOOK}
def on_starting(server):
    open("own", "a").close()
"""
FORGETS = """
import gunicorn_hot

def on_starting(server):
    open("own", "a").close()
"""
NOT_IN_USE = "gunicorn_hot is not in use"


@pytest.mark.parametrize("arguments", [[], ["--check-config"]], ids=["start", "check"])
@pytest.mark.parametrize("location", ["hot.conf.py", "python:hot_conf"])
def test_one_that_hides_ours_is_an_error(service: Service, location: str, arguments: list[str]) -> None:
    name = location.removeprefix("python:").removesuffix(".py") + ".py"
    service.configure(hook=HIDES, name=name)
    command = service.command(*arguments)
    done = service.run(*[location if word == "hot.conf.py" else word for word in command])
    assert done.returncode == 1
    assert f"{name} hides the one that is imported from gunicorn_hot: let it call gunicorn_hot.on_st" in done.stdout
    assert not (service.folder / "own").exists()


def test_one_that_hides_ours_fails_an_upgrade(service: Service) -> None:
    service.configure()
    service.start()
    mark = service.mark()
    service.configure(hook=HIDES)
    service.release("B")
    service.begin_upgrade()
    service.wait_log("Upgrade failed: the successor exited with code 1: Error: on_starting in .* hides", after=mark)
    assert service.ask().gen == "A"


@pytest.mark.parametrize(
    ("hook", "who"),
    [
        pytest.param(FORGETS, r"its on_starting must call gunicorn_hot.on_starting\(server\)", id="own"),
        pytest.param("import gunicorn_hot", "it must import on_starting from gunicorn_hot", id="none"),
    ],
)
def test_settings_without_effect_are_said(service: Service, hook: str, who: str) -> None:
    service.configure(hook=hook)
    service.start()
    service.wait_log(rf"\[ERROR\] {NOT_IN_USE}, and hot_probation, hot_pid in hot.conf.py without effect: {who}")
    assert (service.folder / "own").exists() == (hook == FORGETS)


def test_a_configuration_that_only_asks_is_left_alone(service: Service) -> None:
    """As one that several services share may do, for `draining()`."""
    service.configure(hook=FORGETS, hot_probation=None, hot_pid=None)
    service.start()
    assert NOT_IN_USE not in service.log
    assert "hot_pid" not in service.log
    assert (service.folder / "own").exists()


CALLS = {
    "by another name": """
from gunicorn_hot import on_starting as become_hot

def on_starting(server):
    become_hot(server)
""",
    "kept before": f"""
{HOOK}
become_hot = on_starting

def on_starting(server):
    become_hot(server)
""",
    "inside, by its name": f"""
{HOOK}
def on_starting(server):
    from gunicorn_hot import on_starting
    on_starting(server)
""",
    "by the module": f"""
import gunicorn_hot
{HOOK}
def on_starting(server):
    gunicorn_hot.on_starting(server)
""",
    "ours is the last one": f"""
def on_starting(server):
    raise AssertionError("hidden")
{HOOK}
""",
}


@pytest.mark.parametrize("how", CALLS)
def test_one_that_calls_ours_is_fine(service: Service, how: str) -> None:
    service.configure(hook=CALLS[how], workers=1)
    service.start()
    assert NOT_IN_USE not in service.log
    assert "hot_pid: follow, as configured" in service.log


def test_the_hook_is_printed_as_it_is(service: Service) -> None:
    service.configure(hook=FORGETS)
    printed = service.run(*service.command("--print-config"))
    assert printed.returncode == 0
    line = next(line for line in printed.stdout.splitlines() if line.startswith("on_starting "))
    assert line.split("=")[1].strip() == "<on_starting()>"
