"""Servers that run no application: nginx and haproxy, which are known for their reloads.

They answer by themselves, at once, whatever is asked; a release is a configuration. What they show is how good a
hand-over of connections can be, where nothing has to be loaded."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from abc import abstractmethod
from typing import ClassVar

from bench.rivals.base import Rival


class Proxy(Rival):
    program: ClassVar[str]
    version_option: ClassVar[str]
    loads = False
    faults = ("import",)

    @classmethod
    def version(cls) -> str | None:
        path = shutil.which(cls.program)
        if path is None:
            return None
        said = subprocess.run([path, cls.version_option], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
        return found[0] if found else "?"

    @abstractmethod
    def configuration(self, release: str) -> str:
        """Return a configuration with which that release answers."""

    def release(self, name: str, import_s: float, fault: str = "") -> None:
        text = self.configuration(name) + ("this is a syntax error\n" if fault else "")
        new = self.folder / "conf.new"
        new.write_text(text, encoding="utf-8")
        new.rename(self.folder / "conf")


class Nginx(Proxy):
    name = "nginx"
    title = "nginx: reload (no application)"
    program = "nginx"
    version_option = "-v"

    def configuration(self, release: str) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(f"{kind}_temp_path {kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""
            daemon off; pid pid; error_log stderr warn; worker_processes {self.workers}; {user}
            events {{ worker_connections 1024; }}
            http {{
                access_log off; client_body_temp_path body; {temporary}
                add_header X-Gen "{release}"; add_header X-Pid $pid;
                server {{ listen {self.address}; location / {{ return 200 "answer\\n"; }} }}
            }}
        """

    def command(self) -> list[str]:
        return ["nginx", "-p", str(self.folder), "-c", "conf", "-e", "stderr"]

    def upgrade(self) -> None:
        self.signal(signal.SIGHUP)


class Haproxy(Proxy):
    name = "haproxy"
    title = "haproxy: master-worker reload (no application)"
    program = "haproxy"
    version_option = "-v"

    def configuration(self, release: str) -> str:
        return "\n".join([
            "global",
            f"  stats socket {self.folder}/stats level admin expose-fd listeners",
            f"  nbthread {self.workers}",
            "defaults",
            "  mode http",
            "  timeout client 30s",
            "  timeout server 30s",
            "  timeout connect 5s",
            "frontend f",
            f"  bind {self.address}",
            '  http-request return status 200 content-type text/plain string "answer" '
            f'hdr X-Gen "{release}" hdr X-Pid "%pid"',
            "",
        ])

    def command(self) -> list[str]:
        return ["haproxy", "-W", "-f", str(self.folder / "conf")]

    def upgrade(self) -> None:
        self.signal(signal.SIGUSR2)
