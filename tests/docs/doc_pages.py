"""The pages of the documentation and what is in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = {"console", "bash", "sh"}


class Snippet(NamedTuple):
    """A fenced block: where it stands, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README and the other pages at the top, and everything in docs."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def snippets() -> list[Snippet]:
    """All fenced blocks of all pages."""
    return [
        Snippet(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for page in pages()
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCE.finditer(text)
    ]


def command_lines(snippet: Snippet) -> Iterator[list[str]]:
    """The words of each command of a shell block; lines that end in a backslash go on in the next."""
    for line in snippet.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def parse(command: Any, words: list[str]) -> tuple[str, dict[str, Any]]:
    """(name, parameters) of a command line, parsed by the program's own parser and not run."""
    name = ""
    while hasattr(command, "commands") and words:
        words = [word for word in words if word != "--debug"]
        name, command, words = words[0], command.commands[words[0]], words[1:]
    return name, command.make_context(name, list(words)).params
