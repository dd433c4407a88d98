"""The command line, run by a test: as an operator runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from server import DEADLINE, Service

#: s; for commands that wait for a whole upgrade.
LONG = 60.0


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What --json has written."""
        return [json.loads(line) for line in self.out.splitlines()]


#: How a command names its service.
_NAMES = {"--pid", "--pid-file", "--status-file"}


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which it looks like nothing in particular."""
    return {name: value for name, value in base.items() if name not in ("TERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS")}


def command(*arguments: str | Path | int) -> list[str]:
    return [sys.executable, "-m", "gunicorn_hot", *map(str, arguments)]


def start(
    env: Mapping[str, str], *arguments: str | Path | int, cwd: Path | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a command that a test goes on beside."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        command(*arguments), env=dict(env), cwd=cwd or os.sep, stdin=subprocess.DEVNULL, text=True, **options
    )


def finish(popen: subprocess.Popen[str], timeout: float = LONG) -> Ran:
    """Wait for its end."""
    try:
        out, err = popen.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        popen.kill()
        out, err = popen.communicate()
        raise AssertionError(f"not in {timeout:g}s: the end of {popen.args}\n{out}\n{err}") from None
    return Ran(popen.returncode, out, err)


def run(
    env: Mapping[str, str], *arguments: str | Path | int, cwd: Path | None = None, timeout: float = DEADLINE
) -> Ran:
    return finish(start(env, *arguments, cwd=cwd), timeout)


def about(service: Service, *arguments: str | Path | int) -> list[str | Path | int]:
    """Return these arguments, with the service's name if they do not name one.

    This user may have other services: those of another test run, of a bench."""
    return [*arguments] if _NAMES.intersection(arguments) else [*arguments, "--pid-file", service.folder / "pid"]


def hot(service: Service, *arguments: str | Path | int, timeout: float = LONG) -> Ran:
    """Run it as the user of this service would, in the service's folder and environment."""
    return run(service.env, *about(service, *arguments), cwd=service.folder, timeout=timeout)
