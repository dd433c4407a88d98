"""Fixtures of the tests that start a real gunicorn."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import server
from server import Certificate, Service

if sys.platform != "linux":
    collect_ignore_glob = ["*"]

_PR_SET_CHILD_SUBREAPER = 36


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the whole log to the report of a test that failed."""
    report = yield
    found: Any = getattr(item, "funcargs", {}).get("service")
    if report.failed and isinstance(found, Service):
        report.sections.append(("the service", found.story()))
    return report


@pytest.fixture(scope="session", autouse=True)
def _ignores_nothing() -> None:
    """What we start is not to ignore what we do, under nohup or in a script's background: hot_pid goes by SIGHUP."""
    for sig in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(sig) == signal.SIG_IGN:
            signal.signal(sig, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def _subreaper() -> None:
    """Make orphans ours: a successor's parent leaves, and init may reap late, or never say what it saw."""
    assert ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    return server.environment()


@pytest.fixture(scope="session")
def commands(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of one who works in a terminal: python, gunicorn and gunicorn-hot are in PATH, and a status file
    is nobody else's."""
    folder = tmp_path_factory.mktemp("commands")
    ours = {"python": "", "python3": "", "gunicorn": "-m gunicorn", "gunicorn-hot": "-m gunicorn_hot"}
    for name, arguments in ours.items():
        script = folder / name
        # What is installed is run as it is; a checkout has no scripts.
        installed = Path(sys.executable).parent / name
        words = str(installed) if installed.exists() else f"{sys.executable} {arguments}"
        script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        script.chmod(0o755)
    runtime = tmp_path_factory.mktemp("run")
    runtime.chmod(0o700)
    return {**environment, "PATH": f"{folder}:{environment['PATH']}", "XDG_RUNTIME_DIR": str(runtime)}


@pytest.fixture
def service(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Service]:
    """A service that a test configures, starts and upgrades. Afterwards none of its processes may be left."""
    with Service(tmp_path, environment) as service:
        yield service


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "key.pem", folder / "cert.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", made.key, "-out", made.cert], check=True, stderr=subprocess.DEVNULL
    )
    return made


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest, service: Service) -> dict[str, str]:
    """The settings of a transport that the service then speaks."""
    if request.param == "tcp":
        return {}
    certificate: Certificate = request.getfixturevalue("certificate")
    return service.use_tls(certificate)
