"""Every snippet of the pages runs, and every command line is one that the program takes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import ROOT, SHELLS, Snippet, command_lines, parse, snippets

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.cli.main import app
from undiffuse.core.processes import make_process
from undiffuse.evaluation import METRICS
from undiffuse.metrics import FEATURES
from undiffuse.recipes import get_recipe
from undiffuse.registry import lookup
from undiffuse.samplers import make_sampler
from undiffuse.samplers.grids import GRIDS

ALL = snippets()
#: Those of the guide on extending run on sources that its patches changed, see ``test_extending``.
PYTHON = [snippet for snippet in ALL if snippet.language == "python" and snippet.page.name != "extending.md"]
SHELL = [snippet for snippet in ALL if snippet.language in SHELLS]


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_python_runs(snippet: Snippet, in_workplace: Path) -> None:
    code = compile("\n" * snippet.line + snippet.text, str(snippet.page), "exec")
    exec(code, {"__name__": "snippet"})


@pytest.mark.parametrize("snippet", SHELL, ids=str)
def test_command_lines_are_taken(snippet: Snippet) -> None:
    for words in command_lines(snippet):
        if words[0] in ("undiffuse", ".venv/bin/undiffuse"):
            check_command(words[1:])
        elif words[0] == "make":
            check_targets(words[1:])
        else:
            assert words[0] in ("git", "cd", "python", "source"), words


@cache
def program() -> Any:
    """The parser of the command line, built once for all the lines."""
    return typer.main.get_command(app)


def check_command(words: list[str]) -> None:
    """The parser takes it, and every name in it exists; folders named on the line need not."""
    if words[:1] in (["--help"], ["--version"]):
        return
    name, params = parse(program(), words)
    if name == "train" and params["recipe"] is not None and "=" not in params["recipe"]:  # else data chooses it
        apply_overrides(get_recipe(params["recipe"]), params["overrides"] or [])
    if params.get("sampler") is not None:
        make_sampler(params["sampler"])
    if params.get("process") is not None:
        make_process(params["process"])
    if params.get("grid") is not None and name != "info":  # there it is the file of an image grid
        lookup(GRIDS, params["grid"].partition(":")[0], "time grid")
    if params.get("features") not in (None, "auto"):
        lookup(FEATURES, params["features"], "features")
    for metric in (params.get("metrics") or "").split(","):
        assert not metric or metric in METRICS


def check_targets(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        assert "=" in word or re.search(rf"^{word}:", makefile, re.MULTILINE), f"no target {word!r}"


def test_blocks_report_their_language() -> None:
    for snippet in ALL:
        assert snippet.language, f"{snippet}: write ```python, ```console, ```text or ```json"


def test_there_is_something_to_test() -> None:
    assert len(PYTHON) >= 5
    assert len(SHELL) >= 5
