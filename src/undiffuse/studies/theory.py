"""``undiffuse study theory``: the pictures of score-based diffusion made by code, each beside the exact truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.files import write_json, write_text
from undiffuse.observer import SILENT, Observer
from undiffuse.registry import resolve
from undiffuse.sealed import sealed
from undiffuse.studies.canvas import Plate, plain
from undiffuse.studies.subject import Subject
from undiffuse.studies.truth import TRUTHS
from undiffuse.version import __version__

#: The pictures in their order: name and the function (subject, folder) -> Plate, or None where it would show nothing.
PLATES: dict[str, str] = {
    "forward": "undiffuse.studies.paths:forward_strip",
    "scores": "undiffuse.studies.scores:score_fields",
    "fisher": "undiffuse.studies.scores:fisher_by_level",
    "low_density": "undiffuse.studies.scores:low_density",
    "filmstrip": "undiffuse.studies.paths:filmstrips",
    "trajectories": "undiffuse.studies.paths:trajectories",
    "samplers": "undiffuse.studies.paths:cost_and_quality",
    "likelihood": "undiffuse.studies.likelihood:likelihood_map",
}


def own_files() -> re.Pattern[str]:
    """The names of all files that the study writes."""
    return re.compile(rf"({'|'.join(PLATES)})\.png|study\.json|README\.md")


def check_plane(shape: tuple[int, ...], source: str, name: str) -> None:
    """Refuse a model that the study of theory cannot set beside a truth.

    Raises:
        UsageError: a model of pictures, or of points whose density is not known.
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


def study_theory(subject: Subject, folder: Path, facts: dict[str, Any], observer: Observer = SILENT) -> dict[str, Any]:
    """Write every picture, ``study.json`` and ``README.md`` into ``folder``, which exists; returns the JSON's content.

    Args:
        facts: about the model, for the JSON's head.
        observer: hears before each picture of those done, of all, and the name of the next.
    """
    plates: list[Plate] = []
    for number, (name, row) in enumerate(PLATES.items()):
        observer.progress(number, len(PLATES), name)
        plate: Plate | None = resolve(row)(subject, folder)
        if plate is not None:
            plates.append(plate)
    result = {
        "study": "theory",
        "subject": subject.name,
        **facts,
        "seed": subject.seed,
        "points": subject.num,
        "undiffuse": __version__,
        "pictures": {plate.file: {"title": plate.title, **plain(plate.numbers)} for plate in plates},
    }
    write_json(folder / "study.json", sealed(result))
    write_text(folder / "README.md", _page(subject, plates))
    return result


def _page(subject: Subject, plates: list[Plate]) -> str:
    compared = (
        "Its denoiser is the exact one, computed from the data's density."
        if subject.exact
        else "The model is set beside the exact scores and densities of its data, computed in closed form."
    )
    lines = [
        f"# {subject.name}",
        "",
        f"{compared} Every number is in [study.json](study.json).",
        "",
        "Coordinates: all processes are drawn at x_t / sqrt(alpha² + sigma²), noise is counted by r = sigma / alpha.",
        "",
    ]
    for plate in plates:
        lines += [f"## {plate.title}", "", f"![{plate.title}]({plate.file})", "", plate.caption, ""]
        lines += [f"Formula: {plate.formula}.", "", f"Source: {plate.source}.", ""]
    return "\n".join(lines)
