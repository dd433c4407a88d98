"""`gunicorn-hot demo`: an upgrade, and a broken one, as their clients see them.

A gunicorn with an example application serves some clients on a free port of the loopback, in a temporary folder. It
is upgraded, and then offered a release that cannot be imported. All that the clients saw is drawn. That takes a quarter
of a minute.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import FrameType

from gunicorn_hot.cli import output
from gunicorn_hot.cli.demo import timeline
from gunicorn_hot.cli.demo.load import OK, PATIENCE, Load, Record
from gunicorn_hot.cli.demo.server import Server
from gunicorn_hot.cli.demo.timeline import Phase
from gunicorn_hot.cli.errors import FAILED, INTERRUPTED, Misused, Trouble
from gunicorn_hot.cli.following import follow
from gunicorn_hot.cli.output import Output
from gunicorn_hot.cli.progress import GOOD, Step
from gunicorn_hot.cli.watching import Watch

CLIENTS = {"new": 4, "kept": 6, "slow": 6}
#: s of every day between the upgrades, so that the picture shows what they differ from.
CALM = 1.5
#: s for one upgrade.
LONGEST = 120.0
_WIDEST = 160
#: Of a traceback.
_LINES = 4
#: How the steps are called in the picture, where there is little room.
_SHORT = {"booting": "boot", "draining": "drain", "ending": "refused"}
#: Steps that take a moment, and are drawn as the beginning of the next one.
_MOMENTS = {"cutting-over", "committing"}
#: Of the picture's rows, by their first word.
_STYLES = {"release": "cyan", "failed": "green", "longest": "yellow"}


class _Ended(KeyboardInterrupt):
    """By a signal other than Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended(number)


def run(options: argparse.Namespace) -> int:
    """Show it; returns 0 if no request has failed, the upgrade was done and the broken one refused, else 1."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    out = output.choose(False)
    try:
        _check(options.plot, options.records)
        return _Demo(out, options.plot, options.records).run()
    except Trouble as exc:
        out.close()
        out.error(str(exc), exc.code)
        return exc.code
    except KeyboardInterrupt as exc:
        out.close()
        out.error("interrupted; nothing is left of the demo", INTERRUPTED)
        return 128 + exc.number if isinstance(exc, _Ended) else INTERRUPTED
    finally:
        out.close()


def _check(plot: Path | None, records: Path | None) -> None:
    """Raise Misused when what is asked for could not be written; better now than after the demo."""
    for path in filter(None, (plot, records)):
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Misused(f"{path} cannot be written")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise Misused("a picture needs matplotlib: pip install gunicorn_hot[plot]")


class _Demo:
    def __init__(self, out: Output, plot: Path | None, records: Path | None) -> None:
        self._out = out
        self._plot = plot
        self._records = records
        self._phases: list[Phase] = []

    def run(self) -> int:
        with Server() as server:
            self._start(server)
            with Load(server.port, CLIENTS) as load:
                self._calm()
                self._say('$ echo 2 > RELEASE; gunicorn-hot upgrade')
                upgraded = self._upgrade(server, "2")
                self._calm()
                self._say("$ echo broken > RELEASE; gunicorn-hot upgrade      # imports a module that is not there")
                refused = self._upgrade(server, "broken")
                self._calm()
                records = load.stop()
        return self._report(records, upgraded, refused)

    def _say(self, text: str) -> None:
        self._out.line(text)

    def _start(self, server: Server) -> None:
        self._say(f"A gunicorn with two workers, gunicorn_hot and release 1, in {server.folder}:")
        server.release("1")
        server.start()
        url = f"http://127.0.0.1:{server.port}/"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            self._say(f"$ curl {url}\n{response.read().decode().strip()}")
        clients = ", ".join(f"{number} {kind}" for kind, number in CLIENTS.items())
        self._say(f"From now on {sum(CLIENTS.values())} clients ask it all the time, and retry nothing ({clients}).\n")

    @staticmethod
    def _calm() -> None:
        # No wait for anything: it is the width of the picture.
        threading.Event().wait(CALM)

    def _upgrade(self, server: Server, release: str) -> Step:
        """Put a release on the disk, and upgrade to it; returns how that ended."""
        server.release(release)
        began, state = time.monotonic(), ""

        def note(step: Step) -> bool:
            nonlocal began, state
            if step.state != state:
                now = time.monotonic()
                if state and state not in _MOMENTS:
                    self._phases.append(Phase(_SHORT.get(state, state), began, now))
                    began = now
                state = step.state
            return bool(step.outcome)

        with Watch(server.service.path) as watch:
            request = server.service.ask("upgrade")
            last = follow(server.service, watch, request, self._out, is_over=note, end=time.monotonic() + LONGEST)
        # Of the traceback what is the application's.
        last = replace(last, output="\n".join(last.output.splitlines()[-_LINES:]))
        self._out.end(last, last.outcome in GOOD)
        self._say("")
        return last

    def _report(self, records: list[Record], upgraded: Step, refused: Step) -> int:
        self._say("What the clients saw:\n")
        self._draw(records)
        failed = sum(record.outcome != OK for record in records)
        good = not failed and upgraded.outcome == "done" and refused.outcome == "failed"
        wait = timeline.longest_wait(records) * 1000
        self._say(
            f"\n{len(records)} requests, {failed} failed; the longest wait for an answer was {wait:.0f} ms. "
            f"The upgrade: {upgraded.outcome}. The broken release: "
            + ("refused, and nobody noticed." if refused.outcome == "failed" else f"{refused.outcome}, which is wrong.")
        )
        for record in [record for record in records if record.outcome != OK][:5]:
            self._say(f"  failed: {record.kind}, {record.outcome}, after {record.ended - record.begun:.3f}s")
        if self._records is not None:
            self._records.write_text(json.dumps({"records": records, "phases": self._phases, "failed": failed}))
        if self._plot is not None:
            self._draw_picture(records, self._plot)
        return 0 if good else FAILED

    def _draw(self, records: list[Record]) -> None:
        width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        for line in timeline.draw(records, self._phases, width, unicode):
            label = line.partition(" ")[0]
            bad = label == "failed" and line.rpartition(" ")[2] != "0"
            self._out.styled(line, "bold red" if bad else _STYLES.get(label, ""))

    def _draw_picture(self, records: list[Record], path: Path) -> None:
        from gunicorn_hot.cli.demo import plot

        try:
            plot.draw(records, self._phases, path)
        except (plot.CannotDraw, OSError) as exc:
            raise Trouble(str(exc)) from exc
        self._say(f"Drawn to {path}.")
