"""What the reference says of settings, commands and the status file, taken from the code itself.

MkDocs calls `on_page_markdown` for each page; a line `<!-- generated: NAME -->` becomes what NAME's function returns.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import textwrap
from typing import Any

import gunicorn_hot
from gunicorn_hot import settings as hot_settings


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda match: _MAKERS[match[1]](), markdown, flags=re.M)


def settings() -> str:
    parts = []
    for setting in hot_settings._OURS.values():
        is_hook = callable(setting.default)
        default = "a function that does nothing" if is_hook else f"`{setting.default!r}`"
        parts.append(f"## `{setting.name}`\n\nDefault: {default}\n\n{textwrap.dedent(setting.desc).strip()}\n")
    return "\n".join(parts)


def commands() -> str:
    from gunicorn_hot.cli.parser import make_parser

    parser = make_parser(gunicorn_hot.__version__)
    parts = [_help(parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                parts.append(f"## `gunicorn-hot {name}`\n\n{_help(command)}")
    return "\n".join(parts)


def exit_codes() -> str:
    """The list in the command's own --help, as a table."""
    from gunicorn_hot.cli.parser import EXAMPLES

    rows = re.findall(r"^ +(\d+) +(.+)$", EXAMPLES.partition("Exit codes:")[2], re.M)
    assert rows, "gunicorn-hot --help lists no exit codes"
    return "\n".join(["| exit code | |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in rows)])


def _help(parser: argparse.ArgumentParser) -> str:
    # As wide as the page, and not as the terminal that builds it.
    wide = parser.formatter_class
    parser.formatter_class = lambda prog: wide(prog, max_help_position=28, width=100)  # type: ignore[assignment]
    return f"```text\n{parser.format_help().strip()}\n```\n"


def status() -> str:
    """Each class of status.py with its fields, types, and the comments above them."""
    from gunicorn_hot import status

    source = inspect.getsource(status)
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
        parts.append(f"## {name}\n\n{words}\n\n{table}\n")
    return "\n".join(parts)


def _comment(lines: list[str], number: int) -> str:
    """Return the comment "#: ..." above a line, on one."""
    words: list[str] = []
    while number and (line := lines[number - 1].strip()).startswith("#:"):
        words.insert(0, line.removeprefix("#:").strip())
        number -= 1
    return " ".join(words).replace("|", "\\|")


_MAKERS = {"settings": settings, "commands": commands, "exit_codes": exit_codes, "status": status}
