"""Studies for a page, read from the folders that ``undiffuse study`` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.checksums import read_checked
from undiffuse.errors import UsageError
from undiffuse.reports.wording import number
from undiffuse.studies.study_file import study_file

#: Maximum number of a figure's values that are shown with it; all are in ``study.json``.
MAX_NUMBERS = 6


class SavedFigure(NamedTuple):
    """One figure of a study: its file, title, caption, and its first numbers."""

    path: Path
    title: str
    caption: str
    numbers: list[tuple[str, str]]


class Study(NamedTuple):
    """One study: its summary and its figures.

    Attributes:
        name: such as ``interpolation``.
        summary: one line; may be "".
        weights_sha256: of the model that was studied; "" if it is not recorded.
        figures: those whose files exist.
    """

    name: str
    summary: str
    weights_sha256: str
    figures: list[SavedFigure]


def read_study(folder: Path) -> Study:
    """Read a study's folder: ``study.json``, ``README.md`` for the captions, and PNGs.

    Raises:
        UsageError: the folder contains no study or a damaged one.
    """
    path = study_file(folder)
    content = read_checked(path, "run the study again")
    figures = content.get("pictures", {})  # data
    try:
        entries = [(str(file), dict(values)) for file, values in figures.items()] if isinstance(figures, dict) else []
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); run the study again") from None
    captions = _captions(folder / "README.md")
    shown = [
        SavedFigure(folder / file, str(values.get("title") or file), captions.get(file, ""), _numbers(values))
        for file, values in entries
        if Path(file).name == file and (folder / file).is_file()
    ]
    model = content.get("model")
    sha = str(model.get("weights_sha256") or "") if isinstance(model, Mapping) else ""
    return Study(str(content.get("study") or folder.name), str(content.get("summary") or ""), sha, shown)


def _captions(page: Path) -> dict[str, str]:
    """File name -> the paragraph below the figure in the study's page."""
    if not page.is_file():
        return {}
    blocks = [block.strip() for block in page.read_text(encoding="utf-8").split("\n\n")]
    pairs = zip(blocks, [*blocks[1:], ""], strict=True)
    return {
        figure.rsplit("](", 1)[1].removesuffix(")"): text
        for figure, text in pairs
        if figure.startswith("![") and figure.endswith(")") and not text.startswith(("#", "!", "Formula: "))
    }


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first scalar numbers of a figure, formatted."""
    scalars = [
        (key.replace("_", " "), number(value))
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    return scalars[:MAX_NUMBERS]
