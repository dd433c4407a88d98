"""What a run has saved, as Markdown: RESULTS.md is such a report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.service import BenchError

_HEAD = """\
# Results

What the benches said on one machine, one after the other, and then `python -m bench report`. [README.md](README.md)
says what each one does and what its columns are; [the comparison](../docs/explanation/comparison.md) says what follows
from them. Compare rows, and the two sides of one, but not milliseconds with those of another machine.
"""


def text(folder: Path, names: Iterable[str]) -> str:
    """The results in `folder` of these benches, as far as they have run. Raises BenchError if there is none."""
    files = [folder / f"{name}.json" for name in names]
    saved = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    if not saved:
        raise BenchError(f"no results in {folder}: run python -m bench all, or one of them, before")
    return "\n".join([_HEAD, _machine(saved[0]["environment"]), *(_section(each) for each in saved)])


def _machine(environment: dict[str, Any]) -> str:
    about = dict(environment)
    python, system, cores = (about.pop(name) for name in ("python", "system", "cores"))
    del about["date"], about["load_average"]
    versions = ", ".join(f"{name} {version}" for name, version in about.items())
    return f"{python}, {versions}; {system}, {cores} cores."


def _section(saved: dict[str, Any]) -> str:
    result, environment, ceiling = saved["result"], saved["environment"], saved["ceiling"]
    rows = [result["columns"], ["---"] * len(result["columns"]), *result["rows"]]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    notes = [f"* {note}" for note in result["notes"]]
    about = (
        f"{environment['date']}, load average {environment['load_average']:.1f} before it. The load's own ceiling: "
        f"{ceiling['keep_rate']:.0f} requests/s kept-alive, {ceiling['new_rate']:.0f}/s with new connections; mixed "
        f"clients {ceiling['load_rate']:.0f}/s, longest wait {ceiling['load_wait'] * 1000:.1f} ms."
    )
    lines = ["", f"## {result['name']}: {result['title']}", "", *table, "", *notes]
    return "\n".join([*lines, "", about] if notes else [*lines, about])
