"""A configuration that asks for gunicorn_hot, and whose own on_starting does not call it: said, not just not done.

Two hooks of one name in a file are one hook, the later one; without this, gunicorn would start without a word, and the
first SIGUSR2 would be gunicorn's own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn import config
from gunicorn.errors import ConfigError

from gunicorn_hot import settings

Hook = Callable[[Any], object]


def watch(cfg: config.Config, ours: Hook) -> None:
    """Look at each on_starting that `cfg`, whose file is being read, gets from now on, and at what it does.

    One that hides `ours` for certain is an invalid value: gunicorn exits with 1, also for ``--check-config``."""
    setting: Any = cfg.settings["on_starting"]
    setting.value = _watched(setting.value, is_default=True)

    def validator(value: Any) -> Hook:
        hook: Any = config.validate_callable(1)(value)
        if hook is ours:
            return hook
        if (path := _file_being_read()) and _imports_in_vain(path):
            raise ConfigError(
                f"on_starting in {path} hides the one that is imported from gunicorn_hot: "
                "let it call gunicorn_hot.on_starting(server)"
            )
        return _watched(hook)

    setting.validator = validator


def _watched(hook: Hook, is_default: bool = False) -> Hook:
    @functools.wraps(hook)
    def on_starting(server: Any) -> None:
        hook(server)
        if settings.is_unfinished(server.cfg) and (names := settings.used(server.cfg)):
            what = "import on_starting from gunicorn_hot" if is_default else "call gunicorn_hot.on_starting(server)"
            who = "it" if is_default else "its on_starting"
            server.log.error(
                "gunicorn_hot is not in use, and %s in %s without effect: %s must %s",
                ", ".join(names),
                server.cfg.config,
                who,
                what,
            )

    return on_starting


def _file_being_read() -> str:
    """Return the path of the configuration file whose values gunicorn is setting, or an empty string."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "load_config_from_module_name_or_filename":
            return str((frame.f_locals.get("cfg") or {}).get("__file__") or "")
        frame = frame.f_back
    return ""


def _imports_in_vain(path: str) -> bool:
    """Whether a file imports our on_starting by that name, and nothing in it uses that name, or one like it."""
    import ast  # only for a hook that is not ours

    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # compiled, for example: whether it works is seen when it runs
    own = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "gunicorn_hot"]
    if not any(alias.name == "on_starting" and not alias.asname for node in own for alias in node.names):
        return False
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id="on_starting", ctx=ast.Load())
                | ast.Attribute(attr="on_starting")
                | ast.alias(name="on_starting", asname=str())
                | ast.Constant(value="on_starting")
            ):
                return False
    return True
