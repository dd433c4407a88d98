"""The picture of an upgrade: that there is one, and that it shows what was recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from server import REPOSITORY

from gunicorn_hot.cli.demo.plot import CannotDraw, Side, draw, draw_sides

needs_matplotlib = pytest.importorskip("matplotlib", reason="for pictures: gunicorn_hot[plot]")

RECORDS = [
    *((10 + i / 100, 10.001 + i / 100, "new", "ok", "A") for i in range(300)),
    *((13 + i / 100, 13.002 + i / 100, "new", "ok", "B") for i in range(300)),
    (12.5, 12.9, "keep", "reset", ""),
]
PHASES = [("boot", 11, 13), ("cut-over", 13, 13.001), ("probation", 13.001, 14), ("drain", 14, 15)]


def texts(path: Path) -> list[str]:
    return ["".join(found.itertext()).strip() for found in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_a_picture_names_generations_failures_and_phases(tmp_path: Path) -> None:
    draw(RECORDS, PHASES, tmp_path / "upgrade.svg")

    found = texts(tmp_path / "upgrade.svg")
    assert {"generation A", "generation B", "failed: 1", "boot", "cut-over, probation", "drain"} <= set(found)
    # 0 is where the first phase begins, and the first request was a second before.
    assert {"0", "4"} <= set(found)


def test_two_sides_have_one_scale(tmp_path: Path) -> None:
    slow = [(begun, begun + 1.5, *rest) for begun, _, *rest in RECORDS]
    draw_sides([Side("ours", RECORDS, PHASES), Side("theirs", slow, PHASES)], tmp_path / "both.svg")

    found = texts(tmp_path / "both.svg")
    assert found.count("ours") == found.count("theirs") == 1
    assert found.count("1000") == 2  # ms; one side alone would not need it


def test_the_same_figures_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(RECORDS, PHASES, tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_pixels(tmp_path: Path) -> None:
    draw(RECORDS, [], tmp_path / "upgrade.png")

    assert (tmp_path / "upgrade.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match="no request"):
        draw([], PHASES, tmp_path / "upgrade.svg")
    with pytest.raises(CannotDraw, match="bmpx"):
        draw(RECORDS, PHASES, tmp_path / "upgrade.bmpx")
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from gunicorn_hot.cli.demo.plot import CannotDraw, draw\n"
        "try: draw([(0, 1, 'new', 'ok', 1)], [], 'x.svg')\n"
        "except CannotDraw as exc: print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "gunicorn_hot[plot]" in done.stdout
