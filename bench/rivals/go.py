"""A server in Go that upgrades itself, with tableflip: the model for a library that does this."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import weakref
from pathlib import Path

from bench.rivals.base import Rival

_SOURCE = Path(__file__).resolve().parents[1] / "apps" / "tableflip"
_BUILD_S = 300.0
#: Where Debian has the sources of libraries for Go, and the package that brings this one.
_DEBIAN = Path("/usr/share/gocode")
_PACKAGE = "golang-github-cloudflare-tableflip-dev"


class Build:
    """The program, made of its source in a folder that goes with this. Raises OSError or SubprocessError."""

    def __init__(self, go: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-go-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.program = self.folder / "server"
        source = shutil.copytree(_SOURCE, self.folder / "source")      # go may write a go.sum beside it
        if (_DEBIAN / "src/github.com/cloudflare/tableflip").is_dir():
            library, how = _packaged(), {"GO111MODULE": "off", "GOPATH": str(_DEBIAN)}
        else:
            library, how = _required(), {"GO111MODULE": "on", "GOFLAGS": "-mod=mod"}
        environment = {**os.environ, **how}

        def run(*arguments: str) -> str:
            return subprocess.run(
                [go, *arguments], cwd=source, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_BUILD_S, check=True,
            ).stdout

        run("build", "-o", str(self.program), ".")
        self.version = f"{library} on {run('env', 'GOVERSION').strip()}"


def _packaged() -> str:
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", _PACKAGE], capture_output=True, text=True, check=False)
    return asked.stdout.rpartition("-")[0] or "?"       # without the revision of the package


def _required() -> str:
    found = re.search(r"tableflip v(\S+)", (_SOURCE / "go.mod").read_text(encoding="utf-8"))
    return found[1] if found else "?"


@functools.cache
def build() -> Build | None:
    """Return the program, made once in this process; None: there is no Go, or no library for it."""
    go = shutil.which("go")
    if go is None:
        return None
    try:
        return Build(go)
    except (OSError, subprocess.SubprocessError):
        return None


class Tableflip(Rival):
    """One process, which uses as many processors at a time as others have workers. Its settings are the library's."""

    name = "tableflip"
    title = "Go, tableflip: SIGHUP"
    absent = "cannot be built"

    @classmethod
    def version(cls) -> str | None:
        built = build()
        return built.version if built else None

    def command(self) -> list[str]:
        built = build()
        assert built is not None
        return [
            str(built.program), "-listen", self.address, "-pid-file", str(self.folder / "pid"),
            "-processors", str(self.workers),
        ]

    def upgrade(self) -> None:
        self.signal(signal.SIGHUP, int((self.folder / "pid").read_text(encoding="ascii")))
