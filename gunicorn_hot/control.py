"""gunicorn's control socket, to which `gunicornc` speaks, for a service whose master changes.

gunicorn's server removes its file before each fork and binds it anew after that, and its end removes the file even if
it is another master's by then. Here one socket listens as long as its master has the file, so whoever connects during
a fork waits for some milliseconds; a successor puts its own over it, by a rename; and whoever was accepted gets an
answer. To be imported only where gunicorn would import its own: asyncio comes with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gunicorn.ctl.protocol import ControlProtocol
from gunicorn.ctl.server import ControlSocketServer

from gunicorn_hot import commands, private

#: s; from when it connects; in which a client may still say what it wants although the server ends, for a fork perhaps.
_LAST_COMMAND_SECONDS = 1.0
#: s; after which a client that says nothing is left, as in gunicorn.
_IDLE_SECONDS = 300.0
_START_SECONDS = 2.0
#: How often the loop goes round, at most, between accept() and the start of a connection's handler.
_TURNS_TO_HANDLER = 5


class ControlServer(ControlSocketServer):
    """Of one master. Raises OSError when it cannot have its file."""

    if TYPE_CHECKING:
        _running: bool
        _dispatch: Any

    def __init__(self, arbiter: Any, path: str, mode: int) -> None:
        super().__init__(arbiter, path, mode)
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._listening = _listen(path, mode)
        private.register(self._listening)
        found = os.stat(path)
        self._identity = found.st_dev, found.st_ino
        self._path = path
        # What gunicorn's methods would remove.
        self.socket_path = ""
        self._serves = threading.Event()
        self._end = self._answered = asyncio.Event()
        #: Connections that have not got an answer yet -> when they were accepted.
        self._unanswered: dict[Any, float] = {}
        self._log: Any = arbiter.log
        self._reporter = arbiter.reporter
        self._log.info("Control socket listening at %s", path)

    @property
    def has_file(self) -> bool:
        """Whether whoever connects now speaks to this master."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            # It raises when the loop has ended before.
            if self.has_file:
                os.unlink(self._path)
            private.forget(self._listening)

    def _execute_command(self, parts: list[str]) -> Any:
        return commands.execute(parts, self._reporter, super()._execute_command)  # type: ignore[misc]

    def _stop_for_fork(self) -> None:
        if self._running:
            # gunicorn 25 would leave a thread alone that has only begun.
            self._serves.wait(_START_SECONDS)
        super()._stop_for_fork()  # type: ignore[misc]
        self._serves = threading.Event()

    def _run_loop(self) -> None:
        serves = self._serves
        try:
            super()._run_loop()  # type: ignore[misc]
        finally:
            serves.set()  # it never will: a fork need not wait for that

    def _shutdown(self) -> None:
        self._end.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end, self._answered = asyncio.Event(), asyncio.Event()
        listening = self._listening.dup()
        # From Python 3.13 on the end of a server removes the file.
        options: dict[str, Any] = {} if sys.version_info < (3, 13) else {"cleanup_socket": False}
        try:
            self._server = await asyncio.start_unix_server(self._handle_client, sock=listening, **options)
        except BaseException:
            listening.close()
            raise
        for event in (self._serves, getattr(self, "_ready", None)):
            if event is not None:
                event.set()  # gunicorn 27 waits for its own
        await self._end.wait()
        # Not serve_forever(), whose end may wait for clients that only look. First whoever waits by now, and then no
        # more: a server that is closed drops whom it has just accepted, without a word.
        await asyncio.sleep(0)
        self._loop.remove_reader(listening)
        for _ in range(_TURNS_TO_HANDLER):
            await asyncio.sleep(0)
        patience = max(self._unanswered.values(), default=0.0) + _LAST_COMMAND_SECONDS - time.monotonic()
        try:
            await asyncio.wait_for(self._all_answered(), max(0.0, patience))
        except asyncio.TimeoutError:
            pass
        self._server.close()

    async def _all_answered(self) -> None:
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()

    async def _handle_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._unanswered[writer] = time.monotonic()
        try:
            while writer in self._unanswered or self._running:
                read = ControlProtocol.read_message_async(reader)
                message = await asyncio.wait_for(read, _IDLE_SECONDS)
                await ControlProtocol.write_message_async(writer, await self._dispatch(message))
                self._has_answered(writer)
        except (asyncio.CancelledError, asyncio.TimeoutError, asyncio.IncompleteReadError, OSError, ValueError):
            pass  # it has said all, or too little
        except Exception as exc:
            self._log.debug("Control client error: %s", exc)
        finally:
            self._has_answered(writer)
            writer.close()

    def _has_answered(self, writer: asyncio.StreamWriter) -> None:
        self._unanswered.pop(writer, None)
        self._answered.set()


def _listen(path: str, mode: int) -> socket.socket:
    """Return a socket that listens at `path`, in the place of whatever was there, at one instant."""
    made = socket.socket(socket.AF_UNIX)
    # Not longer than gunicorn's own name: there is a limit to the whole.
    temporary = os.path.join(os.path.dirname(path), f".{os.getpid():x}")
    try:
        made.setblocking(False)
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        made.bind(temporary)
        try:
            os.chmod(temporary, mode)
            made.listen(100)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except BaseException:
        made.close()
        raise
    return made
