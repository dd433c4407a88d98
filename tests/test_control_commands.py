"""What a hot master understands on gunicorn's control socket, beside gunicorn's own commands."""

from __future__ import annotations

import json
import subprocess
import sys

from server import Service, until, wait_gone


def gunicornc(service: Service, command: str) -> subprocess.CompletedProcess[str]:
    return service.run(
        sys.executable, "-c", "import sys; from gunicorn.ctl.cli import main; sys.exit(main())",
        "-s", "control", "--json", "-c", command,
    )  # fmt: skip


def test_the_control_socket_shows_and_upgrades(service: Service) -> None:
    service.configure(workers=1, control_socket_disable=False, control_socket="control")
    service.start()
    until(lambda: (service.folder / "control").exists(), "the control socket")
    found = json.loads(gunicornc(service, "show hot").stdout)
    assert (found["generation"], found["state"]) == (1, "serving")
    assert found["service"]["control_socket"] == str(service.folder / "control")
    old = service.master
    service.release("B")
    answer = json.loads(gunicornc(service, "upgrade").stdout)
    assert answer["asked"] == "upgrade"

    def past() -> list[object]:
        shown = json.loads(gunicornc(service, "show hot").stdout)
        return [one for one in shown["history"] if one["id"] == answer["id"]]

    # Answered by the new master, which has the socket now.
    assert until(past, "the end of the upgrade")
    wait_gone(old)
    assert service.ask().gen == "B"
    service.wait_log("Request: upgrade, by gunicornc")
    commands = json.loads(gunicornc(service, "help").stdout)["commands"]
    assert {"show hot", "upgrade", "show workers"} <= commands.keys()
    assert json.loads(gunicornc(service, "show workers").stdout)["count"] == 1
    assert gunicornc(service, "show nothing").returncode == 1


def test_without_a_status_file(service: Service) -> None:
    service.configure(workers=1, control_socket_disable=False, control_socket="control", hot_status_file="")
    service.start()
    until(lambda: (service.folder / "control").exists(), "the control socket")
    assert json.loads(gunicornc(service, "show hot").stdout)["generation"] == 1
    refused = gunicornc(service, "check")
    assert (refused.returncode, "there is no status file" in refused.stdout) == (1, True)
    service.release("B")
    assert json.loads(gunicornc(service, "upgrade").stdout) == {"asked": "upgrade"}
    service.wait_log("Upgrade: done")
    until(lambda: service.ask().gen == "B", "the new release")
