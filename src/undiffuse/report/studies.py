"""Studies as a page shows them, read from the folders that ``undiffuse study`` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.errors import UsageError
from undiffuse.report.wording import number
from undiffuse.sealed import read_sealed
from undiffuse.studies.kept import study_file

#: Numbers of a picture that are shown with it; all are in ``study.json``.
MOST_NUMBERS = 6


class StudyPicture(NamedTuple):
    """One picture of a study: its file, and what is said of it."""

    path: Path
    title: str
    caption: str
    numbers: list[tuple[str, str]]


class Study(NamedTuple):
    """One study: what it shows, and its pictures.

    Attributes:
        name: such as ``interpolation``.
        summary: in a line; may be "".
        weights_sha256: of the model that it looked at; "" where the study does not say.
        pictures: those whose files are there.
    """

    name: str
    summary: str
    weights_sha256: str
    pictures: list[StudyPicture]


def read_study(folder: Path) -> Study:
    """A study's folder: ``study.json``, ``README.md`` for the captions, and PNGs.

    Raises:
        UsageError: no study there, or a damaged one.
    """
    path = study_file(folder)
    content = read_sealed(path, "run the study again")
    pictures = content.get("pictures", {})
    try:
        entries = [(str(file), dict(facts)) for file, facts in pictures.items()] if isinstance(pictures, dict) else []
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); run the study again") from None
    captions = _captions(folder / "README.md")
    shown = [
        StudyPicture(folder / file, str(facts.get("title") or file), captions.get(file, ""), _numbers(facts))
        for file, facts in entries
        if Path(file).name == file and (folder / file).is_file()
    ]
    model = content.get("model")
    sha = str(model.get("weights_sha256") or "") if isinstance(model, Mapping) else ""
    return Study(str(content.get("study") or folder.name), str(content.get("summary") or ""), sha, shown)


def _captions(page: Path) -> dict[str, str]:
    """File name -> the paragraph below its picture, from the study's own page."""
    if not page.is_file():
        return {}
    blocks = [block.strip() for block in page.read_text(encoding="utf-8").split("\n\n")]
    pairs = zip(blocks, [*blocks[1:], ""], strict=True)
    return {
        picture.rsplit("](", 1)[1].removesuffix(")"): text
        for picture, text in pairs
        if picture.startswith("![") and picture.endswith(")") and not text.startswith(("#", "!", "Formula: "))
    }


def _numbers(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first single numbers of a picture, for people."""
    single = [
        (key.replace("_", " "), number(value))
        for key, value in facts.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    return single[:MOST_NUMBERS]
