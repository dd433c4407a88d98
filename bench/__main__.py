"""Runs the benches and prints their tables; README.md says what they measure."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    bad_release,
    boot,
    boot_load,
    ceiling,
    cutover,
    leave,
    memory,
    picture,
    rivals_upgrade,
    steady,
    upgrade,
)
from bench.apps import FAULTS
from bench.options import SHORT, WORKERS, Options
from bench.rivals import RIVALS
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
    "rivals": rivals_upgrade.run,
    "bad-release": bad_release.run,
}


def environment() -> dict[str, Any]:
    """The versions and the machine that the figures are from."""
    versions = {}
    for name in ("gunicorn", "gevent", "uvicorn", "uvloop"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Options()
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("bench", choices=[*BENCHES, "all", "picture"])
    parser.add_argument("--worker", choices=[*WORKERS, "all"], default="all", help="type of worker")
    parser.add_argument("--workers", type=int, metavar="N", help="2, but steady: 1, and boot-load: 4")
    parser.add_argument("--upgrades", type=int, metavar="N", help=f"per worker type ({default.upgrades})")
    parser.add_argument("--pairs", type=int, metavar="N",
                        help=f"of boot, steady and memory; turns of boot-load ({default.pairs})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"a side of steady ({default.seconds:g})")
    parser.add_argument("--processes", type=int, metavar="N", help=f"of steady's load ({default.processes})")
    parser.add_argument("--import-s", type=float, metavar="S",
                        help=f"that the application takes to load ({default.import_s:g})")
    parser.add_argument("--cpu-s", type=float, metavar="S",
                        help=f"of a processor that the application takes to load in boot-load ({default.cpu_s:g})")
    parser.add_argument("--probation", type=float, metavar="S",
                        help=f"hot_probation of upgrade ({default.probation:g})")
    parser.add_argument("--slow-ms", type=int, metavar="MS",
                        help=f"of slow, upload and stream clients ({default.slow_ms})")
    parser.add_argument("--idle", type=int, metavar="N",
                        help="kept-alive connections that wait during each upgrade of cutover (0)")
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
    parser.add_argument("--json", metavar="FILE", help="write every single measurement there")
    return parser.parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> Options:
    chosen: dict[str, Any] = dict(SHORT) if arguments.short else {}
    for field in dataclasses.fields(Options):
        if (value := getattr(arguments, field.name, None)) is not None:
            if value < 0 or (isinstance(value, int) and value < 1):
                raise SystemExit(f"--{field.name.replace('_', '-')}: {value} is too little")
            chosen[field.name] = value
    if arguments.rival and "all" not in arguments.rival:
        chosen["rivals"] = tuple(arguments.rival)
    if arguments.fault and "all" not in arguments.fault:
        chosen["faults"] = tuple(arguments.fault)
    if arguments.worker != "all":
        chosen["worker_types"] = (arguments.worker,)
    return Options(**chosen)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 if a request failed, or went back to an old generation."""
    arguments = parse(argv)
    options = options_of(arguments)
    about = environment()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
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
    results = []
    for name in BENCHES if arguments.bench == "all" else [arguments.bench]:
        gc.collect()
        began = time.monotonic()
        result = BENCHES[name](options, limits)
        results.append(result)
        print(f"\n{result.text()}\n  took {time.monotonic() - began:.0f} s", flush=True)
        if arguments.json:      # after each, so that an interrupted run leaves what it has
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump({
                    "environment": about,
                    "options": options.as_dict(),
                    "ceiling": limits.as_dict(),
                    "results": [one.as_dict() for one in results],
                }, file, indent=1)
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
