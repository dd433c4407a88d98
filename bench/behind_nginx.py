"""gunicorn behind nginx, upgraded by this plugin and in the ways that it has alone: what do nginx's clients see?

nginx keeps connections to gunicorn and repeats nothing, so each connection that gunicorn closes while nginx sends a
request on it is an error of a client, and a line of nginx's error log. All sides get the same numbers, those of
examples/nginx: nginx's connections end before gunicorn's keepalive."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load
from bench.mix import SLOW_MS, mix
from bench.options import Options
from bench.rivals import Rival, installed
from bench.rivals.proxies import Nginx
from bench.rivals_upgrade import upgrade_once
from bench.service import BenchError, Exchange, free_port
from bench.tables import Result, spread

_SIDES = ("hot", "gunicorn-hup", "gunicorn-usr2-sleep", "gunicorn-usr2-kill")
_KEPT = 32              # nginx's connections to gunicorn, at most
_KEEPALIVE = 10         # s; gunicorn's
_IDLE = 5               # s; nginx's, so that it is nginx that closes an idle connection
_SERIOUS = re.compile(r"\[(warn|error|crit|alert|emerg)\]")
_DETAILS = re.compile(r"^\S+ \S+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?(.*?)(?:, client: .*|$)")
_START_S = 10.0
_STOP_S = 20.0
_SETTLE_S = 30.0


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "nginx",
        f"gunicorn behind nginx, which keeps {_KEPT} connections and repeats nothing",
        ("server", "version", "upgrades", "requests", "client-visible errors", "nginx error.log lines",
         "longest wait, ms", "went back", "old gone after, s"),
    )
    nginx = Nginx.version()
    if nginx is None:
        result.add("nginx", "skipped: not on the PATH", *["-"] * 7)
        return result
    for rival, version in installed(_SIDES, result):
        try:
            _measure(rival, version, options, result)
        except (BenchError, OSError, TimeoutError) as exc:
            result.add(rival.title, version, "broke", *["-"] * 6)
            result.notes.append(f"{rival.title}: {exc}")
            result.failed += rival.name == "hot"
        options.save(result)
    result.notes += [
        f"nginx {nginx}: proxy_http_version 1.1, Connection \"\", proxy_next_upstream off; "
        f"keepalive_timeout {_IDLE} s, gunicorn's keepalive {_KEEPALIVE} s",
        "longest wait: of a new connection to nginx, with an answer, from connect() to its end",
        "went back: new connections to nginx that it passed on over one that it had kept to the old generation; "
        "no failure",
    ]
    return result


def _measure(rival_class: type[Rival], version: str, options: Options, result: Result) -> None:
    clients, settings = mix("gthread", options.workers or 2)
    threads = settings["threads"]
    upgrades = []
    with _behind(rival_class)(settings["workers"], threads, options.probation) as rival:
        rival.release("0", options.import_s)
        rival.start()
        with _Nginx(rival.port) as nginx:
            load = Load(nginx.address, clients, slow_ms=options.slow_ms or SLOW_MS)
            with load:
                load.wait_for(20 * sum(clients.values()), timeout=60)
                for number in range(1, options.upgrades_of("nginx") + 1):
                    gc.freeze()
                    upgrades.append(upgrade_once(rival, load, str(number), options.import_s))
                    rival.poll(partial(_is_settled, rival), _SETTLE_S, "still two generations")
                report = load.stop()
            gc.unfreeze()
            lines = nginx.stop()
    waits = report.waits("new")
    went_back = [record for record in report.went_back if record.kind == "new"]
    kinds = Counter(_kind(line) for line in lines)
    result.records.append({
        "server": rival_class.name, "version": version, "upgrades": upgrades, "report": report.as_dict(),
        "failures": [asdict(record) for record in report.records if not record.ok],
        "error_log": lines,
    })
    result.add(
        rival_class.title, version, len(upgrades), len(report.records), report.failed, len(lines),
        f"{waits[-1] * 1000:.1f}" if waits else "-", len(went_back),
        spread([upgrade["end"] - upgrade["start"] for upgrade in upgrades]),
    )
    for what, counts in (("errors", report.failures), ("error.log", kinds)):
        if counts:
            told = ", ".join(f"{name} {count}" for name, count in counts.most_common(4))
            result.notes.append(f"{rival_class.title}: {what}: {told}")
    if rival_class.name == "hot":
        result.failed += report.failed


def _is_settled(rival: Any) -> bool:
    """Whether nothing is left of the old generation, and the pid file names the master: the next upgrade may come.

    A master of stock gunicorn looks once a second whether it is the only one now."""
    pids = rival.pids()
    try:
        return len(pids) == rival.workers + 1 and rival.current() in pids
    except (OSError, ValueError):
        return False


def _behind(rival_class: type[Rival]) -> type[Rival]:
    """The same server, which keeps idle connections for longer than nginx does."""

    class Behind(rival_class):      # type: ignore[misc, valid-type]
        def settings(self) -> dict[str, Any]:
            return {**super().settings(), "keepalive": _KEEPALIVE}

    return Behind


def _kind(line: str) -> str:
    """What nginx complains of, without what differs from one complaint to the next."""
    found = _DETAILS.match(line)
    return f"[{found[1]}] {found[2]}" if found else line


class _Nginx:
    """nginx in front of a port of 127.0.0.1, in a folder of its own, which goes with it."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._folder = Path(tempfile.mkdtemp(prefix="bench-nginx-"))
        self._popen: subprocess.Popen[bytes] | None = None

    def _configuration(self) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {kind};" for kind in kinds)
        return f"""
            daemon off; pid pid; error_log error.log warn; worker_processes 1; {user}
            events {{ worker_connections 1024; }}
            http {{
                access_log off; {temporary}
                client_body_buffer_size 1m;     # an upload is not worth a warning
                upstream app {{
                    server 127.0.0.1:{self._upstream}; keepalive {_KEPT}; keepalive_timeout {_IDLE}s;
                }}
                server {{
                    listen {self.address};
                    location / {{
                        proxy_pass http://app;
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_set_header Host $host;
                        proxy_next_upstream off;
                    }}
                }}
            }}
        """

    def __enter__(self) -> _Nginx:
        (self._folder / "conf").write_text(self._configuration(), encoding="utf-8")
        command = ["nginx", "-p", str(self._folder), "-c", "conf", "-e", "error.log"]
        self._popen = subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, start_new_session=True)
        self._wait_answer()
        return self

    def _wait_answer(self) -> None:
        """It does not say when it listens, so it is tried. Raises BenchError after some seconds, or when it ends."""
        end = time.monotonic() + _START_S
        assert self._popen is not None
        while True:
            try:
                exchange = Exchange(self._port, _START_S)
            except ConnectionRefusedError:
                if self._popen.poll() is not None or time.monotonic() > end:
                    log = "\n".join(self.stop())
                    raise BenchError(f"nginx does not listen\n{log}") from None
                time.sleep(0.01)
            else:
                exchange.get("/", close=True)
                exchange.close()
                return

    def stop(self) -> list[str]:
        """End it, and return the serious lines of its error log."""
        if self._popen is not None:
            self._popen.terminate()
            try:
                self._popen.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
            self._popen = None
        log = self._folder / "error.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return [line for line in text.splitlines() if _SERIOUS.search(line)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
