"""What a running service says of itself in its status file, and what it does when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server import Service, until

from gunicorn_hot import request, statusfile
from gunicorn_hot.status import Past, Status


def path(service: Service) -> str:
    """Return where the service's status is."""
    found = [str(one) for one in (service.folder / "gunicorn_hot").glob("*.json")]
    assert len(found) == 1, found
    return found[0]


def status(service: Service) -> Status:
    return statusfile.read(path(service))


def wait(service: Service, fact: Callable[[Status], Any], what: str) -> Status:
    """Wait until the status says something, and is no stale one."""
    found: list[Status] = []

    def says() -> bool:
        found[:] = [status(service)]
        return bool(fact(found[0])) and not found[0].is_stale()

    until(says, f"the status that says: {what}")
    return found[0]


def ask(service: Service, command: str) -> str:
    return request.send(path(service), command, "somebody@tty")


def wait_past(service: Service, id: str) -> Past:
    past = wait(service, lambda s: s.past(id), f"that {id} is over").past(id)
    assert past is not None
    return past


def roles(found: Status) -> dict[str, int]:
    return {master.role: master.pid for master in found.masters}


def test_try(service: Service) -> None:
    service.configure()
    service.start()
    found = wait(service, lambda s: s.state == "serving", "it serves")
    print(found)
    id = ask(service, "upgrade")
    print(wait_past(service, id))
    print(status(service))
    id = ask(service, "check")
    print(wait_past(service, id))
    print(service.log)
    assert 0
