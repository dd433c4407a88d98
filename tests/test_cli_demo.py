"""`gunicorn-hot demo`: it proves what it draws, ends with what it has begun, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import commandline
import pytest
from commandline import finish, start
from server import descendants, until

from gunicorn_hot.cli import demo
from gunicorn_hot.cli.demo.load import Record
from gunicorn_hot.cli.output import Output
from gunicorn_hot.cli.progress import Step


@pytest.fixture
def env(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose temporary folder is the test's. What a failed test has left is killed."""
    made = commandline.environment(environment)
    made["TMPDIR"] = str(tmp_path)
    made["COLUMNS"] = "120"
    made["PYTHONIOENCODING"] = "utf-8"
    yield made
    for left in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left.pid, signal.SIGKILL)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("gunicorn-hot-demo-*")]


def test_the_demo(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    ran = finish(start(env, "demo", "--json", path))
    assert ran.code == 0, ran
    assert "The broken release: refused, and nobody noticed." in ran.out
    assert "ModuleNotFoundError: No module named 'a_module_that_was_forgotten'" in ran.out
    written = json.loads(path.read_text())
    assert written["failed"] == 0
    assert {record[4] for record in written["records"]} == {"1", "2"}
    assert {record[2] for record in written["records"]} == {"new", "kept", "slow"}
    assert [name for name, *_ in written["phases"]][:1] == ["boot"]
    assert {"probation", "drain"} <= {name for name, *_ in written["phases"]}
    # The load was there all the time: no long silence.
    ended = sorted(record[1] for record in written["records"])
    assert max(after - before for before, after in itertools.pairwise(ended)) < 5
    drawn = re.search(r"^release 1 .* (\d+) ok$\n^release 2 .* (\d+) ok$\n^failed .* (\d+)$", ran.out, re.MULTILINE)
    assert drawn
    assert sum(map(int, drawn.groups())) == len(written["records"])
    assert not leftovers(tmp_path)
    assert not [one for one in descendants(os.getpid()) if one.state != "Z"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(
    env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        popen = start(env, "demo", stdout=out)
        until(lambda: "From now on" in shown.read_text(), "the load")
        assert leftovers(tmp_path)
        popen.send_signal(number)
        ran = finish(popen)
    assert ran.code == 128 + number, ran
    assert "interrupted" in ran.err
    assert "Traceback" not in ran.err
    assert not leftovers(tmp_path)
    assert not [one for one in descendants(os.getpid()) if one.state != "Z"]


def test_a_demo_that_is_killed_leaves_no_process(env: dict[str, str], tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        popen = start(env, "demo", stdout=out)
        until(lambda: "booting" in shown.read_text(), "the upgrade")
        popen.kill()
        finish(popen)
    until(lambda: not [one for one in descendants(os.getpid()) if one.state != "Z"], "the end of the server")


@pytest.mark.parametrize(
    ("failure", "upgraded", "refused", "code"),
    [
        ("", "done", "failed", 0), ("ConnectionResetError", "done", "failed", 1), ("", "failed", "failed", 1),
        ("", "done", "done", 1),
    ],
)
def test_what_the_demo_makes_of_what_it_saw(
    capsys: pytest.CaptureFixture[str], failure: str, upgraded: str, refused: str, code: int
) -> None:
    records = [Record(i / 100, i / 100 + 0.01, "new", "ok", "1") for i in range(100)]
    if failure:
        records.append(Record(0.5, 0.6, "kept", failure, ""))
    steps = [Step(outcome, "", outcome=outcome) for outcome in (upgraded, refused)]
    assert demo._Demo(Output(), None, None)._report(records, *steps) == code
    out = capsys.readouterr().out
    assert f"{len(records)} requests, {len(records) - 100} failed" in out
    assert (f"failed: kept, {failure}" in out) == bool(failure)


def test_a_demo_that_could_not_write_says_so_at_once(env: dict[str, str], tmp_path: Path) -> None:
    ran = finish(start(env, "demo", "--json", tmp_path / "nowhere" / "records.json"))
    assert ran.code == 2
    assert "cannot be written" in ran.err


def test_a_demo_without_a_working_gunicorn_shows_its_log(env: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    code = "import sys\nif 'gunicorn' in sys.orig_argv: sys.exit('no gunicorn today')"
    (broken / "sitecustomize.py").write_text(code)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(broken), env.get("PYTHONPATH"))))
    ran = finish(start(env, "demo"))
    assert ran.code == 1
    assert "no gunicorn today" in ran.err
    assert not leftovers(tmp_path)
