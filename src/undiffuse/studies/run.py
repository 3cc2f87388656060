"""Runs a study of an image model and writes its figures, numbers and page into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.checksums import with_checksum
from undiffuse.errors import UsageError
from undiffuse.files import write_json, write_text
from undiffuse.models.base import denoising
from undiffuse.models.saved import Model
from undiffuse.observer import SILENT, Observer
from undiffuse.registry import lookup, resolve
from undiffuse.studies import MODEL_STUDIES
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.plots.plot_style import StudyFigure, plain
from undiffuse.version import __version__


def check_model(model: Model, study: str) -> None:
    """Check that a study of images can be run on this model.

    Raises:
        UsageError: if the model generates points, or has no denoiser and the study needs one.
    """
    if not model.module.space.is_image:
        raise UsageError(
            f"the study {study!r} is for images, this model generates points; use 'undiffuse study theory MODEL'"
        )
    if lookup(MODEL_STUDIES, study, "study").denoises:
        denoising(model.module, f"the study {study!r}")


def run_study(
    name: str,
    context: ImageStudyContext,
    folder: Path,
    options: Any = None,
    record: Mapping[str, Any] | None = None,
    observer: Observer = SILENT,
) -> dict[str, Any]:
    """Write a study's figures, ``study.json`` and ``README.md`` into the existing ``folder``.

    Args:
        name: a key of ``MODEL_STUDIES``.
        options: of the study; its defaults if ``None``.
        record: description of the model, at the start of the JSON.
        observer: receives the progress.
    Returns:
        The content of ``study.json``.
    """
    row = lookup(MODEL_STUDIES, name, "study")
    check_model(context.model, name)
    options = options if options is not None else resolve(row.options)()
    figures: list[StudyFigure] = resolve(row.run)(context, options, folder, observer.progress)
    result = {
        "study": name,
        "summary": row.summary,
        **(record or {}),
        "seed": context.seed,
        "options": options.model_dump(mode="json"),
        "undiffuse": __version__,
        "pictures": {figure.file: {"title": figure.title, **plain(figure.numbers)} for figure in figures},  # data
    }
    write_json(folder / "study.json", with_checksum(result))
    write_text(folder / "README.md", _page(name, row.summary, figures))
    return result


def _page(name: str, summary: str, figures: Sequence[StudyFigure]) -> str:
    lines = [f"# {name}: {summary}", "", "Every number is in [study.json](study.json).", ""]
    for figure in figures:
        lines += [f"## {figure.title}", "", f"![{figure.title}]({figure.file})", "", figure.caption, ""]
        lines += [f"Formula: {figure.formula}.", "", f"Source: {figure.source}.", ""]
    return "\n".join(lines)
