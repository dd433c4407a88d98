"""The ASGI lifespan of an application, with a reason when it fails, and with no limits of its own.

gunicorn's gives a startup 30 s and then serves without it, and the reason that uvicorn's is told goes to a log only.
Here the master's hot_ready_timeout bounds the startup, and its hot_drain_timeout the shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class LifespanFailed(Exception):
    """The application says that it cannot start. The message is its own, in full."""


class Lifespan:
    """Runs the lifespan of `app` in a task of its own.

    `mode`: "on", "auto" or "off", as gunicorn's `asgi_lifespan` and uvicorn's `lifespan` have it; with "auto" an
    application that raises before it has answered does not support the protocol. `state` is shared with requests."""

    def __init__(self, app: Any, mode: str, asgi: dict[str, str], state: dict[str, Any]) -> None:
        self.app = app
        self._mode = mode
        self.state = state
        self._scope = {"type": "lifespan", "asgi": asgi, "state": state}
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: What it has said that went wrong.
        self._failure: str | None = None
        self._raised: BaseException | None = None
        self._is_up = False

    async def startup(self) -> str:
        """Return what became of it, for the log. Raises LifespanFailed."""
        if self._mode == "off":
            return "The ASGI lifespan is off."
        self._to_app.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._started.wait()
        if self._failure is not None:
            raise LifespanFailed(self._failure)
        if self._is_up:
            return "Application startup complete."
        if self._mode == "on":
            raise LifespanFailed(f"{self._raised!r}" if self._raised else "it ended before its startup was complete")
        return f"ASGI lifespan not supported by app: {self._raised!r}"

    async def shutdown(self, log: Callable[..., object]) -> None:
        """Tell the application to shut down, and wait until it has; `log` is told what goes wrong."""
        if not self._is_up or self._task is None or self._task.done():
            return
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        if self._failure is not None or self._raised is not None:
            log("ASGI lifespan shutdown failed: %s", self._failure or repr(self._raised))
        # Most return by themselves now; one that does not has nothing left to do.
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self.app(self._scope, self._to_app.get, self._send)
        except Exception as exc:
            self._raised = exc
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: dict[str, str]) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._failure = message.get("message", "") or "no reason given"
        elif kind == "lifespan.startup.complete":
            self._is_up = True
        if kind.startswith("lifespan.startup."):
            self._started.set()
        elif kind.startswith("lifespan.shutdown."):
            self._stopped.set()
