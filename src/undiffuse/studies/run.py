"""A study of pictures from its name to its folder: which models it fits, its plates, its numbers, its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.files import write_json, write_text
from undiffuse.models.base import denoising
from undiffuse.models.saved import Model
from undiffuse.observer import SILENT, Observer
from undiffuse.registry import lookup, resolve
from undiffuse.sealed import sealed
from undiffuse.studies import MODEL_STUDIES
from undiffuse.studies.canvas import Plate, plain
from undiffuse.studies.pictures import PictureSubject
from undiffuse.version import __version__


def check_images(model: Model, study: str) -> None:
    """Refuse a study of pictures on a model of points, or one that asks a denoiser on a model without.

    Raises:
        UsageError: says which study fits.
    """
    if not model.module.space.is_image:
        raise UsageError(
            f"the study {study!r} is for pictures, this model makes points; 'undiffuse study theory MODEL' fits"
        )
    if lookup(MODEL_STUDIES, study, "study").denoises:
        denoising(model.module, f"the study {study!r}")


def run_study(
    name: str,
    subject: PictureSubject,
    folder: Path,
    options: Any = None,
    facts: Mapping[str, Any] | None = None,
    observer: Observer = SILENT,
) -> dict[str, Any]:
    """Write a study's pictures, ``study.json`` and ``README.md`` into ``folder``, which exists.

    Args:
        name: a row of ``MODEL_STUDIES``.
        options: of the study; its defaults if ``None``.
        facts: about the model, for the JSON's head.
        observer: hears of the work done, of all.
    Returns:
        The content of ``study.json``.
    """
    row = lookup(MODEL_STUDIES, name, "study")
    check_images(subject.model, name)
    options = options if options is not None else resolve(row.options)()
    plates: list[Plate] = resolve(row.run)(subject, options, folder, observer.progress)
    result = {
        "study": name,
        "summary": row.summary,
        **(facts or {}),
        "seed": subject.seed,
        "options": options.model_dump(mode="json"),
        "undiffuse": __version__,
        "pictures": {plate.file: {"title": plate.title, **plain(plate.numbers)} for plate in plates},
    }
    write_json(folder / "study.json", sealed(result))
    write_text(folder / "README.md", _page(name, row.summary, plates))
    return result


def _page(name: str, summary: str, plates: Sequence[Plate]) -> str:
    lines = [f"# {name}: {summary}", "", "Every number is in [study.json](study.json).", ""]
    for plate in plates:
        lines += [f"## {plate.title}", "", f"![{plate.title}]({plate.file})", "", plate.caption, ""]
        lines += [f"Formula: {plate.formula}.", "", f"Source: {plate.source}.", ""]
    return "\n".join(lines)
