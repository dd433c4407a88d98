"""Each command in README.md, docs/ and the examples' READMEs, run for real; what they print is compared.

A page is read like a reader does, from above to below, in a folder of its own with a copy of examples/:

* A code block with title="NAME" (or with "# NAME" as its first line) is a file that the reader writes. One that is
  called examples/... must be in that file, letter for letter.
* In a block "console", lines that begin with "$ " are run, and must end with status 0. Lines below are what it
  prints; "..." is anything, a number of more than one digit is any number, and spaces are any spaces.
* The comment in the line above a block, which no reader sees, says what else is to be done:

      <!-- test: server -->         the command with "gunicorn -c" does not end: it is left running until the next such
                                    one, or the end of the page
      <!-- test: server in X -->    the same, and this block in the folder X
      <!-- test: status 1 -->       the last command ends with this status
      <!-- test: install -->        not run: the environment has what is installed there; that is checked
      <!-- test: see test_x.py -->  not run: that test runs it
      <!-- test: needs X -->        not run: X (systemd, a container) is not here; the files that it names must exist
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from server import REPOSITORY, free_port, until

from gunicorn_hot import statusfile
from gunicorn_hot.status import StatusError

PAGES = [
    REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md")), *sorted(REPOSITORY.glob("examples/**/*.md")),
]
TIMEOUT = 120.0

#: Programs that a block which "needs" something may begin a command with; any other could be run here.
ELSEWHERE = {
    "ansible-playbook", "apt", "apt-get", "circusctl", "docker", "git", "journalctl", "kubectl", "nginx", "podman",
    "s6-svc", "sudo", "supervisorctl", "sv", "systemctl", "systemd-run",
}


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    marker: str
    text: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Commands, and what each one prints."""
        _, *parts = re.split(r"^\$ ", self.text, flags=re.M)
        found = []
        for part in parts:
            command, _, output = re.sub(r"\\\n\s*", "", part).partition("\n")
            found.append((command, output))
        return found


