"""What the command line says of a status: steps, tables, the demo's picture. Pure: no process runs."""

from __future__ import annotations

import dataclasses

import pytest

from gunicorn_hot.cli import progress, show
from gunicorn_hot.cli.asking import _is_good, _is_over
from gunicorn_hot.cli.demo import timeline
from gunicorn_hot.cli.demo.load import Record
from gunicorn_hot.cli.demo.timeline import Phase
from gunicorn_hot.cli.output import Output
from gunicorn_hot.cli.progress import Step
from gunicorn_hot.status import Master, Past, Phases, Refused, Service, Status, Upgrade, Worker, Written

NOW = 1_000_000.0
UPGRADE = Upgrade("mine", 7, "booting", False, NOW - 1, deadline=NOW + 59, ready=2, total=4)
STATUS = Status(
    Service(7, "shop:app", "stable", None, "/srv/shop", ["http://127.0.0.1:8000", "unix:/run/shop.sock"]),
    Written(7, 1, "boot", NOW),
    "upgrading",
    4,
    UPGRADE,
    [
        Master("serving", 10, 1, NOW - 90, 4, "27.0.1", "3.11.7", "0.1.0", "abc", [Worker(11, "serving", NOW - 80)]),
        Master("holder", 7, 1, NOW - 100_000),
    ],
    [Past("old", 6, 3, 4, NOW - 100, 2.25, "done", Phases(1.0, 0.34, 0.2, 0.75), cut=1)],
)


def test_words_for_each_state() -> None:
    def words(**changes: object) -> str:
        found = progress.step(dataclasses.replace(STATUS, upgrade=dataclasses.replace(UPGRADE, **changes)), "mine")
        assert found is not None
        return found.at(NOW)

    assert words() == "booting: 2 of 4 workers ready, 59 s left"
    assert words(total=1, ready=0, waits_for="a hold") == "booting: 0 of 1 worker ready (a hold), 59 s left"
    assert words(deadline=None) == "booting: 2 of 4 workers ready"
    assert words(state="probation", deadline=NOW + 3).endswith("3 s left")
    draining = words(state="draining", deadline=NOW + 12, draining_requests=3, draining_workers=1)
    assert draining == "committed; draining: 3 requests in 1 old worker, 12 s left"
    assert words(state="draining", deadline=None) == "committed; the old generation leaves"
    assert words(state="ending", reason="no", deadline=NOW - 1) == "ending the new generation, 0 s left"
    assert words(state="of a later release", deadline=None) == "of a later release"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("done", "done in 2.2 s: generation 4 serves"),
        ("checked", "an upgrade would work"),
        ("check-failed", "an upgrade would fail after 2.2 s: why; generation 4 serves on"),
        ("failed", "failed after 2.2 s: why; generation 4 serves on"),
        ("rolled-back", "rolled back after 2.2 s: why"),
        ("taken-back", "taken back after 2.2 s: why"),
        ("aborted", "aborted after 2.2 s: why"),
    ],
)
def test_words_for_each_outcome(outcome: str, words: str) -> None:
    past = Past("mine", 7, 4, 5 if outcome == "done" else 4, NOW, 2.2, outcome, reason="why")
    past = dataclasses.replace(past, generation_to=4)
    found = progress.step(dataclasses.replace(STATUS, upgrade=None, history=[past]), "mine")
    assert found is not None
    assert words in found.text
    assert found.outcome == outcome


def test_an_old_master_that_has_died_has_not_told_what_it_cut() -> None:
    past = Past("mine", 7, 3, 4, NOW, 2.2, "done", Phases(1.0), reason="the old master died while it drained")
    text = progress.ended(past, STATUS).text
    assert text == (
        "done in 2.2 s: generation 4 serves, 0 requests known to be cut; the old master died while it drained"
    )


def test_somebody_elses_upgrade_is_not_ours() -> None:
    assert progress.step(STATUS, "another") is None
    assert progress.refusal(STATUS, "mine") is None
    refused = dataclasses.replace(STATUS, refused=Refused("mine", "no upgrade"))
    assert progress.refusal(refused, "mine") == "no upgrade"
    assert progress.refusal(refused, "another") is None


@pytest.mark.parametrize(
    ("command", "good"),
    [
        ("upgrade", {"done", "checked"}), ("check", {"done", "checked"}), ("commit", {"done"}),
        ("abort", {"failed", "rolled-back", "aborted", "check-failed"}),
        ("rollback", {"failed", "rolled-back", "aborted", "check-failed"}),
    ],
)
def test_which_outcomes_are_what_was_asked_for(command: str, good: set[str]) -> None:
    outcomes = ("done", "failed", "rolled-back", "taken-back", "aborted", "checked", "check-failed")
    assert {outcome for outcome in outcomes if _is_good(command, Step(outcome, "", outcome=outcome))} == good
    assert all(_is_over(command, Step(outcome, "", outcome=outcome)) for outcome in outcomes)


def test_a_commit_is_over_when_the_old_generation_drains() -> None:
    assert _is_over("commit", Step("draining", ""))
    assert _is_good("commit", Step("draining", ""))
    assert not _is_over("upgrade", Step("draining", ""))


