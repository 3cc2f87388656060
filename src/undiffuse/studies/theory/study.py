"""``undiffuse study theory``: the figures of score-based diffusion, each compared with the exact truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.files import write_json, write_text
from undiffuse.observer import SILENT, Observer
from undiffuse.registry import resolve
from undiffuse.sealed import sealed
from undiffuse.studies.plots.plot_style import StudyFigure, plain
from undiffuse.studies.theory.context import TheoryContext
from undiffuse.studies.theory.ground_truth import TRUTHS
from undiffuse.version import __version__

#: The figures in their order: name and the function (context, folder) -> StudyFigure, or None if it shows nothing.
FIGURES: dict[str, str] = {
    "forward": "undiffuse.studies.theory.trajectories:forward_strip",
    "scores": "undiffuse.studies.theory.scores:score_fields",
    "fisher": "undiffuse.studies.theory.scores:fisher_by_level",
    "low_density": "undiffuse.studies.theory.scores:low_density",
    "filmstrip": "undiffuse.studies.theory.trajectories:filmstrips",
    "trajectories": "undiffuse.studies.theory.trajectories:trajectories",
    "samplers": "undiffuse.studies.theory.trajectories:cost_and_quality",
    "likelihood": "undiffuse.studies.theory.likelihood:likelihood_map",
}


def own_files() -> re.Pattern[str]:
    """The names of all files that the study writes."""
    return re.compile(rf"({'|'.join(FIGURES)})\.png|study\.json|README\.md")


def check_plane(shape: tuple[int, ...], source: str, name: str) -> None:
    """Refuse a model that the study 'theory' has no exact truth for.

    Raises:
        UsageError: a model of images, or of points whose density is not known.
    """
    if shape != (2,):
        raise UsageError(
            f"the study 'theory' is for points in the plane, {name} makes items of shape {shape}; "
            "train one with 'undiffuse train flow-swissroll', or take exact:swissroll"
        )
    if source not in TRUTHS:
        raise UsageError(
            f"the study 'theory' needs data with a known density ({', '.join(TRUTHS)}), {name} was trained "
            f"on {source!r}"
        )


def study_theory(
    context: TheoryContext, folder: Path, record: dict[str, Any], observer: Observer = SILENT
) -> dict[str, Any]:
    """Write every figure, ``study.json`` and ``README.md`` into ``folder``, which exists; returns the JSON's content.

    Args:
        record: of the model, at the head of the JSON.
        observer: learns before each figure how many are done, of how many, and the name of the next.
    """
    figures: list[StudyFigure] = []
    for number, (name, row) in enumerate(FIGURES.items()):
        observer.progress(number, len(FIGURES), name)
        figure: StudyFigure | None = resolve(row)(context, folder)
        if figure is not None:
            figures.append(figure)
    result = {
        "study": "theory",
        "subject": context.name,
        **record,
        "seed": context.seed,
        "points": context.num,
        "undiffuse": __version__,
        "pictures": {figure.file: {"title": figure.title, **plain(figure.numbers)} for figure in figures},  # data
    }
    write_json(folder / "study.json", sealed(result))
    write_text(folder / "README.md", _page(context, figures))
    return result


def _page(context: TheoryContext, figures: list[StudyFigure]) -> str:
    comparison = (
        "Its denoiser is the exact one, computed from the data's density."
        if context.exact
        else "The model is compared with the exact scores and densities of its data, computed in closed form."
    )
    lines = [
        f"# {context.name}",
        "",
        f"{comparison} Every number is in [study.json](study.json).",
        "",
        "Coordinates: all processes are drawn at x_t / sqrt(alpha² + sigma²), noise is counted by r = sigma / alpha.",
        "",
    ]
    for figure in figures:
        lines += [f"## {figure.title}", "", f"![{figure.title}]({figure.file})", "", figure.caption, ""]
        lines += [f"Formula: {figure.formula}.", "", f"Source: {figure.source}.", ""]
    return "\n".join(lines)