def read(page: Path) -> list[Block]:
    fence = re.compile(r"(?:^<!-- test: (?P<marker>.*?) -->\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
    blocks = []
    for match in fence.finditer(page.read_text()):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="(.*?)"', rest) or re.match(r"# (\S+\.\w+)(?=\n|\s{2,})", match["text"])
        blocks.append(Block(language, title[1] if title else "", match["marker"] or "", match["text"]))
    return blocks


def as_pattern(output: str) -> re.Pattern[str]:
    lines = []
    for line in output.strip().splitlines():
        pattern = re.escape(line).replace(r"\.\.\.", ".*")
        pattern = re.sub(r"\d+\\\.\d+|\d\d+", r"\\d+(?:\\.\\d+)?", pattern)
        pattern = re.sub(r"(?:\\ )+", " +", pattern)
        lines.append("(?:.*\n)*?" if line == "..." else f"{pattern} *\n")
    return re.compile("".join(lines))


# --- a reader


class Reader:
    """One who follows a page in a folder."""

    def __init__(self, page: Path, folder: Path, env: dict[str, str]) -> None:
        self.page = page
        self.folder = folder
        self.port = free_port()
        self.env = {
            **env, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / ".run"), "COLUMNS": "120",
            # Wherever a configuration binds.
            "GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{self.port}",
        }
        (folder / ".run").mkdir(mode=0o700)
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        (folder / ".folder").write_text(str(folder))
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        if page.parent.is_relative_to(REPOSITORY / "examples"):
            (folder / ".folder").write_text(str(folder / page.parent.relative_to(REPOSITORY)))
        self.servers: list[subprocess.Popen[bytes]] = []

    def local(self, text: str) -> str:
        # A reader has one service; whoever runs the tests may have others.
        command = r"\bgunicorn-hot (upgrade|check|status|watch|abort|rollback|commit)\b(?! --pid)"
        text = re.sub(command, r'gunicorn-hot \1 --status-file "$HOME"/.run/gunicorn_hot/*.json', text)
        text = text.replace(".venv/bin/", "").replace("<pid of the master>", "$(cat hot.pid)")
        return re.sub(r"\b8000\b", str(self.port), text)

    def follow(self) -> None:
        for block in read(self.page):
            kind, _, rest = block.marker.partition(" ")
            assert kind in {"", "server", "status", "install", "see", "needs"}, block.marker
            if block.language == "console" and block.commands:
                getattr(self, f"_{kind or 'run'}")(block, rest)
            elif block.title.startswith("examples/"):
                assert block.text in (REPOSITORY / block.title).read_text(), f"not in {block.title}:\n{block.text}"
            elif block.title and not block.title.startswith("/") and not kind:
                path = self.folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.local(block.text))
            if block.language == "python" and not block.title.startswith("examples/"):
                compile(block.text, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    # What is done with a block.

    def _run(self, block: Block, _: str, status: int = 0) -> None:
        *others, last = block.commands
        for command, output in others:
            self._do(command, output)
        self._do(*last, status=status)

    def _status(self, block: Block, status: str) -> None:
        self._run(block, "", int(status))

    def _server(self, block: Block, where: str) -> None:
        before = self._folder()
        if where:
            self._do(f"cd {where.removeprefix('in ')}", "")
        for command, output in block.commands:
            if "gunicorn -c" in command:
                self._start(command)
            else:
                self._do(command, output)
        if where:
            self._do(f"cd {before}", "")

    def _start(self, command: str) -> None:
        self.leave()
        log = self.folder / f".server{len(self.servers)}"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.local(command)}"], cwd=self._folder(), env=self.env,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )
        self.servers.append(process)
        # A reader sees that it has started: what is written to the disk after that is the next release.
        until(lambda: self._serves() or process.poll() is not None, f"a service that serves\n{self.story()}", TIMEOUT)
        assert process.poll() is None, self.story()

    def _serves(self) -> bool:
        """Whether all workers serve, by the status file."""
        for path in self.folder.glob(".run/gunicorn_hot/*.json"):
            with suppress(StatusError):
                status = statusfile.read(str(path))
                return status.state == "serving" and not status.is_stale()
        return False

    def _install(self, block: Block, _: str) -> None:
        for command, output in block.commands:
            if command in (REPOSITORY / ".ci/run").read_text():
                continue
            for part in command.split(" && "):
                if match := re.fullmatch(r"(?:\S*/)?pip install (.*)", part):
                    self._is_installed(match[1])
                elif part.startswith(".venv/bin/gunicorn"):
                    self._do(part, output)
                else:
                    others = r"python3 -m venv \S+|\. \S+/bin/activate"
                    assert re.fullmatch(others, part), f"not an installation: {part}"

    def _is_installed(self, what: str) -> None:
        for word in re.findall(r"[^\s'\"]+", what):
            name, _, extra = word.rstrip("]").partition("[")
            if name not in {"-q", "--upgrade", "gunicorn_hot", ".", "/path/to/the/checkout"}:
                importlib.metadata.distribution(name)
            elif extra:
                assert re.search(rf"^{extra} =$", (REPOSITORY / "setup.cfg").read_text(), re.M), f"no extra: {word}"

    def _see(self, block: Block, test: str) -> None:
        text = (REPOSITORY / "tests" / test).read_text()
        for command, _ in block.commands:
            script = next(word for word in command.split() if word.endswith(".py"))
            assert Path(script).name in text, f"{script} is not in {test}"

    def _needs(self, block: Block, what: str) -> None:
        for command, _ in block.commands:
            assert command.split()[0] in ELSEWHERE, f"needs {what}, it is said, but could be run: {command}"
            for path in re.findall(r"examples/[\w./-]+", command):
                assert (REPOSITORY / path).exists(), f"no such file: {path}"

    def _do(self, command: str, output: str, status: int = 0) -> None:
        assert "pip install" not in command, f"to be marked as an installation: {command}"
        outcomes = self._outcomes()
        ended = subprocess.run(
            ["bash", "-c", f'{self.local(command)}\nstatus=$?; pwd > "$HOME/.folder"; exit $status'],
            cwd=self._folder(), env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False,
        )
        said = f"$ {command}\n{ended.stdout}"
        assert ended.returncode == status, f"status {ended.returncode}\n{said}{self.story()}"
        if output.strip():
            pattern = as_pattern(self.local(output))
            assert pattern.fullmatch(f"{ended.stdout.strip()}\n"), f"{said}--- expected\n{output}"
        if "kill -USR2" in command:
            # A reader looks at the log before the next command.
            until(lambda: self._outcomes() > outcomes, f"the end of the upgrade\n{self.story()}", TIMEOUT)

    def _folder(self) -> str:
        return (self.folder / ".folder").read_text().strip()

    def _outcomes(self) -> int:
        return len(re.findall(r"Upgrade: done|Upgrade failed", self.story()))

    def story(self) -> str:
        return "".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.folder.glob(".server*")))

    def leave(self) -> None:
        """Stop what was left running, and wait for its end."""
        for group in [process.pid for process in self.servers if not self._is_empty(process.pid)]:
            try:
                os.killpg(group, signal.SIGTERM)
                until(lambda group=group: self._is_empty(group), "the end of all processes after SIGTERM")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)

    def _is_empty(self, group: int) -> bool:
        """Whether a process group has no members; its dead are reaped, which are ours when their parents have left."""
        for process in self.servers:
            process.poll()
        with suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False


