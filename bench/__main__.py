"""Runs the benches and prints their tables; README.md says what they measure."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    bad_release,
    behind_nginx,
    boot,
    boot_load,
    ceiling,
    cost,
    cutover,
    endurance,
    leave,
    memory,
    picture,
    pictures,
    report,
    rivals_upgrade,
    steady,
    upgrade,
)
from bench.apps import FAULTS
from bench.mix import SLOW_MS
from bench.options import SHORT, UPGRADES, WORKERS, Options
from bench.rivals import RIVALS
from bench.service import BenchError
from bench.tables import Result
from gunicorn_hot.cli.demo.plot import CannotDraw

BENCHES: dict[str, Callable[[Options, ceiling.Ceiling], Result]] = {
    "upgrade": upgrade.run,
    "cutover": cutover.run,
    "boot": boot.run,
    "boot-load": boot_load.run,
    "leave": leave.run,
    "steady": steady.run,
    "memory": memory.run,
    "cost": cost.run,
    "endurance": endurance.run,
    "nginx": behind_nginx.run,
    "rivals": rivals_upgrade.run,
    "bad-release": bad_release.run,
}


_INTERRUPTED = 130
_MAY_BE_NONE = ("instructions",)


def environment() -> dict[str, Any]:
    """The versions and the machine that the figures are from."""
    versions = {}
    for name in ("gunicorn", "gevent", "uvicorn", "uvloop"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


class Saver:
    """Keeps what benches say, in a folder."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._folder = folder
        self._about = about

    def save(self, result: Result) -> None:
        """Write BENCH.json, whole at any instant; to be called with each new row."""
        new = self._folder / f".{result.name}.json.new"
        new.write_text(json.dumps({**self._about, "result": result.as_dict()}, indent=1), encoding="utf-8")
        new.rename(self._folder / f"{result.name}.json")

    def draw(self, result: Result) -> str:
        """Draw BENCH.png, if there is a picture of that bench; returns what has been written, or why not."""
        written = self._folder / f"{result.name}.json"
        if result.name not in pictures.PICTURES:
            return str(written)
        file = written.with_suffix(".png")
        try:
            pictures.draw(result, file)
        except CannotDraw as exc:
            return f"{written}; no picture: {exc}"
        return f"{written}, {file}"


