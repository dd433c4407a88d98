"""What the application may ask: whether its worker is leaving, and its generation; what it is told when a drain begins.

Imported by applications, so it works in any process and imports nothing of gunicorn: under a stock gunicorn, in a
script or in a test nobody ever drains."""

from __future__ import annotations

import _thread
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    # Elsewhere it is imported where it is needed: a master must not load it before gevent patches its workers.
    import asyncio

_Callback = TypeVar("_Callback", bound=Callable[[], object])


class _Worker(Protocol):
    log: Any

    def is_leaving(self) -> bool: ...


#: The hot worker that this process is.
_worker: _Worker | None = None
_generation = 0
#: Where a request has it: in its environ, or scope.
GENERATION_KEY = "gunicorn_hot.generation"
#: Whether the present drain has been announced to the application.
_announced = False
_callbacks: list[Callable[[], object]] = []
#: Who waits in `wait_draining`. Signal handlers read this, so there is no lock: each change is a single step.
_waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
#: The loop that serves the application.
_loop: asyncio.AbstractEventLoop | None = None
#: Locks that threads hold while they run callbacks.
_unfinished: list[Any] = []
#: Coroutines of callbacks: a loop does not keep its tasks from being collected.
_tasks: set[asyncio.Task[object]] = set()


def generation() -> int:
    """Return the number of the generation that this process belongs to; the first one of a service is 1.

    May be called anywhere in a worker, or in a master's hooks. 0 outside of a hot gunicorn; and while a master preloads
    the application, since it turns into a hot one only after that."""
    return _generation


def draining() -> bool:
    """Whether this worker finishes what it holds and then leaves: a new generation serves, or it was told to stop.

    May be called anywhere, in any thread, in the middle of a request; costs less than a microsecond. It is False again
    if the old generation takes the service back. Always False outside of a hot worker."""
    return _worker is not None and _worker.is_leaving()


def on_drain(callback: _Callback) -> _Callback:
    """Call `callback`, which takes no arguments, whenever this worker begins to drain; usable as a decorator.

    Under an ASGI worker it runs on the event loop. In other workers all callbacks run one after the other in a thread
    of their own (gevent: a greenlet). It may be a coroutine function. What it raises is logged. The worker leaves when
    all have returned, or at the end of the drain. If `callback` is registered during a drain, it is called at once.
    Raises TypeError for what cannot be called."""
    if not callable(callback):
        raise TypeError(f"on_drain takes a function without arguments, not {callback!r}")
    _callbacks.append(callback)
    if _announced:
        _start([callback])
    return callback


async def wait_draining() -> None:
    """Wait until this worker drains; returns at once if it does so now. Any number of tasks may wait."""
    import asyncio

    loop = asyncio.get_running_loop()
    waiter = (loop, loop.create_future())
    _waiters.add(waiter)  # first: whoever announces the drain after our look at it will find us
    try:
        if not draining():
            await waiter[1]
    finally:
        _waiters.discard(waiter)


# --- for the masters and the workers


def number(generation: int) -> None:
    """This process is a hot master of that generation, and so are its children."""
    global _generation
    _generation = generation


def enter(worker: _Worker) -> None:
    """This process is a hot worker, which will load the application or has inherited it."""
    global _worker
    _worker = worker


def use_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The application runs on this loop, and so do its callbacks."""
    global _loop
    _loop = loop


def announce() -> None:
    """Tell the application that this worker leaves; from any thread or signal handler, once for each drain."""
    global _announced
    if _announced:
        return
    _announced = True
    for loop, future in list(_waiters):
        call_soon(loop, _finish, future)
    if _callbacks:
        _start(list(_callbacks))


def take_back() -> None:
    """The worker serves again: the next drain will be a new one."""
    global _announced
    _announced = False


def wait_for_callbacks() -> None:
    """Wait until the callbacks that were begun outside of a loop have returned."""
    while _unfinished:
        _unfinished.pop().acquire()


async def callbacks_ended() -> None:
    """Wait until the callbacks that were begun on this loop have returned."""
    import asyncio

    await asyncio.sleep(0)  # they begin in the order in which they were called
    while _tasks:
        await asyncio.wait(_tasks)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call a function on the loop, from any thread; not if the loop is closed, and its tasks with it."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None


def _start(callbacks: list[Callable[[], object]]) -> None:
    if (loop := _loop or _running_loop()) is not None:
        call_soon(loop, _run_on_loop, loop, callbacks)
    else:
        # Not threading.Thread: its start() waits, which neither a signal handler nor gevent's hub may do. In a process
        # that gevent has patched these are a greenlet and its lock.
        running = _thread.allocate_lock()
        running.acquire()
        _unfinished.append(running)
        _thread.start_new_thread(_run, (callbacks, running))


def _run(callbacks: list[Callable[[], object]], running: Any) -> None:
    try:
        for callback in callbacks:
            try:
                result = callback()
                if inspect.isawaitable(result):
                    import asyncio

                    asyncio.run(_await(result))
            except Exception as exc:
                _log(callback, exc)
    finally:
        running.release()


def _run_on_loop(loop: asyncio.AbstractEventLoop, callbacks: list[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            result = callback()
        except Exception as exc:
            _log(callback, exc)
            continue
        if inspect.isawaitable(result):
            _tasks.add(loop.create_task(_logged(callback, result)))


async def _logged(callback: Callable[[], object], result: Awaitable[object]) -> None:
    import asyncio

    try:
        await result
    except Exception as exc:
        _log(callback, exc)
    finally:
        if (task := asyncio.current_task()) is not None:
            _tasks.discard(task)


async def _await(result: Awaitable[object]) -> object:
    return await result


def _log(callback: Callable[[], object], exc: Exception) -> None:
    if _worker is not None:
        _worker.log.error("Exception in on_drain callback %r", callback, exc_info=exc)


# A child of a worker has none of its tasks.
os.register_at_fork(after_in_child=_waiters.clear)
