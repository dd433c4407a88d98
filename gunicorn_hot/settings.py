"""The hot_* settings: real gunicorn settings, made known to whoever imports this package.

gunicorn builds its configuration object before it reads the configuration file that imports us, and skips names that it
does not know. So the settings are added to that object too, while the file is being read: gunicorn then sets and
validates them like its own, also under ``--print-config`` and ``--check-config``.
"""

from __future__ import annotations

import shlex
import sys
from types import FrameType
from typing import Any

from gunicorn import config
from gunicorn.app.base import BaseApplication
from gunicorn.errors import ConfigError

from gunicorn_hot import app as application

SECTION = "Hot Upgrade"


def _seconds(value: Any) -> float:
    """Accept what `float` accepts, from 0 on."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"not a number of seconds: {value!r}")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"not a number of seconds, 0 or more: {value!r}")
    return seconds


def _seconds_or_none(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _check(value: Any) -> Any:
    """Accept None, a path, or a callable that takes the worker."""
    if value is None:
        return None
    if isinstance(value, str):
        if not value.startswith("/"):
            raise ValueError(f'not a path, which begins with "/": {value!r}')
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"not a path as it is in a URL (percent-encode other characters): {value!r}")
        return value
    if not callable(value):
        raise TypeError(f"neither a path nor a callable: {value!r}")
    return config.validate_callable(1)(value)


def _workers_at_a_time(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"not a number of workers: {value!r}")
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"not a number of workers, 0 or more: {value!r}")
    return number


def _drain_hook(value: Any) -> Any:
    if value is application.on_drain:
        raise TypeError("gunicorn_hot.on_drain is for the application; the hook is a function of your own")
    return config.validate_callable(1)(value)


def _one_of(*allowed: str) -> Any:
    def validate(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
        return str(value)

    return validate


def _command(value: Any) -> list[str] | None:
    """Accept a list of strings, or one string; neither may be empty."""
    if value is None:
        return None
    words = shlex.split(value) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"not a command: {value!r}")
    if not words:
        raise ValueError("a command needs a program")
    return list(words)


class HotReadyTimeout(config.Setting):
    name = "hot_ready_timeout"
    section = SECTION
    validator = _seconds
    default = 60
    desc = """\
        Seconds that a new generation, or a single worker, may take to load the application.

        Counted from SIGUSR2 until every worker is ready; of workers that keep a processor busy only some load at a
        time, see ``hot_boot_concurrency``. When they are over, the new generation is ended and the old one serves on.
        It also bounds each worker's boot outside of an upgrade, where ``timeout`` then only counts from ready on.
        ``0``: no limit.
        """


class HotDrainTimeout(config.Setting):
    name = "hot_drain_timeout"
    section = SECTION
    validator = _seconds_or_none
    default = None
    desc = """\
        Seconds that the old workers may take to finish their requests.

        Counted from the end of the probation. What is left then is cut, and each cut request is logged.
        ``timeout`` does not shorten it. Default: the value of ``graceful_timeout``.
        """


class HotProbation(config.Setting):
    name = "hot_probation"
    section = SECTION
    validator = _seconds
    default = 5
    desc = """\
        Seconds after cut-over in which the old generation can take everything back.

        The old workers stay alive and paused meanwhile, and accept again if the new generation dies. ``0``: none.
        """


class HotCheck(config.Setting):
    name = "hot_check"
    section = SECTION
    validator = _check
    default = None
    desc = """\
        What must succeed in every new worker before it is ready.

        A path, like ``"/healthz"``: the worker requests it from its application, without a socket. A status of 400 or
        more, or an exception, fails the worker's boot, and an upgrade with it. ``"//www.example.com/healthz"`` also
        says which host is asked for; ``localhost`` otherwise. Or a callable that takes the worker; it fails by raising,
        or by returning ``False``. Bounded by ``hot_ready_timeout``.
        """


class HotBootConcurrency(config.Setting):
    name = "hot_boot_concurrency"
    section = SECTION
    validator = _workers_at_a_time
    default = None
    desc = """\
        How many workers of a new generation may load the application at a time, while the old one serves.

        Counted by the processors that they keep busy: further workers start as soon as those that load leave room,
        because they are ready or because they only wait. They load at a lower priority, where they may raise it again
        (CAP_SYS_NICE, or an RLIMIT_NICE of 20). ``0``: all at once, at full priority. Default: the number of usable
        cores less one, at least 1.
        """


class HotCutover(config.Setting):
    name = "hot_cutover"
    section = SECTION
    validator = _one_of("atomic", "overlap")
    default = "atomic"
    desc = """\
        When new workers begin to accept.

        ``atomic``: all at the same moment, when all are ready and the old ones have been paused. ``overlap``: each as
        soon as it has booted, as gunicorn does; old and new versions then answer side by side for a while.
        """


class HotPid(config.Setting):
    name = "hot_pid"
    section = SECTION
    validator = _one_of("auto", "follow", "stable")
    default = "auto"
    desc = """\
        Whose pid the service has after an upgrade.

        ``follow``: the new master's; the pid file is replaced atomically and the old master exits. ``stable``: always
        the same; the first master becomes a small process that passes signals on and ends as the service ends (Linux
        only). ``auto``: ``stable`` where somebody is known to wait for that pid (PID 1 of a container, systemd,
        supervisord, runit, s6, circus, a foreground terminal), ``follow`` otherwise; the log says why.
        """


class HotExec(config.Setting):
    name = "hot_exec"
    section = SECTION
    validator = _command
    default = None
    desc = """\
        The command that starts a new generation, as a list of arguments, or a string that is split like a shell does.

        The default is the command that has started this one. A name without a slash is searched in ``PATH``. It must
        become gunicorn in its own process (``exec``). It is taken from the configuration that the old master has read.
        """


class HotStatusFile(config.Setting):
    name = "hot_status_file"
    section = SECTION
    validator = config.validate_string
    default = None
    desc = """\
        The file in which the masters say how the service and its upgrades are; ``gunicorn-hot`` reads it.

        Only its user can read it, and requests to the masters lie beside it, so its folder must be nobody else's to
        write to. Every generation goes on with the file of the first one. ``""``: none. Default: a file named after
        the pid of the first master, in ``$XDG_RUNTIME_DIR/gunicorn_hot`` or ``/tmp/gunicorn_hot-<uid>``.
        """


class HotHup(config.Setting):
    name = "hot_hup"
    section = SECTION
    validator = config.validate_bool
    default = False
    desc = """\
        Whether SIGHUP is a complete upgrade, too.

        ``False``: it stays gunicorn's reload: the configuration is read anew, and workers are replaced within the same
        master. ``True``: it does what SIGUSR2 does, also when it comes from ``gunicornc -c reload``.
        """


class HotLeave(config.Setting):
    name = "hot_leave"
    section = SECTION
    validator = config.validate_bool
    default = False
    desc = """\
        Whether an upgrade may lead to a configuration without gunicorn_hot.

        Such a new master cannot say when it is ready. ``False``: it is ended after ``hot_ready_timeout``, and the old
        one serves on. ``True``: after that time the old master stops by gunicorn's own rules, and leaves the service
        to it. That has no effect where the service keeps its pid (``hot_pid``).
        """


def _no_hook(_server_or_worker: Any) -> None:
    pass


def _no_failure_hook(_server: Any, _reason: str) -> None:
    pass


class OnUpgradeReady(config.Setting):
    name = "on_upgrade_ready"
    section = SECTION
    validator = config.validate_callable(1)
    default = staticmethod(_no_hook)
    desc = """\
        Called in the old master when every worker of the new one is ready, before anything changes hands.

        The callable takes the arbiter.
        """


class OnUpgradeFailed(config.Setting):
    name = "on_upgrade_failed"
    section = SECTION
    validator = config.validate_callable(2)
    default = staticmethod(_no_failure_hook)
    desc = """\
        Called in the old master, which serves on, when an upgrade has failed or was rolled back.

        The callable takes the arbiter and the reason, a string.
        """


class OnUpgradeDone(config.Setting):
    name = "on_upgrade_done"
    section = SECTION
    validator = config.validate_callable(1)
    default = staticmethod(_no_hook)
    desc = """\
        Called in the old master when its last worker has left, just before it exits itself.

        The callable takes the arbiter.
        """


class OnDrain(config.Setting):
    name = "on_drain"
    section = SECTION
    validator = _drain_hook
    default = staticmethod(_no_hook)
    desc = """\
        Called in each worker when it begins to leave.

        That is when the drain of an upgrade begins, at SIGTERM, or when ``max_requests`` is reached. The callable takes
        the worker. It runs on the worker's main thread and must return at once: while it waits, the worker may serve
        nothing, and not notice that ``hot_drain_timeout`` is over; the master kills it later, and what is cut may not
        be reported.
        """


#: Our setting classes by name.
_OURS: dict[str, Any] = {
    str(setting.name): setting for setting in config.KNOWN_SETTINGS if setting.section == SECTION
}


class _Settings(dict[str, Any]):
    """gunicorn's settings, which it asks for every name that the configuration file defines.

    A misspelt hot_* name is refused by that question: gunicorn would skip it without a word."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        if isinstance(name, str) and name.startswith("hot_"):
            raise ConfigError(_unknown(name))
        return False


