"""The page itself: what goes where, and its one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undiffuse.errors import RunError
from undiffuse.files import write_text
from undiffuse.report import figures, measures, pictures, wording
from undiffuse.report.material import ReportMaterial

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 5_000_000


def write_report(run: Path, samples: ReportMaterial) -> Path:
    """Write ``run/report.html``: one page that shows a run and needs nothing but itself.

    Args:
        run: the run's folder; ``previews/*.png`` in it are shown where there are any.
        samples: what to show, samples first of all.

    Returns:
        The path of the page.

    Raises:
        UsageError: the folder may not be written to.
        RunError: the disk is full, or the page would be larger than 5 MB.
    """
    html = render(samples, run / "previews")
    size = len(html.encode())
    if size > MOST_BYTES:
        raise RunError(f"the report would take {size:,} bytes, expected at most {MOST_BYTES:,}; give it less to show")
    path = run / "report.html"
    write_text(path, html)
    return path


def render(material: ReportMaterial, previews: Path | None = None) -> str:
    """The page as text; ``previews`` is a folder of pictures made while training."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("run.html.j2").render(**_context(material, previews))


def _context(material: ReportMaterial, previews: Path | None) -> dict[str, Any]:
    record, config = material.record, material.record.get("config", {})
    progress, metrics = wording.progress_of(material.journal), measures.metrics_of(material.evaluation)
    main = [metric for metric in metrics if not metric.part]
    return {
        "title": config.get("recipe") or "run",
        "headline": wording.headline(record, progress, [str(metric) for metric in main[:3]]),
        "tiles": _tiles(material, progress, main),
        "metrics": metrics,
        "glance": wording.glance(config),
        "settings": list(wording.flattened(config)),
        "class_names": wording.classes_of(record),
        "commands": dict(material.commands),
        "footer": _footer(material),
        "items": wording.items_of(record),
        "filmstrip_shows": material.filmstrip_shows,
        **_pictures(material, previews),
        **_plots(material),
    }


def _tiles(
    material: ReportMaterial, progress: wording.Progress, metrics: list[measures.Metric]
) -> list[tuple[str, str, str]]:
    """Title, figure and small print of the boxes at the top."""
    items = wording.items_of(material.record)
    tiles = [(f"{items} seen", f"{progress.images:,}", "")]
    if progress.seconds is not None:
        rate = f"{progress.images / progress.seconds:,.0f} {items}/s" if progress.seconds else ""
        tiles.append(("Training time", wording.duration(progress.seconds), rate))
    if progress.loss is not None:
        raw = f"{wording.number(progress.loss_raw)} with raw weights" if progress.loss_raw is not None else ""
        tiles.append(("Validation loss", wording.number(progress.loss), raw))
    for metric in metrics[: 5 - len(tiles)]:
        small = " ".join(
            part for part in (f"± {metric.uncertainty}" if metric.uncertainty else "", metric.unit) if part
        )
        tiles.append((metric.name, metric.value, small))
    return tiles


def _pictures(material: ReportMaterial, previews: Path | None) -> dict[str, Any]:
    limit = pictures.limit_of(material.data) if material.points else 0.0
    labels, strip = list(material.filmstrip_labels), material.filmstrip
    return {
        "points": material.points,
        "samples": pictures.sheet(material.samples, "Samples of the model", limit) if len(material.samples) else None,
        "real": pictures.sheet(material.data, "Real data", limit) if len(material.data) else None,
        "frames": pictures.frames(strip, labels, limit) if strip is not None and strip.shape[1] else [],
        "previews": pictures.previews(previews) if previews is not None else [],
    }


def _plots(material: ReportMaterial) -> dict[str, Any]:
    from markupsafe import Markup  # jinja2's own; what it marks is drawn here and holds no text of the user's

    losses = figures.loss_curves(material.journal)
    sides = figures.side_curves(material.journal)
    return {
        "loss_wide": Markup(figures.plot(losses, figures.WIDE)) if losses else None,
        "loss_narrow": Markup(figures.plot(losses, figures.NARROW)) if losses else None,
        "loss_keys": [(one.label, figures.VARIABLES[one.colour]) for one in losses],
        "has_validation": any(one.label.startswith("validation") for one in losses),
        "log_loss": bool(losses) and figures.wants_log(losses),
        "sides": {title: Markup(figures.plot([one], figures.SMALL, from_zero=True)) for title, one in sides.items()},
    }


def _footer(material: ReportMaterial) -> list[tuple[str, str]]:
    """Versions, hardware and what identifies the data."""
    data, config = material.record.get("data", {}), material.record.get("config", {})
    counts = [f"{data[key]:,} {key}" for key in ("train", "validation") if isinstance(data.get(key), int)]
    lines = {
        "undiffuse": material.version,
        "Hardware": material.hardware,
        "Data": ", ".join([str(wording.dig(config, "data.name") or ""), *counts]).strip(", "),
        "Data fingerprint": str(data.get("fingerprint") or ""),
        "Config format": str(material.record.get("format_version") or ""),
    }
    return [(title, text) for title, text in lines.items() if text]
