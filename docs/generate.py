#!/usr/bin/env python3
"""Bring the reference up to date: what it says of settings, commands and the status file is taken from the code itself.

    python docs/generate.py             # write it into the pages
    python docs/generate.py --check     # only say, by the exit status 1, if it is not what they have

In a page stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->` what NAME's function returns. It is the
same with each Python.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import gunicorn_hot  # noqa: E402 (it is in the folder above this one)
from gunicorn_hot import settings as hot_settings  # noqa: E402
from gunicorn_hot import status as hot_status  # noqa: E402
from gunicorn_hot.cli.parser import EXAMPLES, make_parser  # noqa: E402

_PART = re.compile(r"^<!-- generated: (\w+) -->\n(.*?)^<!-- end of \1 -->$", re.M | re.S)


def generated(page: str) -> str:
    """Return a page with what it should have between its marks."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- generated: {name} -->\n\n{_MAKERS[name]().strip()}\n\n<!-- end of {name} -->"

    return _PART.sub(part, page)


def settings() -> str:
    parts = []
    for setting in hot_settings._OURS.values():
        is_hook = callable(setting.default)
        default = "a function that does nothing" if is_hook else f"`{setting.default!r}`"
        parts.append(f"## `{setting.name}`\n\nDefault: {default}\n\n{textwrap.dedent(setting.desc).strip()}\n")
    return "\n".join(parts)


def commands() -> str:
    """The options of each command. Not argparse's own --help, which each Python writes in another way."""
    parser = make_parser(gunicorn_hot.__version__)
    [every] = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    common = {option.dest: option for option in _options(every["status"])}
    parts = ["## Every command but `demo`", _table(common.values())]
    for name, command in every.items():
        own = [option for option in _options(command) if option.dest not in common]
        parts += [f"## `gunicorn-hot {name}`", command.description, *([_table(own)] if own else [])]
    return "\n\n".join(parts)


def _table(options: Iterable[argparse.Action]) -> str:
    return "\n".join(["| option | |", "|---|---|", *(f"| {_names(option)} | {option.help} |" for option in options)])


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _names(option: argparse.Action) -> str:
    value = f" {option.metavar or option.dest.upper()}" if option.nargs != 0 else ""
    return ", ".join(f"`{name}{value}`" for name in option.option_strings)


def examples() -> str:
    lines = EXAMPLES.partition("Examples:\n")[2].partition("\n\n")[0]
    return f"```sh\n{textwrap.dedent(lines)}\n```"


def exit_codes() -> str:
    """The list in the command's own --help, as a table."""
    rows = re.findall(r"^ +(\d+) +(.+)$", EXAMPLES.partition("Exit codes:")[2], re.M)
    assert rows, "gunicorn-hot --help lists no exit codes"
    return "\n".join(["| exit code | |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in rows)])


def status() -> str:
    """Each class of status.py with its fields, types, and the comments above them."""
    source = inspect.getsource(hot_status)
    lines = source.splitlines()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    parts = []
    for name in ["Status", *(name for name in classes if name not in {"Status", "StatusError"})]:
        node = classes[name]
        words = ast.get_docstring(node) or ""
        rows = []
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                kind = ast.unparse(field.annotation).replace(" | ", " or ")
                for other in classes:
                    kind = re.sub(rf"\b{other}\b", f"[{other}](#{other.lower()})", kind)
                rows.append(f"| `{field.target.id}` | {kind} | {_comment(lines, field.lineno - 1)} |")
        table = "\n".join(["| field | type | |", "|---|---|---|", *rows])
        parts += [f"## {name}", words, table]
    return "\n\n".join(filter(None, parts))


def _comment(lines: list[str], number: int) -> str:
    """Return the comment "#: ..." above a line, on one."""
    words: list[str] = []
    while number and (line := lines[number - 1].strip()).startswith("#:"):
        words.insert(0, line.removeprefix("#:").strip())
        number -= 1
    return " ".join(words).replace("|", "\\|")


_MAKERS = {"settings": settings, "commands": commands, "examples": examples, "exit_codes": exit_codes, "status": status}


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring the reference up to date.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something should change")
    options = parser.parse_args()
    outdated = []
    for path in sorted(HERE.glob("**/*.md")):
        before = path.read_text()
        if (after := generated(before)) != before:
            outdated.append(path.relative_to(HERE.parent))
            if not options.check:
                path.write_text(after)
    for page in outdated:
        print(f"{page} is not what the code says; run: python docs/generate.py" if options.check else f"wrote {page}")
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
