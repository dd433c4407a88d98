"""Where the command line writes: plain lines, a live line on a terminal, or JSON.

What was asked for goes to the standard output, why it cannot be had to the standard error; with --json all goes to the
standard output, one object per line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunicorn_hot.cli.progress import Step

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live as Screen
    from rich.status import Status as Spinner

#: s between two lines about figures that change all the time.
_CALM = 1.0


def harmless(text: str) -> str:
    """Return text without what could steer a terminal: some of it is an application's, and may be another user's."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class Output:
    """Plain lines, one per change."""

    #: s; how often `progress` wants to be called although nothing has changed.
    tick = _CALM

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: Step | None = None
        self._last_at = 0.0

    def line(self, text: str, **event: Any) -> None:
        """Say something; `event` is its form in JSON, without which that says nothing."""
        print(harmless(text), flush=True)

    def styled(self, text: str, style: str) -> None:
        """Say something, in colours where there are any; `style` is rich's name of them."""
        self.line(text)

    def error(self, text: str, code: int) -> None:
        """Say why there is nothing else to say."""
        print(f"Error: {harmless(text)}", file=sys.stderr, flush=True)

    def progress(self, step: Step) -> None:
        """Say where an upgrade is that is under way, if that is new."""
        now = self._clock()
        if (last := self._last) is not None and (
            last.text == step.text or (last.moving and step.moving and now < self._last_at + _CALM)
        ):
            return
        self._last, self._last_at = step, now
        self.line(step.at(time.time()), event="progress", **step.details)

    def end(self, step: Step, good: bool) -> None:
        """Say how an upgrade has ended, and if that is bad, what the application printed."""
        self._last = None
        self.line(step.text, event="end", **step.details)
        if step.output and not good:
            self.line(step.output.rstrip())

    def close(self) -> None:
        """Leave the terminal as it should be."""


class Json(Output):
    """One object per event, on a line of its own."""

    def line(self, text: str, **event: Any) -> None:
        if event:
            print(json.dumps({"event": event.pop("event"), "at": round(time.time(), 3), **event}), flush=True)

    def error(self, text: str, code: int) -> None:
        self.line(text, event="error", reason=text, exit=code)


class Live(Output):
    """A line that moves on a terminal, by rich; what is over stays above it."""

    tick = 0.5

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._spinner: Spinner | None = None
        self._shown: Step | None = None

    def line(self, text: str, **event: Any) -> None:
        self._console.print(harmless(text), markup=False, highlight=False, soft_wrap=True)

    def styled(self, text: str, style: str) -> None:
        self._console.print(harmless(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def draw(self, what: RenderableType) -> None:
        self._console.print(what)

    def screen(self) -> Screen:
        """Return what redraws itself in place."""
        from rich.live import Live as Screen

        return Screen(console=self._console, auto_refresh=False)

    def progress(self, step: Step) -> None:
        if self._shown is not None and self._shown.state != step.state:
            self._stays(self._shown.text, good=not (step.state == "ending" and step.details.get("reason")))
        self._shown = step
        text = _escaped(step.at(time.time()))
        if self._spinner is None:
            self._spinner = self._console.status(text)
            self._spinner.start()
        else:
            self._spinner.update(text)

    def end(self, step: Step, good: bool) -> None:
        if self._shown is not None and good:
            self._stays(self._shown.text, good=True)
        self.close()
        self._stays(step.text, good)
        if step.output and not good:
            self.line(step.output.rstrip())

    def _stays(self, text: str, good: bool) -> None:
        colour, mark = ("green", "✓") if good else ("red", "✗")
        if not self._console.encoding.lower().startswith("utf"):
            mark = "+" if good else "!"
        self._console.print(f"[{colour}]{mark}[/] {_escaped(text)}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        self._shown = None


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(harmless(text))


def console() -> Console | None:
    """Return rich's console if the standard output is a terminal that can show a live line, and rich is there."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console()


def choose(as_json: bool) -> Output:
    if as_json:
        return Json()
    found = console()
    return Output() if found is None else Live(found)
