"""What one master tells another of itself: a release that says it in another way does no harm."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from gunicorn_hot.reporter import Reporter, revision, service_name


@pytest.fixture
def reporter() -> Any:
    """Return one that has heard nothing yet."""
    made: Any = Reporter.__new__(Reporter)
    made._server = SimpleNamespace(log=logging.getLogger("test"))
    made.refused = made._younger = made._older = made._cut = None
    return made


MASTER = {"role": "successor", "pid": 7, "start": 1, "since": 1.0}
SAID = {"masters": [MASTER], "ready": 1, "total": 2, "requests": 3, "workers": 4, "deadline": 5.0}


def test_what_a_successor_says_and_what_a_predecessor_says_is_kept_apart(reporter: Any) -> None:
    assert reporter.hear("status", {**SAID, "later": 1}, is_successor=True)
    assert [master.pid for master in reporter._younger] == [7]
    assert (reporter._ready, reporter._older) == ((1, 2), None)
    assert reporter.hear("status", {**SAID, "masters": [{**MASTER, "pid": 8}]}, is_successor=False)
    assert [master.pid for master in reporter._older] == [8]
    assert reporter._draining == (3, 4, 5.0)
    assert reporter.hear("drained", {"cut": 2, "reason": ""}, is_successor=False)
    assert reporter._cut == 2


@pytest.mark.parametrize(
    ("type", "fields"),
    [
        ("status", {}),
        ("status", {**SAID, "masters": [{}]}),
        ("status", {**SAID, "masters": None}),
        ("status", {**SAID, "ready": "many", "requests": "many"}),
        ("drained", {"cut": None, "reason": ""}),
        ("refused", {"id": ""}),
        ("later", {}),
    ],
)
@pytest.mark.parametrize("is_successor", [True, False])
def test_what_is_not_understood_is_skipped(reporter: Any, type: str, fields: Any, is_successor: bool) -> None:
    assert not reporter.hear(type, fields, is_successor)


def test_the_revision(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REVISION", "GIT_COMMIT", "SOURCE_VERSION"):
        monkeypatch.delenv(name, raising=False)
    assert revision(str(tmp_path)) is None
    (tmp_path / "REVISION").write_text("abc\n")
    assert revision(str(tmp_path)) == "abc"
    monkeypatch.setenv("SOURCE_VERSION", "def")
    assert revision(str(tmp_path)) == "def"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "gunicorn"),
        ({"wsgi_app": "shop:app"}, "shop:app"),
        # gunicorn has set it, from the command line, which has precedence.
        ({"wsgi_app": "shop:app", "default_proc_name": "other:app"}, "other:app"),
        ({"wsgi_app": "shop:app", "proc_name": "shop"}, "shop"),
    ],
)
def test_the_name_of_a_service(settings: dict[str, str], name: str) -> None:
    cfg = Config()
    for setting, value in settings.items():
        cfg.set(setting, value)
    assert service_name(cfg) == name
