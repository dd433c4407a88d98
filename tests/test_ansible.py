"""The playbook of the examples, by a real ansible: three hosts are three services in folders of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside import unnoticed
from server import APPS, REPOSITORY, Service

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ansible") is None, reason="no ansible-core here")

PLAYBOOK = REPOSITORY / "examples" / "ansible" / "upgrade.yml"
NAMES = ["web1", "web2", "web3"]
LIMIT = 150  # s, of one playbook on a busy machine

#: What each host says of its upgrades, to one file: in which order did it happen?
DIARY = """
def on_upgrade_ready(server):
    with open({diary!r}, "a") as diary:
        diary.write("{name} ready\\n")

def on_upgrade_done(server):
    with open({diary!r}, "a") as diary:
        diary.write("{name} done\\n")
"""


def release(host: Service, name: str, content: str = "") -> None:
    """Put a release beside the one that serves."""
    folder = host.folder / "releases" / name
    folder.mkdir(parents=True)
    shutil.copy(APPS / "subject.py", folder / "app.py")
    (folder / "release").write_text(content or name)


@pytest.fixture
def hosts(tmp_path: Path, environment: dict[str, str]) -> Iterator[dict[str, Service]]:
    """Three services that serve release A, by a link."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name in NAMES:
            folder = tmp_path / name
            folder.mkdir()
            host = made[name] = stack.enter_context(Service(folder, environment))
            (folder / "app.py").unlink()
            release(host, "A")
            (folder / "current").symlink_to("releases/A")
            host.configure(
                DIARY.format(diary=str(tmp_path / "diary"), name=name),
                chdir=str(folder / "current"), pidfile=str(folder / "pid"), errorlog=str(folder / "log"),
            )
            host.start(serves=False)
        for host in made.values():
            host.wait_file("releases/A/loaded", lines=2)
            assert host.ask().gen == "A"
        yield made


def rollout(tmp_path: Path, hosts: dict[str, Service], name: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook as an operator would."""
    inventory = {
        "shop": {
            "hosts": {
                name: {
                    "shop_home": str(host.folder),
                    "shop_pid_file": str(host.folder / "pid"),
                    # Each host has a runtime folder of its own.
                    "shop_command": ["env", f"XDG_RUNTIME_DIR={host.folder}", sys.executable, "-m", "gunicorn_hot"],
                }
                for name, host in hosts.items()
            },
            "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        }
    }
    # JSON is YAML.
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    env = {
        **next(iter(hosts.values())).env,
        "LC_ALL": "C.UTF-8", "ANSIBLE_HOME": str(tmp_path / "ansible"), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "ansible" / "tmp"),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "inventory.yml", "-e", f"release={name}", PLAYBOOK],
        cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


def diary(tmp_path: Path) -> list[str]:
    return (tmp_path / "diary").read_text().splitlines()


def test_one_host_after_the_other(tmp_path: Path, hosts: dict[str, Service]) -> None:
    for host in hosts.values():
        release(host, "B")
    with contextlib.ExitStack() as loads:
        for host in hosts.values():
            loads.enter_context(unnoticed(host, clients={"new": 1, "keep": 1}))
        done = rollout(tmp_path, hosts, "B")
        assert done.returncode == 0, done.stdout
        assert [host.ask().gen for host in hosts.values()] == ["B", "B", "B"]
    assert diary(tmp_path) == [f"{name} {word}" for name in NAMES for word in ("ready", "done")]


def test_the_first_host_that_refuses_a_release_ends_the_rollout(tmp_path: Path, hosts: dict[str, Service]) -> None:
    release(hosts["web1"], "B")
    release(hosts["web2"], "B", "B broken")
    release(hosts["web3"], "B")
    with contextlib.ExitStack() as loads:
        for host in hosts.values():
            loads.enter_context(unnoticed(host, clients={"new": 1, "keep": 1}))
        done = rollout(tmp_path, hosts, "B")
        assert done.returncode != 0, done.stdout
        assert [host.ask().gen for host in hosts.values()] == ["B", "A", "A"]
    assert "web2 has not taken release B" in done.stdout
    assert "RuntimeError: this release is broken" in done.stdout
    # The third one has not even been told.
    assert diary(tmp_path) == ["web1 ready", "web1 done"]
    assert "SIGUSR2" not in hosts["web3"].log
    assert "Handling signal: usr2" not in hosts["web3"].log
    links = [os.readlink(host.folder / "current") for host in hosts.values()]
    assert links == ["releases/B", "releases/A", "releases/A"]
