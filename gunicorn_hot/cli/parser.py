"""The options of `gunicorn-hot`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

EXAMPLES = """
Examples:
  gunicorn-hot demo                                # see an upgrade, with nothing to prepare
  gunicorn-hot upgrade                             # the only service of this user; waits until it is done
  gunicorn-hot upgrade --pid-file /run/shop.pid    # this one
  gunicorn-hot upgrade --timeout 300 --json        # for a program
  gunicorn-hot check && gunicorn-hot upgrade       # only if the new release boots
  gunicorn-hot status --json

Exit codes:
  0    done; with --no-wait: asked for; check: an upgrade would work
  1    failed, refused or rolled back; the old generation serves
  2    wrong usage, or several services and none was named
  3    --timeout is over; the upgrade goes on
  4    there is no service to talk to
  130  interrupted by Ctrl-C; the upgrade goes on
"""


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"not a positive number of seconds: {text}")
    return seconds


def _pid(text: str) -> int:
    pid = int(text)
    if pid < 1:
        raise argparse.ArgumentTypeError(f"not a process id: {text}")
    return pid


# What argparse calls them in "invalid ... value".
_seconds.__name__ = "number of seconds"
_pid.__name__ = "process id"


def _service_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("the service (by default the only one of this user)")
    one = group.add_mutually_exclusive_group()
    one.add_argument("-p", "--pid-file", type=Path, metavar="FILE", help="gunicorn's pid file")
    one.add_argument("--pid", type=_pid, help="the pid of one of its masters, or the one that it keeps")
    one.add_argument("--status-file", type=Path, metavar="FILE", help="its status file (hot_status_file)")
    options.add_argument("-j", "--json", action="store_true", help="write one JSON object per event")
    return options


def _wait_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    one = options.add_mutually_exclusive_group()
    one.add_argument(
        "-t", "--timeout", type=_seconds, metavar="SECONDS", help="wait no longer, and exit with 3; default: no limit"
    )
    one.add_argument("--no-wait", action="store_true", help="ask for it, and exit with 0")
    return options


def make_parser(version: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gunicorn-hot",
        description="Upgrade a running Gunicorn, and see what it does.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument("-v", "--version", action="version", version=f"gunicorn-hot (gunicorn_hot {version})")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    service, wait = _service_options(), _wait_options()

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=parents)

    add("upgrade", "start the new release beside the old one, and let it take over", service, wait)
    add("check", "start the new release beside the old one, up to ready, with no traffic, and end it", service, wait)
    add("abort", "end the new generation before it is committed; the old one serves", service, wait)
    add("rollback", "give the service back to the old generation, in probation", service, wait)
    add("commit", "end the probation now; it is done when the old generation begins to drain", service, wait)
    add("status", "show generations, workers and the last upgrades", service)
    add("watch", "show the same, and each change as it happens, until Ctrl-C", service)
    demo = add("demo", "upgrade an example under load in a temporary folder, and draw what its clients saw")
    demo.add_argument("--plot", type=Path, metavar="FILE", help="draw it to a picture, too (.svg, .png; matplotlib)")
    demo.add_argument(
        "--json", type=Path, dest="records", metavar="FILE", help="write what the clients saw, request by request"
    )
    return parser
