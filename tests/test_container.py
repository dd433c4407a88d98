"""A container's main process: the example's command as PID 1 of a namespace, and the numbers of its pod."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outside import exit_status, unnoticed
from server import APPS, REPOSITORY, Service, process, until

NAMESPACE = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc"]


def objects() -> dict[str, dict[str, Any]]:
    """Return the objects of the example for Kubernetes, by kind."""
    yaml = pytest.importorskip("yaml", reason="no PyYAML here")
    text = (REPOSITORY / "examples" / "kubernetes" / "deployment.yaml").read_text()
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = objects()["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def configuration() -> str:
    text: str = objects()["ConfigMap"]["data"]["gunicorn.conf.py"]
    return text


def test_a_pod_has_time_for_its_end(pod: dict[str, Any], configuration: str) -> None:
    values: dict[str, Any] = {}
    exec(configuration, values)
    (container,) = pod["containers"]
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + values["graceful_timeout"]
    # What they are about is where they look for it.
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(container["command"][2]).parent) in mounted
    assert str(Path(values["control_socket"]).parent) in mounted
    assert container["readinessProbe"]["httpGet"]["path"] == values["hot_check"]
    assert values["bind"].endswith(f":{container['ports'][0]['containerPort']}")


def test_the_main_process_of_a_container(service: Service, pod: dict[str, Any], configuration: str) -> None:
    if subprocess.run([*NAMESPACE, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no namespaces for this user")
    gunicorn, option, path, application = pod["containers"][0]["command"]
    assert (gunicorn, option, application) == ("gunicorn", "-c", "shop:app")
    Path(service.folder / "app.py").unlink()
    (service.folder / "shop.py").write_text((APPS / "subject.py").read_text())
    # Only what would be shared with other tests is elsewhere.
    for old, new in (("0.0.0.0:8000", service.address), ("/tmp/", f"{service.folder}/")):
        assert old in configuration
        configuration = configuration.replace(old, new)
    service.write(Path(path).name, f'{configuration}\nerrorlog = "log"\nhot_probation = 0.2\n')
    service._imports = 2
    service.start([*NAMESPACE, sys.executable, "-m", gunicorn, option, Path(path).name, application])
    assert "hot_pid: stable, it is PID 1" in service.log

    # Its pid outside of the namespace.
    assert service._popen is not None
    (first,) = (pid for pid in service.workers(service._popen.pid))

    def upgrade(release: str, end: str) -> None:
        service.release(release)
        mark = service.mark()
        service.signal(signal.SIGUSR2, first)
        service.wait_log(end, after=mark)

    with unnoticed(service):
        upgrade("B", "The predecessor has left")
        upgrade("C", "The predecessor has left")
        upgrade("D broken", "Upgrade failed: .*this release is broken")
        upgrade("E", "The predecessor has left")
        assert service.ask().gen == "E"
    service.signal(signal.SIGTERM, first)
    assert exit_status(service) == 0
    until(lambda: process(first) is None and service.is_empty(), "the end of the namespace")
