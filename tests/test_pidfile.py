"""The pid file names a live master at every instant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gunicorn_hot import pidfile


@pytest.mark.parametrize(
    ("text", "pid"), [(b"42\n", 42), (b" 42", 42), (b"", None), (b"master\n", None), (b"\xff", None)]
)
def test_what_it_names(text: bytes, pid: int | None, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_bytes(text)
    assert pidfile.read(str(path)) == pid


def test_no_file_names_nobody(tmp_path: Path) -> None:
    assert pidfile.read(str(tmp_path / "pid")) is None


@pytest.mark.parametrize("existed", [True, False])
def test_it_is_replaced_with_gunicorns_mode_and_leaves_nothing_behind(existed: bool, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    if existed:
        path.write_text("1\n")
        old = path.stat().st_ino
    pidfile.replace(str(path), 42)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("42\n", 0o644)
    assert os.listdir(tmp_path) == ["pid"]
    # Not written in place: a reader sees the one or the other.
    assert not existed or path.stat().st_ino != old


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pidfile.replace("pid", 42)
    assert os.listdir(tmp_path) == ["pid"]


def test_the_new_file_is_made_beside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rename from another file system would fail.
    monkeypatch.chdir(tmp_path)
    made: list[str] = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (made.append(os.path.abspath(old)), rename(old, new)))
    pidfile.replace("pid", 42)
    assert [os.path.dirname(path) for path in made] == [str(tmp_path)]


def test_what_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")

    def fail(*args: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match=r"^no$"):
        pidfile.replace(str(path), 42)
    assert (path.read_text(), os.listdir(tmp_path)) == ("1\n", ["pid"])


def test_only_its_own_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("42\n")
    pidfile.remove(str(path), 1)
    assert path.exists()
    pidfile.remove(str(path), 42)
    assert not path.exists()
    pidfile.remove(str(path), 42)
