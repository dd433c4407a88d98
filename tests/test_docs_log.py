"""The log lines that the reference lists are lines that the code writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from server import REPOSITORY


def formats() -> Iterator[str]:
    """Each string of the package that could become a line, with %s for what is put in."""
    for path in REPOSITORY.glob("gunicorn_hot/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "%s" for part in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def as_pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"%(?:\\\.\d)?[sdfgr]", "(.*)", re.escape(text.strip())), re.S)


def is_written(line: str, patterns: list[re.Pattern[str]]) -> bool:
    # At least so much is not put in.
    return any(
        (match := pattern.fullmatch(line)) and len(line) - sum(len(group) for group in match.groups()) >= 8
        for pattern in patterns
    )


def test_each_line_is_one_of_the_code() -> None:
    page = (REPOSITORY / "docs/reference/log.md").read_text()
    lines = re.findall(r"^\| `(.+?)` \|", page, re.M)
    patterns = [as_pattern(first) for text in formats() if len(first := text.partition("\n")[0]) > 8]
    assert len(lines) > 20
    assert [line for line in lines if not is_written(line, patterns)] == []
    assert not is_written("Upgrade: under way", patterns)
