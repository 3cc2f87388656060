"""The page that compares several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.reports import curves, figures, images, metrics_table, ranking, wording
from undiffuse.reports.figures import RUN_COLOURS, VARIABLES, Chart
from undiffuse.reports.material import ReportMaterial
from undiffuse.reports.page import epoch_of, fill, shown_studies, study_note, write_page

#: Settings that determine which quantity the loss is.
LOSS_KEYS = ("system.parameterization", "system.weighting", "system.objective", "system.time_density", "system.process")
#: Settings that are not listed as differences.
IGNORED = ("recipe",)
_DASH = "–"


class Cell(NamedTuple):
    """A number of one run and its error."""

    value: str
    uncertainty: str


class Line(NamedTuple):
    """One metric over all runs; ``differs`` names the protocol entries that are not equal for all runs."""

    name: str
    small: str
    cells: list[Cell]
    part: bool
    differs: str


def write_comparison(path: Path, materials: Sequence[ReportMaterial]) -> Path:
    """Write the page of several runs to ``path``.

    Raises:
        UsageError: the folder is not writable.
        RunError: the disk is full, or the page would be larger than 5 MB.
    """
    return write_page(path, render_comparison(materials))


def render_comparison(materials: Sequence[ReportMaterial]) -> str:
    """The page of several runs as text, with a column per run in the given order."""
    names = [material.title for material in materials]
    metrics = metric_lines(materials)
    return fill(
        "compare.html.j2",
        {
            "title": ", ".join(names[:-1]) + f" and {names[-1]}",
            "names": names,
            "variables": [VARIABLES[RUN_COLOURS[number % len(RUN_COLOURS)]] for number in range(len(names))],
            "remarks": notes(materials),
            "overview": overview(materials),
            **_ranking(materials, names),
            "metrics": metrics,
            "differences": config_differences([material.record.get("config", {}) for material in materials]),
            "commands": [(material.title, material.reproduce) for material in materials],
            "studies": shown_studies(_studies(materials)),
            "footer": [(key, text) for key, text in _footer(materials) if text],
            "samples": _samples(materials),
            "real": _real(materials),
            **_charts(materials),
        },
    )


def _ranking(materials: Sequence[ReportMaterial], names: Sequence[str]) -> dict[str, Any]:
    ranked = ranking.rank_runs(materials)
    return {
        "ranked": ranked,
        "ranking": ranking.summary(ranked, names),
        "unequal": ranking.unequal_training(materials) if ranked else "",
        "collapsed": [
            f"{material.title} has {conclusion.text}"
            for material in materials
            for conclusion in metrics_table.conclusions_of(material.evaluation)
            if conclusion.about == "modes" and conclusion.bad
        ],
    }


def notes(materials: Sequence[ReportMaterial]) -> list[str]:
    """Limits of the comparison: different shapes, different data, or losses that are not the same quantity."""
    shapes = {str(wording.dig(material.record, "model.shape")): material.record for material in materials}
    remarks = []
    if len(shapes) > 1:
        sizes = ", ".join(_size(record) for record in shapes.values())
        remarks.append(
            f"These runs generate items of different shapes ({sizes}): their losses and distances are not comparable."
        )
    elif len({str(wording.dig(material.record, "data.fingerprint")) for material in materials}) > 1:
        remarks.append("These runs were trained on different data: their losses and distances are not comparable.")
    configs = [material.record.get("config", {}) for material in materials]
    if not remarks and any(len({str(wording.dig(config, key)) for config in configs}) > 1 for key in LOSS_KEYS):
        remarks.append(
            "Process, prediction or weighting differ, so the losses are not the same quantity: compare the shapes of "
            "their curves, and the runs by their metrics."
        )
    return [*remarks, *_storage_differences(materials)]


def _storage_differences(materials: Sequence[ReportMaterial]) -> list[str]:
    """Remarks if only the images of some runs had transparency or more than 8 bits; unknown runs are skipped."""
    known = [
        (material.title, found)
        for material in materials
        if (found := wording.dig(material.record, "data.stored_with")) is not None
    ]
    remarks = []
    for key in dict.fromkeys(key for _, found in known for key in found):
        having = [f"{title} was trained on {found[key]}" for title, found in known if key in found]
        lacking = [title for title, found in known if key not in found]
        if lacking:
            remarks.append(f"{'; '.join(having)}; the images of {' and '.join(lacking)} had none.")
    return remarks


def _size(record: Mapping[str, Any]) -> str:
    shape = wording.dig(record, "model.shape") or []
    return wording.size_of(shape) if wording.is_image(shape) else "points"


def overview(materials: Sequence[ReportMaterial]) -> list[tuple[str, list[str]]]:
    """Properties of each run, one per line with a column per run; lines without any value are left out."""
    progress = [wording.progress_of(material.record, material.metrics_log) for material in materials]
    rows = [
        ("Recipe", [str(wording.dig(material.record, "config.recipe") or _DASH) for material in materials]),
        ("Data", [str(wording.dig(material.record, "config.data.name") or _DASH) for material in materials]),
        ("Seen", [f"{run.images:,}" if run.images else _DASH for run in progress]),
        ("Training time", [_DASH if run.seconds is None else wording.duration(run.seconds) for run in progress]),
        ("Validation loss", [_DASH if run.loss is None else wording.number(run.loss) for run in progress]),
    ]
    if any(material.findings for material in materials):
        rows.append(("The doctor found", [_doctor_line(material.findings) for material in materials]))
    glances = [dict(wording.glance(material.record.get("config", {}))) for material in materials]
    for title in dict.fromkeys(title for glance in glances for title in glance):
        rows.append((title, [glance.get(title, _DASH) for glance in glances]))
    return [(title, cells) for title, cells in rows if set(cells) != {_DASH}]


def _doctor_line(findings: Sequence[Mapping[str, Any]] | None) -> str:
    """``1 problem, 2 warnings``; a dash if the doctor was not run."""
    if findings is None:
        return _DASH
    counts = {kind: sum(row.get("severity") == kind for row in findings) for kind in ("problem", "warning", "note")}
    count_noun = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return ", ".join(count_noun) or "no problem"


def metric_lines(materials: Sequence[ReportMaterial]) -> list[Line]:
    """Every metric that any run was evaluated with, in the order in which they first appear."""
    tables = [
        {metric.name: metric for metric in metrics_table.metrics_of(material.evaluation)} for material in materials
    ]
    lines = []
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [table[name] for table in tables if name in table]
        cells = [
            Cell(table[name].value, table[name].uncertainty) if name in table else Cell(_DASH, "") for table in tables
        ]
        small = ", ".join(text for text in (found[0].unit, found[0].better) if text)
        lines.append(
            Line(name, small, cells, found[0].part, ranking.differing_keys([dict(metric.protocol) for metric in found]))
        )
    return lines


def config_differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings that are not equal for all runs: dotted key and the value of each run, a dash for none."""
    tables = [dict(wording.flattened(config)) for config in configs]
    keys = [key for key in dict.fromkeys(key for table in tables for key in table) if key not in IGNORED]
    sections = [key.rpartition(".")[0] for key in keys]
    ordered = sorted(keys, key=lambda key: sections.index(key.rpartition(".")[0]))
    rows = [(key, [table.get(key, _DASH) for table in tables]) for key in ordered]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _samples(materials: Sequence[ReportMaterial]) -> list[Any]:
    """One image per run, ``None`` for a run without samples."""
    budget = images.COMPARED_BYTES // len(materials)
    return [
        images.column(material.samples, f"Samples of {material.title}", _limit(material), budget)
        for material in materials
    ]