def _unknown(name: str) -> str:
    import difflib  # it takes 150 kB, which the workers would share

    nearest = difflib.get_close_matches(name, _OURS, n=1, cutoff=0.5)
    hint = f", did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown setting {name!r} in the configuration file{hint} (known: {', '.join(sorted(_names()))})"


def _names() -> list[str]:
    return [name for name in _OURS if name.startswith("hot_")]


def add_to(cfg: config.Config) -> bool:
    """Make our settings known to a configuration that was built without them.

    Returns whether that was needed."""
    missing = [name for name in _OURS if name not in cfg.settings]
    if missing:
        cfg.settings = _Settings(cfg.settings)
        for name in missing:
            cfg.settings[name] = _OURS[name]().copy()
    return bool(missing)


def add_to_the_one_being_read() -> config.Config | None:
    """Find, up the stack, the application that is reading its configuration file, and add our settings to it.

    Returns its configuration, or None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        app = frame.f_locals.get("self")
        reading = frame.f_code.co_name == "do_load_config"
        if reading and isinstance(app, BaseApplication) and isinstance(app.cfg, config.Config):
            add_to(app.cfg)
            return app.cfg
        frame = frame.f_back
    return None


def finish_reading(cfg: config.Config) -> None:
    """Read our settings from the configuration file, if they were not known when gunicorn read it.

    That is so when the file imports this package only inside a function. Raises ConfigError on a name or a value that
    is wrong."""
    if add_to(cfg):
        for name, value in _namespace(cfg).items():
            if name not in cfg.settings or name not in _OURS:
                continue
            try:
                cfg.set(name, value)
            except Exception as exc:
                raise ConfigError(f"Invalid value for {name}: {exc}") from exc
    # The file has been read. Workers look settings up a dozen times for each request: a plain dict again.
    cfg.settings = dict(cfg.settings)


def is_unfinished(cfg: config.Config) -> bool:
    """Whether our settings were added to it, and `finish_reading` was not called since."""
    return isinstance(cfg.settings, _Settings)


def used(cfg: config.Config) -> list[str]:
    """Return the names of our settings in the configuration file."""
    return [name for name in _namespace(cfg) if name in _OURS]


def misspelt(cfg: config.Config) -> list[str]:
    """Return a line for each name in the configuration file that looks like ours and is none.

    For a file that is read again: the service runs, and is not ended for that."""
    names = [name for name in _namespace(cfg) if name.startswith("hot_") and name not in _OURS]
    return [_unknown(name) for name in names]


def _namespace(cfg: config.Config) -> dict[str, Any]:
    location = cfg.config or ""
    module = location[len("python:") :] if location.startswith("python:") else "__config__"
    return dict(vars(sys.modules[module])) if module in sys.modules else {}


def drain_timeout(cfg: config.Config) -> float:
    """Return `hot_drain_timeout` in seconds, or what stands for it."""
    value = cfg.hot_drain_timeout
    return float(cfg.graceful_timeout if value is None else value)
