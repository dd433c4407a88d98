"""Applications as people write them: their frameworks' own lifespans, streams and threads, under load."""

from __future__ import annotations

import shutil
import time

import gunicorn
import pytest
from server import APPS, ASGI_WORKERS, Service
from test_under_load import complaints

from bench.load import Load

CLIENTS = {"new": 2, "keep": 2, "idle": 4, "slow": 2, "upload": 1, "stream": 1}


@pytest.mark.parametrize("worker", ASGI_WORKERS)
@pytest.mark.parametrize("framework", ["starlette", "fastapi", "django"])
def test_upgrades_under_load(service: Service, framework: str, worker: str) -> None:
    pytest.importorskip(framework)
    if (framework, worker) == ("django", "asgi") and gunicorn.version_info < (26,):
        pytest.skip("the asgi worker of gunicorn 25 answers Django's views with 500")
    if "uvicorn" in worker:
        pytest.importorskip("uvicorn_worker")
    service.configure(worker_class=worker, workers=2, hot_probation=0.5)
    shutil.copy(APPS / "frameworks" / f"{framework}_app.py", service.folder / "app.py")
    service.start()
    upgrades = []
    with Load(service.address, CLIENTS, 600) as load:
        load.wait_for(100, gen="A")
        if framework != "django":
            mark = service.mark()
            service.release("X startup=fail")
            service.begin_upgrade()
            service.wait_log("Upgrade failed: .*lifespan startup failed: RuntimeError: no database", after=mark)
        for release in "BC":
            start = time.monotonic()
            service.upgrade(release)
            upgrades.append((start, time.monotonic()))
            load.wait_for(100, gen=release)
        report = load.stop()
    assert not complaints(report, "ABC", upgrades), report.summary()
    assert "ASGI application" not in service.log
    if framework != "django":
        assert service.read("lifespan").count("shutdown A") == 2