def _real(materials: Sequence[ReportMaterial]) -> list[Any]:
    """One image of each data set that the runs were trained on."""
    firsts = {str(wording.dig(material.record, "data.fingerprint")): material for material in reversed(materials)}
    budget = images.COMPARED_BYTES // (2 * len(firsts))
    columns = [
        images.column(
            material.data,
            "Real data" if len(firsts) == 1 else f"Real data of {material.title}",
            _limit(material),
            budget,
        )
        for material in materials
        if any(material is first for first in firsts.values())
    ]
    return [column for column in columns if column is not None]


def _limit(material: ReportMaterial) -> float:
    return images.limit_of(material.data) if material.points else 0.0


def _charts(materials: Sequence[ReportMaterial]) -> dict[str, Any]:
    logs = [material.metrics_log for material in materials]
    epochs = {epoch_of(material.record) for material in materials}
    epoch = epochs.pop() if len(epochs) == 1 else None
    return {
        "losses": [
            (title, chart)
            for title, kind in (("Validation loss, EMA weights", "validation"), ("Training loss", "train"))
            if (chart := _run_chart(title, [(kind, "loss", rows) for rows in logs], materials, epoch)) is not None
        ],
        "qualities": _quality_charts(materials, epoch),
        "has_epochs": epoch is not None,
    }


def _run_chart(
    title: str, requested: Sequence[tuple[str, str, Any]], materials: Sequence[ReportMaterial], epoch: float | None
) -> Chart | None:
    lines = [
        curves.run_curve(rows, kind, key, materials[number].title, number)
        for number, (kind, key, rows) in enumerate(requested)
    ]
    return figures.chart(lines, f"{title} of all runs over items seen", title, epoch=epoch)


def _quality_charts(materials: Sequence[ReportMaterial], epoch: float | None) -> list[tuple[str, Chart]]:
    keys = dict.fromkeys(key for material in materials for key in curves.quality_metrics(material.metrics_log))
    charts = []
    for key in keys:
        lines = [
            curves.quality_curve(
                material.metrics_log, key, material.title, RUN_COLOURS[number % len(RUN_COLOURS)]
            )._replace(dashed=number >= len(RUN_COLOURS))
            for number, material in enumerate(materials)
        ]
        title = metrics_table.name_of(key)
        chart = figures.chart(lines, f"{title} of all runs over items seen", f"quality-{key}", epoch=epoch)
        charts += [(title, chart)] if chart is not None else []
    return charts


def _studies(materials: Sequence[ReportMaterial]) -> list[Any]:
    return [
        (study._replace(name=f"{study.name}, {material.title}"), study_note(study, material.evaluation))
        for material in materials
        for study in material.studies
    ]


def _footer(materials: Sequence[ReportMaterial]) -> list[tuple[str, str]]:
    fingerprints = dict.fromkeys(str(wording.dig(material.record, "data.fingerprint") or "") for material in materials)
    return [
        ("undiffuse", materials[0].version),
        ("Hardware", materials[0].hardware),
        ("Data fingerprints", ", ".join(filter(None, fingerprints))),
    ]
