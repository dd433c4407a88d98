"""Each bench runs, and says what it has measured. What the figures are is no test's business."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.rivals import RIVALS

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 300.0     # s; a bench that needs so long is stuck

NAMES = ("upgrade", "cutover", "boot", "leave", "steady", "boot-load", "memory", "endurance", "cost")
PNG = b"\x89PNG"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benches need Linux's pidfds")


def run(tmp_path: Path, name: str, *options: str) -> dict[str, Any]:
    """The result of one bench, read from its JSON; the printed table has the same cells."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--short", "--out-dir", str(tmp_path), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    written = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert written["environment"]["cores"] > 0
    assert min(written["ceiling"].values()) > 0
    result = written["result"]
    assert result["name"] == name
    assert result["records"]
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in done.stdout.splitlines()]
    for row in (result["columns"], *result["rows"]):
        assert [cell.strip() for cell in row] in lines
    return dict(result)


def picture_is_drawn(tmp_path: Path, name: str) -> bool:
    """Whether there is one, as there must be with matplotlib."""
    file = tmp_path / f"{name}.png"
    if importlib.util.find_spec("matplotlib") is None:
        return not file.exists()
    return file.read_bytes().startswith(PNG)


def test_upgrade_compares_windows_of_the_same_length(tmp_path: Path) -> None:
    (record,) = run(tmp_path, "upgrade", "--worker", "gthread")["records"]

    with_upgrade, without = record["windows"]
    assert (with_upgrade["upgrade"], without["upgrade"]) == (True, False)
    assert with_upgrade["end"] <= without["start"]
    length = with_upgrade["end"] - with_upgrade["start"]
    assert without["end"] - without["start"] >= length
    assert all(window["waits"] for window in record["windows"])
    assert len(record["report"]["generations"]) == 2


def test_cutover_has_a_side_with_clients_and_one_without(tmp_path: Path) -> None:
    idle, loaded = run(tmp_path, "cutover", "--worker", "gthread")["records"]

    assert (idle["load"], loaded["load"]) == ("idle", "loaded")
    for record in (idle, loaded):
        assert min(record[part] for part in ("boot_s", "pause_s", "open_s", "answer_s")) > 0
    assert idle["first_answer_s"] is None
    assert loaded["first_answer_s"] > 0
    assert picture_is_drawn(tmp_path, "cutover")


@pytest.mark.parametrize(("name", "sides"), [
    ("boot", ("upgrade_s", "cold_start_s")),
    ("leave", ("upgrade_s", "stock_term_s")),
])
def test_times_of_both_sides(tmp_path: Path, name: str, sides: tuple[str, str]) -> None:
    (record,) = run(tmp_path, name, "--worker", "gthread")["records"]

    assert min(record[side] for side in sides) > 0


def test_steady_asks_both_sides_and_counts_instructions_where_that_is_possible(tmp_path: Path) -> None:
    result = run(tmp_path, "steady", "--worker", "gthread")
    (record,) = result["records"]

    assert_both_sides_were_asked(record)
    counts = record["instructions"]
    if counts is None:
        assert shutil.which("valgrind") is None
        assert any("not available" in note for note in result["notes"])
    else:
        assert min(counts["hot"], counts["stock"]) > 1000


def test_steady_asks_asgi_on_both_loops(tmp_path: Path) -> None:
    result = run(tmp_path, "steady", "--worker", "asgi", "--instructions", "0")

    assert [record["worker"] for record in result["records"]] == ["asgi, asyncio", "asgi, uvloop"]
    for record in result["records"]:
        assert_both_sides_were_asked(record)
        assert record["instructions"] is None


def assert_both_sides_were_asked(record: dict[str, Any]) -> None:
    for side in ("hot", "stock"):
        assert record[side]["requests"] > 0
        assert record[side]["rate"] > 0


def test_boot_load_has_windows_with_and_without_a_boot(tmp_path: Path) -> None:
    records = run(tmp_path, "boot-load", "--worker", "gthread", "--workers", "2")["records"]

    assert len({record["side"] for record in records}) == 4
    for record in records:
        assert record["before"]
        assert record["during"]


def test_memory_of_both_sides(tmp_path: Path) -> None:
    (record,) = run(tmp_path, "memory", "--worker", "gthread")["records"]

    for side in ("hot", "stock"):
        assert record[side]["proportional_kib"] > record[side]["private_kib"] > 1000


def test_cost_of_more_workers_and_of_idle_connections(tmp_path: Path) -> None:
    result = run(tmp_path, "cost", "--upgrades", "1")

    assert [tuple(row[:3]) for row in result["rows"]] == [
        ("gthread", "1", "0"), ("gthread", "2", "0"), ("gthread", "2", "20")]
    sampled = [record for record in result["records"] if "peak_mib" in record]
    timed = [record for record in result["records"] if "cpu_s" in record]
    assert (len(sampled), len(timed)) == (3, 3)
    for record in sampled:
        assert record["peak_mib"] > record["before_mib"] > 0
    for record in timed:
        assert record["cpu_s"] > 0
        assert 0 < record["ready_s"] < record["answer_s"]
        assert record["ready_s"] < record["gone_s"]
        # By contract those who are idle are kept to the end of the drain, 5 s.
        assert (record["gone_s"] - record["ready_s"] > 5) is (record["idle"] > 0)
    assert sum("for each" in note for note in result["notes"]) == 2
    assert picture_is_drawn(tmp_path, "cost")


