"""The page of one run: its content and layout, written as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.errors import RunError
from undiffuse.files import write_text
from undiffuse.reports import curves, figures, images, metrics_table, wording
from undiffuse.reports.figures import Chart, Curve
from undiffuse.reports.material import ReportMaterial
from undiffuse.reports.studies import Study
from undiffuse.wording import count_noun

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 5_000_000
SEVERITIES = ("problem", "warning", "note", "ok")


def write_report(path: Path, material: ReportMaterial) -> Path:
    """Write the self-contained page of one run to ``path``.

    Raises:
        UsageError: the folder is not writable.
        RunError: the disk is full, or the page would be larger than 5 MB.
    """
    return write_page(path, render(material))


def write_page(path: Path, html: str) -> Path:
    """Write a page atomically, or raise RunError if it is too large."""
    size = len(html.encode())
    if size > MAX_BYTES:
        raise RunError(f"the report would take {size:,} bytes, expected at most {MAX_BYTES:,}; reduce its content")
    write_text(path, html)
    return path


def render(material: ReportMaterial) -> str:
    """The page of one run as text."""
    return fill("run.html.j2", _context(material))


def fill(template: str, context: Mapping[str, Any]) -> str:
    """A rendered template of this package; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def _context(material: ReportMaterial) -> dict[str, Any]:
    record, config = material.record, material.record.get("config", {})
    progress, metrics = (
        wording.progress_of(material.record, material.metrics_log),
        metrics_table.metrics_of(material.evaluation),
    )
    main = [metric for metric in metrics if not metric.part]
    return {
        "title": material.title,
        "headline": wording.headline(record, progress, [str(metric) for metric in main[:3]]),
        "tiles": _tiles(material, progress, main),
        "metrics": metrics,
        "conclusions": metrics_table.conclusions_of(material.evaluation),
        "findings": findings_of(material.findings),
        "glance": wording.glance(config),
        "settings": list(wording.flattened(config)),
        "class_names": wording.classes_of(record),
        "reproduce": material.reproduce,
        "commands": dict(material.commands),
        "footer": footer_of(material),
        "items": wording.items_of(record),
        "filmstrip_shows": material.filmstrip_shows,
        "studies": shown_studies([(study, study_note(study, material.evaluation)) for study in material.studies]),
        **_embedded(material),
        **_charts(material),
        **_schedule(material),
    }


def findings_of(findings: Sequence[Mapping[str, Any]] | None) -> list[dict[str, str]] | None:
    """The doctor's findings, worst first; ``None`` if it was not run."""
    if findings is None:
        return None
    keys = ("severity", "title", "evidence", "advice")
    rows = [{key: str(row.get(key) or "") for key in keys} for row in findings]
    for row in rows:
        row["severity"] = row["severity"] if row["severity"] in SEVERITIES else "note"
    return sorted(rows, key=lambda row: SEVERITIES.index(row["severity"]))


def _tiles(
    material: ReportMaterial, progress: wording.Progress, metrics: list[metrics_table.Metric]
) -> list[tuple[str, str, str]]:
    """Title, number and note of the boxes at the top."""
    items = wording.items_of(material.record)
    tiles = [(f"{items} seen", f"{progress.images:,}" if progress.images else "not recorded", "")]
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


def _embedded(material: ReportMaterial) -> dict[str, Any]:
    limit = images.limit_of(material.data) if material.points else 0.0
    labels, strip = list(material.filmstrip_labels), material.filmstrip
    return {
        "points": material.points,
        "samples": images.image_grid(material.samples, "Samples of the model", limit)
        if len(material.samples)
        else None,
        "real": images.image_grid(material.data, "Real data", limit) if len(material.data) else None,
        "augmentation": images.prepared_grid(material.augmentation, "Augmented training images"),
        "augmentation_columns": wording.count_noun(material.augmentation_columns),
        "frames": images.frames(strip, labels, limit) if strip is not None and strip.shape[1] else [],
        "previews": images.previews(material.previews) if material.previews is not None else [],
    }


