"""Files of prompts: one per line, or one JSON object per line. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.errors import UsageError
from undiffuse.models.prompts import requested_texts as requested_texts  # re-exported for the command

#: Largest file.
_MOST_BYTES = 64 * 2**20
_KEYS = ("prompt", "negative")


class FilePrompts(NamedTuple):
    """The prompts of a file.

    Attributes:
        texts: one per line.
        negatives: one per prompt; empty if the file has none.
    """

    texts: list[str]
    negatives: list[str]


def read_prompts(path: str | Path) -> FilePrompts:
    """Read a file of prompts in UTF-8: a text per line, or a JSON object with ``prompt`` and ``negative``.

    Empty lines, and lines that start with ``#``, are left out.

    Args:
        path: the file; of JSON objects if its name ends in ``.jsonl``.
    Raises:
        UsageError: a file that cannot be read, is not UTF-8 or has no prompts, or a line that is not such an object.
    """
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{file} has {file.stat().st_size:,} bytes; a file of prompts has at most {_MOST_BYTES:,}")
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the prompts of {file} ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not a text in UTF-8; save it as UTF-8, a prompt per line") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    kept = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not kept:
        raise UsageError(f"{file} has no prompts; write one per line")
    if file.suffix.lower() != ".jsonl":
        return FilePrompts([line for _, line in kept], [])
    rows = [_parsed(line, f"{file}, line {number}") for number, line in kept]
    negatives = [row.get("negative", "") for row in rows]
    return FilePrompts([row["prompt"] for row in rows], negatives if any(negatives) else [])


def requested_prompts(
    prompt: Sequence[str] | None, negative: Sequence[str] | None, path: Path | None
) -> tuple[list[str] | None, list[str] | None]:
    """The prompts and negative prompts of a command line; None for none.

    Args:
        prompt, negative: texts of the command line.
        path: a file of prompts, instead of ``prompt``; negatives on the command line replace those in the file.
    Raises:
        UsageError: both are given, or the file is invalid.
    """
    if path is None:
        return list(prompt or []) or None, list(negative or []) or None
    if prompt:
        raise UsageError("--prompt and --prompt-file are both given; leave one out")
    read = read_prompts(path)
    return read.texts, list(negative or read.negatives) or None


def _parsed(line: str, where: str) -> dict[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    valid = isinstance(row, dict) and "prompt" in row and all(key in _KEYS for key in row)
    if not valid or not all(isinstance(value, str) for value in row.values()):
        raise UsageError(f'{where}: expected {{"prompt": "...", "negative": "..."}}, got {line[:80]!r}')
    return {key: str(value) for key, value in row.items()}