def test_endurance_looks_at_the_master_its_workers_and_the_holder(tmp_path: Path) -> None:
    result = run(tmp_path, "endurance", "--upgrades", "2")

    assert [(row[1], row[2]) for row in result["rows"]] == [("follow", "2"), ("stable", "2")]
    for record in result["records"]:
        assert record["took_s"] > 0
        assert (record["holder"] is None) is (record["hot_pid"] == "follow")
        for who in ("master", "worker_mean", "holder"):
            if record[who]:
                assert record[who]["descriptors"] > 3
                assert record[who]["rss_mib"] > (0 if who == "holder" else 1)  # it may just be executed
    assert picture_is_drawn(tmp_path, "endurance")


def test_behind_nginx_each_way_is_measured_or_all_is_skipped_visibly(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "nginx", "--short", "--out-dir", str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped: not on the PATH" in done.stdout
        return
    result = run(tmp_path, "nginx")

    sides = {record["server"]: record for record in result["records"]}
    assert list(sides) == ["hot", "gunicorn-hup", "gunicorn-usr2-sleep", "gunicorn-usr2-kill"]
    for record in sides.values():
        assert {generation["name"] for generation in record["report"]["generations"]} == {"0", "1"}
    assert sides["hot"]["report"]["failed"] == 0
    assert sides["hot"]["error_log"] == []


def test_rivals_are_measured_or_skipped_visibly(tmp_path: Path) -> None:
    result = run(tmp_path, "rivals", "--rival", "hot", "--rival", "uwsgi-chain")

    by_server = {row[0]: row for row in result["rows"]}
    assert len(by_server) == 2
    measured = {record["server"]: record for record in result["records"]}
    assert measured["hot"]["report"]["failed"] == 0
    assert [window["upgrade"] for window in measured["hot"]["windows"]] == [True, False]
    assert min(len(window["waits"]) for window in measured["hot"]["windows"]) > 0
    if "uwsgi-chain" not in measured:
        assert by_server["uWSGI: chain reload, lazy-apps"][1] == "skipped: not installed"
    assert picture_is_drawn(tmp_path, "rivals")
    assert set(measured["hot"]["report"]["clients"]) == {"new", "keep", "idle", "slow", "upload", "stream"}


@pytest.mark.parametrize("name", ["unicorn", "puma-phased", "tableflip"])
def test_a_rival_that_runs_no_python(tmp_path: Path, name: str) -> None:
    rival = RIVALS[name]
    if rival.version() is None:
        pytest.skip(f"{rival.title}: {rival.absent}")

    (record,) = run(tmp_path, "rivals", "--rival", name)["records"]

    assert [generation["name"] for generation in record["report"]["generations"]] == ["0", "1"]
    assert all(client["ok"] for client in record["report"]["clients"].values())


def test_a_bad_release_is_followed_by_a_good_one(tmp_path: Path) -> None:
    (record,) = run(tmp_path, "bad-release", "--rival", "hot", "--fault", "import")["records"]

    assert (record["fault"], record["up"], record["repaired"]) == ("import", True, "repaired")
    assert record["requests"] > 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_what_it_has(tmp_path: Path, sig: int) -> None:
    file = tmp_path / "bad-release.json"
    command = [sys.executable, "-m", "bench", "bad-release", "--short", "--out-dir", str(tmp_path), "--rival", "hot"]
    with subprocess.Popen(
        [*command, "--fault", "import", "--fault", "500"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as bench:
        try:
            end = time.monotonic() + TIMEOUT
            while not file.exists():
                assert bench.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            bench.send_signal(sig)
            said, _ = bench.communicate(timeout=TIMEOUT)
        finally:
            bench.kill()

    assert bench.returncode == 130, said
    assert [record["fault"] for record in json.loads(file.read_text(encoding="utf-8"))["result"]["records"]] == [
        "import"]


def report(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "report", "--out-dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_a_report_has_the_table_of_what_has_run(tmp_path: Path) -> None:
    result = run(tmp_path, "leave", "--worker", "sync")
    done = report(tmp_path)

    assert done.returncode == 0, done.stderr
    for row in (result["columns"], *result["rows"]):
        assert "| " + " | ".join(row) + " |" in done.stdout.splitlines()


def test_a_report_of_nothing(tmp_path: Path) -> None:
    done = report(tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no results in {tmp_path}: run python -m bench all, or one of them, before\n"


def test_the_picture_of_the_readme(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="for pictures: gunicorn_hot[plot]")
    file = tmp_path / "upgrade.png"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "picture", "--short", "--out", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the longest wait of a new connection") == 2
    assert file.read_bytes().startswith(PNG)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_worker_type_has_a_row(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gevent")
    pytest.importorskip("uvicorn_worker")

    result = run(tmp_path, name, "--worker", "all")

    assert {row[0] for row in result["rows"]} == {"sync", "gthread", "gevent", "asgi", "uvicorn"}
