"""``undiffuse study theory``: the figures of score-based diffusion, each compared with the exact distribution."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from undiffuse.checksums import with_checksum
from undiffuse.errors import UsageError
from undiffuse.files import write_json, write_text
from undiffuse.observer import SILENT, Observer
from undiffuse.registry import resolve
from undiffuse.studies.plots.plot_style import StudyFigure, plain
from undiffuse.studies.theory.context import TheoryContext
from undiffuse.studies.theory.ground_truth import TRUTHS
from undiffuse.version import __version__

#: The figures in order: name and the function (context, folder) -> StudyFigure, or None if it does not apply.
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
    """Pattern of the names of all files that the study writes."""
    return re.compile(rf"({'|'.join(FIGURES)})\.png|study\.json|README\.md")


def check_plane(shape: tuple[int, ...], source: str, name: str) -> None:
    """Check that the study 'theory' has an exact distribution for a model.

    Raises:
        UsageError: if it is a model of images, or of points with unknown density.
    """
    if shape != (2,):
        raise UsageError(
            f"the study 'theory' is for points in the plane, {name} generates items of shape {shape}; "
            "train one with 'undiffuse train flow-swissroll', or use exact:swissroll"
        )
    if source not in TRUTHS:
        raise UsageError(
            f"the study 'theory' needs data with a known density ({', '.join(TRUTHS)}), {name} was trained "
            f"on {source!r}"
        )


def study_theory(
    context: TheoryContext, folder: Path, record: dict[str, Any], observer: Observer = SILENT
) -> dict[str, Any]:
    """Write every figure, ``study.json`` and ``README.md`` into the existing ``folder``; return the JSON's content.

    Args:
        record: description of the model, at the start of the JSON.
        observer: receives the progress before each figure: the number done, the total, and the next figure's name.
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
    write_json(folder / "study.json", with_checksum(result))
    write_text(folder / "README.md", _page(context, figures))
    return result


def _page(context: TheoryContext, figures: list[StudyFigure]) -> str:
    comparison = (
        "The denoiser is exact, computed from the density of the data."
        if context.exact
        else "The model is compared with the exact scores and densities of its data, computed in closed form."
    )
    lines = [
        f"# {context.name}",
        "",
        f"{comparison} Every number is in [study.json](study.json).",
        "",
        "Coordinates: all processes are drawn at x_t / sqrt(alpha² + sigma²), noise is measured by r = sigma / alpha.",
        "",
    ]
    for figure in figures:
        lines += [f"## {figure.title}", "", f"![{figure.title}]({figure.file})", "", figure.caption, ""]
        lines += [f"Formula: {figure.formula}.", "", f"Source: {figure.source}.", ""]
    return "\n".join(lines)