def test_one_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    output = Output(clock=lambda: now)
    for ready in (0, 0, 1, 1, 2):
        output.progress(Step("booting", f"{ready} of 2"))
    for tenth in range(25):
        now = tenth / 10
        output.progress(Step("draining", f"{25 - tenth} requests", moving=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["0 of 2", "1 of 2", "2 of 2", "25 requests", "15 requests", "5 requests"]


def test_a_status_in_tables() -> None:
    lines = show.plain(STATUS, NOW)
    assert lines[0] == "shop:app: upgrading, generation 4, pid 7 (stable)"
    assert "http://127.0.0.1:8000, unix:/run/shop.sock" in lines[1]
    assert lines[3] == "  upgrade 7 under way for 1s: booting: 2 of 4 workers ready, 59 s left"
    words = [line.split() for line in lines]
    assert ["10", "serving", "4", "1m", "30s", "1", "27.0.1", "3.11.7", "abc"] in words
    assert ["7", "holder", "-", "1d", "3h", "0", "-", "-", "-"] in words
    assert ["11", "10", "serving", "1m", "20s", "-"] in words
    [past] = [line for line in lines if " done" in line]
    assert "2.2s" in past
    assert "3 > 4" in past


def test_who_is_old_and_who_is_new_in_an_upgrade() -> None:
    def roles(old: Master, new: Master) -> list[str]:
        return [row[1] for row in show.masters(dataclasses.replace(STATUS, masters=[old, new]), NOW).rows]

    def master(role: str, *states: str) -> Master:
        return Master(role, 10, 1, NOW, workers=[Worker(11, state, NOW) for state in states])

    assert roles(master("serving", "serving"), master("successor")) == ["serving", "new, booting"]
    assert roles(master("serving", "serving"), master("successor", "ready", "booting")) == ["serving", "new, booting"]
    assert roles(master("serving", "serving"), master("successor", "ready", "ready")) == ["serving", "new, ready"]
    assert roles(master("serving", "paused"), master("successor", "serving")) == ["old, paused", "new, serving"]
    assert roles(master("draining", "draining"), master("serving", "serving")) == ["old, draining", "serving"]
    assert roles(master("holder"), master("of a later release")) == ["holder", "of a later release"]


def test_a_long_reason_is_cut_in_the_table() -> None:
    past = dataclasses.replace(STATUS.history[0], reason="x" * 500)
    [*_, line] = show.plain(dataclasses.replace(STATUS, history=[past]), NOW)
    assert line.endswith(" " + "x" * 79 + "…")
    past = dataclasses.replace(past, reason="x" * 80 + "\nmore")
    [*_, line] = show.plain(dataclasses.replace(STATUS, history=[past]), NOW)
    assert line.endswith(" " + "x" * 80)


def test_nothing_in_a_status_steers_a_terminal() -> None:
    console = pytest.importorskip("rich.console").Console(force_terminal=True, width=200)
    status = dataclasses.replace(STATUS, service=dataclasses.replace(STATUS.service, name="\x1b]0;shop\x07"))
    with console.capture() as capture:
        console.print(show.rich(status, NOW))
    assert "?]0;shop?" in capture.get()
    assert "\x1b]" not in capture.get()


def test_a_service_without_a_past_has_no_table_of_it() -> None:
    assert not [line for line in show.plain(dataclasses.replace(STATUS, history=[]), NOW) if "UPGRADE" in line]


# --- the picture


def answers(generation: str, begun: float, ended: float, took: float = 0.02) -> list[Record]:
    steps = int((ended - begun) * 50)
    return [Record(begun + i / 50 - took, begun + i / 50, "new", "ok", generation) for i in range(steps)]


PHASES = [Phase("boot", 2.0, 3.0), Phase("probation", 3.0, 5.0), Phase("drain", 5.0, 7.0)]


def rows(records: list[Record], **options: object) -> dict[str, str]:
    lines = timeline.draw(records, PHASES, **options)  # type: ignore[arg-type]
    return {line[:14].strip(): line for line in lines}


def test_the_picture_has_each_generation_in_the_order_of_its_answers() -> None:
    records = sorted(answers("2", 3.0, 8.0) + answers("1", 0.0, 2.9), key=lambda r: r.ended)
    found = rows(records, width=120)
    assert list(found)[:5] == ["", "release 1", "release 2", "failed", "longest wait"]
    first, second = found["release 1"][14:104], found["release 2"][14:104]
    assert first.rstrip().endswith("ok")
    assert not [i for i, (a, b) in enumerate(zip(first[:80], second[:80], strict=True)) if a != " " != b]
    assert found[""].split("|")[1:4] == ["boot" + "-" * 5, "probation" + "-" * 10, "drain" + "-" * 14]
    assert found["failed"].split()[-1] == "0"


def test_a_failure_is_in_its_column_and_a_wait_in_its_figure() -> None:
    records = answers("1", 0.0, 4.0)
    records += [Record(2.0, 2.05, "new", "ConnectionResetError", ""), Record(1.0, 1.5, "kept", "ok", "1"),
                Record(0.0, 3.0, "slow", "ok", "1")]
    found = rows(records, width=120)
    failed = found["failed"].split()
    assert failed[1].index("1") == 20
    assert failed[-1] == "1"
    assert found["longest wait"].endswith("500 ms")
    assert timeline.longest_wait(records) == 0.5


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_picture_is_not_wider_than_the_terminal(width: int) -> None:
    lines = timeline.draw(answers("1", 0.0, 5.0) + answers("2", 5.0, 14.0), PHASES, width, unicode=False)
    assert max(map(len, lines)) <= width
    assert all(line.isascii() for line in lines)


def test_no_picture_of_nothing() -> None:
    assert timeline.draw([], PHASES) == ["no requests"]
