"""upgrade, check, abort, rollback and commit: a request to the serving master, and what became of it."""

from __future__ import annotations

import argparse
import time

from gunicorn_hot.cli.errors import FAILED, INTERRUPTED, OK, Refused, TimeOver
from gunicorn_hot.cli.following import follow
from gunicorn_hot.cli.output import Output
from gunicorn_hot.cli.progress import GOOD, Step
from gunicorn_hot.cli.service import Service
from gunicorn_hot.cli.watching import Watch
from gunicorn_hot.status import Status, Upgrade

#: What those do that end something which another command has begun.
_INTERVENTIONS = ("abort", "rollback", "commit")


def ask(command: str, service: Service, options: argparse.Namespace, output: Output) -> int:
    """Ask for it, show how it goes, and return the exit code. Raises Trouble."""
    end = None if options.timeout is None else time.monotonic() + options.timeout
    goes_on = False
    with Watch(service.path) as watch:
        try:
            status = service.read(watch)
            upgrade = _upgrade_concerned(command, status, output)
            goes_on = upgrade is not None
            request = service.ask(command)
            goes_on = True
            output.line(f"{_title(command)}: asked for", event="asked", id=request, command=command)
            if options.no_wait:
                return OK
            last = follow(
                service, watch, request, output,
                upgrade=None if upgrade is None else upgrade.id,
                is_over=lambda step: _is_over(command, step),
                end=end,
            )
        except TimeOver:
            text = f"not done in {options.timeout:g}s (--timeout)"
            raise TimeOver(f"{text}; {_goes_on(command, service)}") from None
        except KeyboardInterrupt:
            output.close()
            text = _goes_on(command, service) if goes_on else "nothing was asked for"
            output.error(f"interrupted; {text}", INTERRUPTED)
            return INTERRUPTED
    good = _is_good(command, last)
    output.end(last, good)
    return OK if good else FAILED


def _title(command: str) -> str:
    return command.capitalize()


def _upgrade_concerned(command: str, status: Status, output: Output) -> Upgrade | None:
    """Return the upgrade that the command is about, None if it begins one of its own. Raises Refused."""
    upgrade = status.upgrade
    if command in _INTERVENTIONS:
        if upgrade is None:
            raise Refused("no upgrade is under way")
        return upgrade
    if upgrade is not None:
        what = "a check" if upgrade.check else f"upgrade {upgrade.number}"
        then = "it will be replaced" if upgrade.state == "booting" else "this one begins after it"
        output.line(
            f"{what.capitalize()} is under way already ({upgrade.state}); {then}",
            event="under-way", other=upgrade.id, state=upgrade.state,
        )
    return None


def _is_over(command: str, step: Step) -> bool:
    return bool(step.outcome) or (command == "commit" and step.state == "draining")


def _is_good(command: str, step: Step) -> bool:
    if command == "commit":
        return step.outcome in ("", "done")
    if command in _INTERVENTIONS:
        return step.outcome not in (*GOOD, "taken-back")
    return step.outcome in GOOD


def _goes_on(command: str, service: Service) -> str:
    what = "the check" if command == "check" else "the upgrade"
    return f"{what} goes on. See it: {service.command('watch')}; end it: {service.command('abort')}"
