"""Death at every step: SIGKILL of any process, at each step of an upgrade, and processes that hang.

Whatever dies: within a bounded time one master serves, the pid file names it, nothing else is left, no client has seen
a failure but for requests that were in a killed worker, what survivors hold is answered, and the next SIGUSR2 works.

Each cell, a step and a victim, is met by one worker type, and each step and each victim by all types; the full product
is `slow`. The trials are those of `faults`, and run in lanes, one for each type, beside each other.

With DEATHS_TABLE=FILE in the environment a table of what was seen is written there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import CELLS, TYPES, Lane, Result, type_of

#: (step, victim): why this cell is not what it should be.
KNOWN: dict[tuple[str, str], str] = {}


def _cells() -> list[object]:
    cells: list[object] = []
    for type in TYPES:
        for step, victim in CELLS:
            marks = []
            if type != type_of(step, victim):
                marks.append(pytest.mark.slow)
            if (step, victim) in KNOWN:
                marks.append(pytest.mark.xfail(strict=True, reason=KNOWN[step, victim]))
            cells.append(pytest.param(type, step, victim, marks=marks, id=f"{type}-{step}-{victim}".replace(" ", "_")))
    return cells


@pytest.fixture(scope="module")
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lane]]:
    """The lanes of the cells that were selected, already running."""
    selected = [item.callspec.params for item in request.session.items if item.path == request.path]
    folder = tmp_path_factory.mktemp("deaths")
    lanes: dict[str, Lane] = {}
    try:
        for type in TYPES:
            cells = [(params["step"], params["victim"]) for params in selected if params["type"] == type]
            if cells:
                lanes[type] = Lane(folder, type, cells)
        yield lanes
    finally:
        for lane in lanes.values():
            lane.end()
    if file := os.environ.get("DEATHS_TABLE"):
        Path(file).write_text(table([result for lane in lanes.values() for result in lane.results.values()]))


def table(results: list[Result]) -> str:
    """Return what was seen, as a table in Markdown."""
    lines = ["| step | victim | type | outcome | failures | s |", "|---|---|---|---|---|---|"]
    for found in sorted(results, key=lambda r: (CELLS.index((r.step, r.victim)), r.type)):
        outcome = f"{found.outcome} serves" if not found.error else "FAILED"
        failures = ", ".join(f"{count} {name}" for name, count in found.failures.items()) or "0"
        cells = (found.step, found.victim, found.type, outcome, failures, f"{found.seconds:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(("type", "step", "victim"), _cells())
def test_death(
    lanes: dict[str, Lane], type: str, step: str, victim: str, record_property: pytest.RecordProperty
) -> None:
    result = lanes[type].result(step, victim)
    record_property("outcome", result.outcome)
    record_property("failures", result.failures)
    if result.error:
        pytest.fail(f"{result.error}\n{result.story}", pytrace=False)