@contextmanager
def reader(page: Path, folder: Path, env: dict[str, str]) -> Iterator[Reader]:
    someone = Reader(page, folder, env)
    try:
        yield someone
    finally:
        someone.leave()


@pytest.fixture(scope="module")
def results(
    commands: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[Path, Future[None]]]:
    """Readers mostly wait for the probation of an upgrade: several read at the same time."""

    def follow(page: Path, folder: Path) -> None:
        with reader(page, folder, commands) as someone:
            someone.follow()

    wanted = {item.name for item in request.session.items}
    with ThreadPoolExecutor(4) as pool:
        yield {
            page: pool.submit(follow, page, tmp_path_factory.mktemp("page"))
            for page in PAGES if f"test_page[{name(page)}]" in wanted
        }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page(page: Path, results: dict[Path, Future[None]]) -> None:
    results[page].result()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Those to other files; MkDocs looks after anchors, within docs/."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


# --- the reference


def generate(*arguments: str, docs: Path = REPOSITORY / "docs") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, docs / "generate.py", *arguments], env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        check=False,
    )


def test_the_reference_is_what_the_code_says() -> None:
    ended = generate("--check")
    assert ended.returncode == 0, ended.stdout


def test_an_outdated_reference_is_seen_and_brought_up_to_date(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(REPOSITORY / "docs", docs)
    page = docs / "reference" / "settings.md"
    fine = page.read_text()
    page.write_text(fine.replace("Default: `60`", "Default: `61`"))
    ended = generate("--check", docs=docs)
    said = "docs/reference/settings.md is not what the code says; run: python docs/generate.py\n"
    assert (ended.returncode, ended.stdout) == (1, said)
    ended = generate(docs=docs)
    assert (ended.returncode, ended.stdout) == (0, "wrote docs/reference/settings.md\n")
    assert page.read_text() == fine


# --- the reader is not easily satisfied


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```console\n$ false\n```", "status 1"),
        ("```console\n$ echo release 2\nrelease 1\n```", "expected"),
        ("<!-- test: status 2 -->\n```console\n$ true\n```", "status 0"),
        ("<!-- test: needs systemd -->\n```console\n$ echo 1\n```", "could be run"),
        ("<!-- test: needs docker -->\n```console\n$ docker build examples/nothing\n```", "no such file"),
        ("<!-- test: install -->\n```console\n$ pip install gunicorn_hot[nothing]\n```", "no extra"),
        ("<!-- test: install -->\n```console\n$ pip install '/path/to/the/checkout[nothing]'\n```", "no extra"),
        ('```python title="examples/hot.conf.py"\nbind = "nowhere"\n```', "not in examples/hot.conf.py"),
        ("<!-- test: skip -->\n```console\n$ false\n```", "skip"),
    ],
)
def test_what_is_wrong_is_seen(text: str, complaint: str, tmp_path: Path, commands: dict[str, str]) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "folder"
    page.write_text(f"{text}\n")
    folder.mkdir()
    with reader(page, folder, commands) as someone, pytest.raises(AssertionError, match=complaint):
        someone.follow()