def numbers(text: str) -> tuple[int, ...]:
    """(1, 2) of "1,2". Raises ValueError."""
    return tuple(map(int, text.split(",")))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Options()
    upgrades = ", ".join(f"{name}: {n}" for name, n in UPGRADES.items())
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("bench", choices=[*BENCHES, "all", "picture", "report"])
    parser.add_argument("--worker", choices=[*WORKERS, "all"],
                        help="type of worker (all; boot-load, cost, endurance: gthread)")
    parser.add_argument("--workers", type=int, metavar="N", help="2, but steady: 1, and boot-load: 4")
    parser.add_argument("--upgrades", type=int, metavar="N", help=f"per worker type or server ({upgrades})")
    parser.add_argument("--pairs", type=int, metavar="N",
                        help=f"of boot, steady and memory; turns of boot-load ({default.pairs})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"a side of steady ({default.seconds:g})")
    parser.add_argument("--processes", type=int, metavar="N", help=f"of steady's load ({default.processes})")
    parser.add_argument("--instructions", type=int, metavar="N",
                        help=f"requests of which steady counts them; 0: none ({default.instructions})")
    parser.add_argument("--import-s", type=float, metavar="S",
                        help=f"that the application takes to load ({default.import_s:g})")
    parser.add_argument("--cpu-s", type=float, metavar="S",
                        help=f"of a processor that the application takes to load in boot-load ({default.cpu_s:g})")
    parser.add_argument("--probation", type=float, metavar="S",
                        help=f"hot_probation of upgrade ({default.probation:g})")
    parser.add_argument("--slow-ms", type=int, metavar="MS",
                        help=f"of slow, upload and stream clients ({SLOW_MS}; cutover, endurance: 300)")
    parser.add_argument("--idle", type=int, metavar="N",
                        help="kept-alive connections that wait during each upgrade of cutover (0)")
    parser.add_argument("--cost-workers", type=numbers, metavar="N,...",
                        help=f"numbers of workers of cost ({','.join(map(str, default.cost_workers))})")
    parser.add_argument("--cost-idle", type=numbers, metavar="N,...",
                        help=f"numbers of idle connections of cost ({','.join(map(str, default.cost_idle))})")
    parser.add_argument("--reuse-port", action="store_true", default=None, help="of steady: with reuse_port")
    parser.add_argument("--rival", choices=[*RIVALS, "all"], action="append",
                        help="of rivals and bad-release; may be repeated (all)")
    parser.add_argument("--fault", choices=[*FAULTS, "all"], action="append",
                        help="of bad-release; may be repeated (all)")
    parser.add_argument("--after-s", type=float, metavar="S",
                        help=f"until bad-release looks whether the service is up ({default.after_s:g})")
    parser.add_argument("--out", metavar="FILE", default="upgrade.png",
                        help="of picture: svg, png or pdf (upgrade.png)")
    parser.add_argument("--control", action="store_true", default=None,
                        help="of steady: stock on both sides, to see the noise")
    parser.add_argument("--short", action="store_true", help="tiny numbers, to see that it runs")
    parser.add_argument("--out-dir", metavar="DIR", type=Path, default=Path("bench-results"),
                        help="BENCH.json with every single measurement and BENCH.png are written there (bench-results)")
    return parser.parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> Options:
    chosen: dict[str, Any] = dict(SHORT) if arguments.short else {}
    for field in dataclasses.fields(Options):
        if (value := getattr(arguments, field.name, None)) is not None:
            least = 0 if field.name in _MAY_BE_NONE or isinstance(value, float) else 1
            if not isinstance(value, tuple) and value < least:
                raise SystemExit(f"--{field.name.replace('_', '-')}: {value} is too little")
            chosen[field.name] = value
    if arguments.rival and "all" not in arguments.rival:
        chosen["rivals"] = tuple(arguments.rival)
    if arguments.fault and "all" not in arguments.fault:
        chosen["faults"] = tuple(arguments.fault)
    if arguments.worker:
        chosen["worker_types"] = WORKERS if arguments.worker == "all" else (arguments.worker,)
    return Options(**chosen)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 if a request failed, or went back to an old generation; 130 if it was interrupted."""
    arguments = parse(argv)
    if arguments.bench == "report":
        try:
            print(report.text(arguments.out_dir, BENCHES))
        except BenchError as exc:
            print(exc, file=sys.stderr)
            return 2
        return 0
    options = options_of(arguments)
    about: dict[str, Any] = {"environment": environment()}
    print(", ".join(f"{name} {value}" for name, value in about["environment"].items()))
    print(f"options: {options.as_dict()}")
    if arguments.bench == "picture":
        try:
            print(f"{picture.run(options, Path(arguments.out))}\n{arguments.out}")
        except CannotDraw as exc:
            print(exc, file=sys.stderr)
            return 2
        return 0
    limits = ceiling.measure(options.seconds, options.processes)
    print(limits.text(), flush=True)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    about |= {"options": options.as_dict(), "ceiling": limits.as_dict()}
    saver = Saver(arguments.out_dir, about)
    options = dataclasses.replace(options, save=saver.save)
    failed = False
    for name in BENCHES if arguments.bench == "all" else [arguments.bench]:
        gc.collect()
        began = time.monotonic()
        try:
            result = BENCHES[name](options, limits)
        except (BenchError, OSError, TimeoutError) as exc:      # the others are not to be lost with it
            print(f"\n{name}: broke after {time.monotonic() - began:.0f} s: {exc}", flush=True)
            failed = True
            continue
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted; what there is stands in {arguments.out_dir}", flush=True)
            return _INTERRUPTED
        failed = failed or result.failed > 0
        saver.save(result)
        print(f"\n{result.text()}\n  took {time.monotonic() - began:.0f} s; {saver.draw(result)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # what it has started is to end with it
    sys.exit(main())
