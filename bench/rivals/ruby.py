"""Servers for Ruby. unicorn is what gunicorn was made after, its SIGUSR2 included."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from bench.rivals.base import Rival

_APPLICATION = Path(__file__).resolve().parents[1] / "apps" / "release.ru"


class Ruby(Rival):
    program: ClassVar[str]

    @classmethod
    def version(cls) -> str | None:
        path = shutil.which(cls.program)
        if path is None:
            return None
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", said.stdout)
        return found[0] if found else None      # no version: a command that cannot even start

    @abstractmethod
    def configuration(self) -> str:
        """Return the text of its configuration file, which is Ruby."""

    def command(self) -> list[str]:
        (self.folder / "conf.rb").write_text(self.configuration(), encoding="utf-8")
        return [self.program, *self.arguments()]

    @abstractmethod
    def arguments(self) -> list[str]:
        """Return what follows the program, with `conf.rb` as its configuration."""


class Unicorn(Ruby):
    """As most run it: the master loads the application, and the new one ends the old one when it forks its workers.

    The hook is that of the example configuration which comes with it: a SIGTTOU for each new worker, which takes one of
    the old ones away, and SIGQUIT with the last."""

    name = "unicorn"
    title = "unicorn: SIGUSR2, preload_app, before_fork ends the old one"
    program = "unicorn"
    like = "sync"

    def configuration(self) -> str:
        return f"""
            listen "{self.address}"
            worker_processes {self.workers}
            pid "{self.folder}/pid"
            preload_app true
            before_fork do |server, worker|
              old = "#{{server.config[:pid]}}.oldbin"
              if old != server.pid
                begin
                  Process.kill(worker.nr + 1 >= server.worker_processes ? :QUIT : :TTOU, File.read(old).to_i)
                rescue Errno::ENOENT, Errno::ESRCH
                end
              end
            end
        """

    def arguments(self) -> list[str]:
        return ["--env", "none", "--config-file", "conf.rb", str(_APPLICATION)]

    def upgrade(self) -> None:
        self.signal(signal.SIGUSR2, int((self.folder / "pid").read_text(encoding="ascii")))


class Puma(Ruby):
    """One configuration, and a signal for each way. The workers load the application: a phased restart needs that."""

    program = "puma"
    sig: ClassVar[signal.Signals]

    def configuration(self) -> str:
        return f"""
            bind "tcp://{self.address}"
            workers {self.workers}
            threads {self.threads}, {self.threads}
            environment "production"
            rackup "{_APPLICATION}"
            preload_app! false
        """

    def arguments(self) -> list[str]:
        return ["--config", "conf.rb"]

    def upgrade(self) -> None:
        self.signal(self.sig)


class PumaPhased(Puma):
    name = "puma-phased"
    title = "puma: SIGUSR1 (phased restart)"
    sig = signal.SIGUSR1


class PumaHot(Puma):
    name = "puma-hot"
    title = "puma: SIGUSR2 (hot restart)"
    sig = signal.SIGUSR2