def _charts(material: ReportMaterial) -> dict[str, Any]:
    metrics_log, items = material.metrics_log, wording.items_of(material.record)
    losses, sides = curves.loss_curves(metrics_log), curves.side_curves(metrics_log)
    epoch, qualities = epoch_of(material.record), curves.quality_curves(metrics_log)
    return {
        "loss": figures.chart(losses, f"Loss over {items} seen", "loss", epoch=epoch),
        "has_validation": any(line.label.startswith("validation") for line in losses),
        "sides": _small(sides, items),
        "quality": {
            title: figures.chart([line], f"{title} over {items} seen, with standard errors", title, epoch=epoch)
            for title, line in qualities.items()
        },
        "quality_counts": quality_counts(metrics_log),
        "has_epochs": epoch is not None,
        "drift": [
            (title, figures.chart(lines, f"{title} over {items} seen", title, figures.MEDIUM, log=False))
            for title, lines in curves.drift_curves(metrics_log, material.points).items()
        ],
    }


def _small(sides: Mapping[str, Curve], items: str) -> list[tuple[str, Chart | None]]:
    return [
        (title, figures.chart([line], f"{title} over {items} seen", title, figures.SMALL, from_zero=True))
        for title, line in sides.items()
    ]


def epoch_of(record: Mapping[str, Any]) -> float | None:
    """Number of items of an epoch, if known."""
    count = wording.dig(record, "data.train")
    return float(count) if isinstance(count, int) and count > 0 else None


def quality_counts(metrics_log: Sequence[Mapping[str, Any]]) -> str:
    """``200 samples against 1,596 training items`` for the last measurement; "" without measurements."""
    row: Mapping[str, Any] = next((row for row in reversed(metrics_log) if row.get("kind") == "quality"), {})
    samples, reference = row.get("samples"), row.get("reference")
    if not isinstance(samples, int) or not isinstance(reference, int):
        return ""
    return f"{count_noun(samples, 'sample')} against {reference:,} training items"


def _schedule(material: ReportMaterial) -> dict[str, Any]:
    schedule = material.schedule
    if schedule is None:
        return {"schedule": None, "schedule_note": ""}
    charts = [
        (title, "time t: 0 is data, 1 is noise", figures.chart(lines, f"{title} over time", title, figures.MEDIUM))
        for title, lines in curves.time_curves(schedule).items()
    ]
    charts += [
        (title, "log-SNR: noise on the left, data on the right", _level_chart(title, lines))
        for title, lines in curves.level_curves(schedule).items()
    ]
    return {"schedule": charts, "schedule_note": schedule.note}


def _level_chart(title: str, lines: Sequence[Curve]) -> Chart | None:
    """A density or a weight with an axis from 0, or a weight of large range on a logarithmic axis."""
    log = title == curves.WEIGHT and figures.needs_log_axis(lines)
    label, size = f"{title} over the log-SNR", figures.MEDIUM
    return figures.chart(lines, label, title, size, from_zero=not log, x_from_zero=False, log=log)


def study_note(study: Study, evaluation: Mapping[str, Any] | None) -> str:
    """A note if a study used other weights than the evaluation of the same page."""
    measured = wording.dig(evaluation, "model.weights_sha256")
    if measured and study.weights_sha256 and measured != study.weights_sha256:
        return "This study used other weights than the metrics."
    return ""


def shown_studies(studies: Sequence[tuple[Study, str]]) -> list[dict[str, Any]]:
    """Studies with their figures embedded, all within one budget."""
    wanted = [(shown.path, f"{study.name}: {shown.title}") for study, _ in studies for shown in study.figures]
    embedded = iter(images.study_figures(wanted))
    return [
        {
            "name": study.name,
            "summary": study.summary,
            "note": note,
            "figures": [(shown, image) for shown in study.figures if (image := next(embedded)) is not None],
        }
        for study, note in studies
    ]


def footer_of(material: ReportMaterial) -> list[tuple[str, str]]:
    """Versions, hardware and the identity of the data."""
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
