"""The examples, each run for real by the script that its README names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def run(script: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=240, check=False,
    )


@pytest.mark.parametrize("name", ["flask", "fastapi", "django"])
def test_upgrades_under_load(name: str, commands: dict[str, str]) -> None:
    pytest.importorskip(name)
    ended = run("upgrade_under_load.py", str(EXAMPLES / name), env=commands)
    assert ended.returncode == 0, ended.stdout
    *_, total = ended.stdout.splitlines()
    assert ", 0 failed, 3 generations, 0 answers of an older release after a newer one" in total
    assert "./deploy broken: exit status 1" in ended.stdout


def test_a_failure_is_seen(tmp_path: Path, commands: dict[str, str]) -> None:
    """The script can fail: a release that answers with an error, and is put in service by nobody's fault."""
    pytest.importorskip("flask")
    folder = tmp_path / "flask"
    shutil.copytree(EXAMPLES / "flask", folder)
    app = folder / "app.py"
    fine, broken = 'return f"release {RELEASE}\\n"', 'return "", 500 * (RELEASE == "2") or 200'
    app.write_text(app.read_text().replace(fine, broken))
    ended = run("upgrade_under_load.py", str(folder), "--releases", "1", "2", env=commands)
    assert ended.returncode == 1, ended.stdout
    assert "failed: 500 INTERNAL SERVER ERROR" in ended.stdout


def test_a_server_that_ends_is_not_waited_for(tmp_path: Path, commands: dict[str, str]) -> None:
    """As it does without the package that the example needs: the reason is said, and not where the script gave up."""
    folder = tmp_path / "flask"
    shutil.copytree(EXAMPLES / "flask", folder)
    (folder / "app.py").write_text("import a_package_that_is_missing\n")
    ended = run("upgrade_under_load.py", str(folder), env=commands)
    assert ended.returncode == 1, ended.stdout
    assert ended.stdout.startswith("the server has ended\n"), ended.stdout
    assert "ModuleNotFoundError: No module named 'a_package_that_is_missing'" in ended.stdout
    assert "upgrade_under_load.py" not in ended.stdout


def behind_nginx(worker: str, *arguments: str, env: dict[str, str]) -> None:
    missing = [program for program in ("nginx", "ab") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} in PATH")
    ended = run("nginx/under_load.py", "--worker", worker, *arguments, env=env)
    assert ended.returncode == 0, ended.stdout
    assert "nginx's log: 0 errors" in ended.stdout


def test_behind_nginx(commands: dict[str, str]) -> None:
    behind_nginx("gthread", "--upgrades", "2", "--requests", "600", env=commands)


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["gthread", "gevent", "asgi", "uvicorn_worker.UvicornWorker"])
def test_ten_upgrades_behind_nginx(worker: str, commands: dict[str, str]) -> None:
    behind_nginx(worker, env=commands)


def test_nginx_is_missed_visibly(tmp_path: Path, commands: dict[str, str]) -> None:
    ended = run("nginx/under_load.py", env={**commands, "PATH": str(tmp_path)})
    assert (ended.returncode, ended.stdout) == (77, "not run: no nginx and no ab in PATH\n")
