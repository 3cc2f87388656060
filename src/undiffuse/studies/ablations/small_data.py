"""Study ``small-data``: one recipe on about 1,000 images, with and without augmentation, measured during training.

It plots against the number of epochs the distance of samples from held-out images, which memorisation of training
images does not lower, and the gap between training and held-out images: for a GAN, from its discriminator's logits D,

    gap = (E[D(training)] - E[D(held out)]) / (E[D(training)] - E[D(samples)]),

0 if the discriminator cannot distinguish them and 1 if it rates held-out images like samples (r_v of Karras et al.
2020, arXiv:2006.06676, eq. 1); for a model without a discriminator, (held-out - training loss) / held-out loss.

The cost of evaluation is limited in advance: a short trial measures the seconds per epoch and per sample, and the
number of samples is the largest that keeps the evaluation within a fifth of the training time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from undiffuse.metrics.set_distance import SetDistance, set_distance
from undiffuse.studies.images.context import ImageArray
from undiffuse.studies.plots import image_grid, plot_style

#: Maximum time of evaluation as a fraction of the training time.
SHARE = 0.2
#: Number of samples beyond which the error of the distance hardly decreases.
MOST_SAMPLES = 2000
_SPARE = 0.75  # fraction of the limit that is planned for, since trials are short and validation takes time too


class Arm(NamedTuple):
    """One of the trainings: ``name`` of its folder, and ``label`` in tables."""

    name: str
    label: str
    augmented: bool


ARMS = (Arm("plain", "no augmentation", False), Arm("augmented", "augmentation", True))


class Budget(NamedTuple):
    """Interval of the measurements, and their number of samples.

    Attributes:
        epochs: epochs between two measurements.
        samples: samples per measurement.
        share: fraction of the training time, estimated from the trial.
    """

    epochs: int
    samples: int
    share: float


def budget_of(seconds_an_epoch: float, seconds_a_sample: float, epochs: int, fewest: int) -> Budget:
    """The largest number of samples whose measurement every ``epochs`` epochs stays within the time limit.

    If even ``fewest`` samples exceed it, the interval is increased.

    Args:
        seconds_an_epoch: time of an epoch, without measuring.
        seconds_a_sample: time to draw and measure a sample.
        epochs: requested interval between two measurements.
        fewest: minimum number of samples for the distance.
    """
    allowed = _SPARE * SHARE * seconds_an_epoch
    samples = min(MOST_SAMPLES, int(allowed * epochs / seconds_a_sample))
    if samples < fewest:
        samples, epochs = fewest, math.ceil(fewest * seconds_a_sample / allowed)
    return Budget(epochs, samples, samples * seconds_a_sample / (epochs * seconds_an_epoch))


def trial_costs(metrics_log: Sequence[Mapping[str, Any]], images_an_epoch: int) -> tuple[float, float]:
    """(seconds of an epoch, seconds of a sample) in a trial's metrics log."""
    quality = [row for row in metrics_log if row.get("kind") == "quality"][-1]
    return images_an_epoch / training_rate(metrics_log), quality["wall"]["measuring_seconds"] / quality["samples"]


def training_rate(metrics_log: Sequence[Mapping[str, Any]]) -> float:
    """Images per second of training only: the median over the log's windows, without the first if there are more."""
    rates = [row["wall"]["images_per_second"] for row in metrics_log if row.get("kind") == "train"]
    return float(median(rates[1:] or rates))


def measuring_share(metrics_log: Sequence[Mapping[str, Any]]) -> float:
    """Time spent on measuring samples, as a fraction of the remaining training time."""
    spent = sum(row["wall"]["measuring_seconds"] for row in metrics_log if row.get("kind") == "quality")
    total = max(float(row["wall"]["seconds"]) for row in metrics_log)
    return float(spent / (total - spent))


def curve(metrics_log: Sequence[Mapping[str, Any]], images_an_epoch: int) -> list[dict[str, Any]]:
    """Epoch, distance and standard error of every measurement."""
    return [
        {
            "epoch": row["images"] / images_an_epoch,
            "value": row["value"],
            "standard_error": row["standard_error"],
            "metric": row["metric"],
        }
        for row in metrics_log
        if row.get("kind") == "quality"
    ]


def gaps(metrics_log: Sequence[Mapping[str, Any]], images_an_epoch: int) -> list[dict[str, float]]:
    """Epoch and the discriminator's gap at every validation; empty for a model without a discriminator."""
    found = []
    for row in metrics_log:
        if row.get("kind") == "validation" and "d_real_train" in row:
            reach = row["d_real_train"] - row["d_fake"]
            if reach != 0:
                gap = (row["d_real_train"] - row["d_real"]) / reach
                found.append({"epoch": row["images"] / images_an_epoch, "gap": gap})
    return found


def loss_gaps(metrics_log: Sequence[Mapping[str, Any]], images_an_epoch: int) -> list[dict[str, float]]:
    """Epoch and (held-out - training loss) / held-out loss of a model without a discriminator.

    The training loss is the mean over the window of the metrics log that contains the validation, so a gap is as noisy
    as one window.
    """
    train = [row for row in metrics_log if row.get("kind") == "train"]
    found = []
    for row in metrics_log:
        if row.get("kind") == "validation" and "d_real_train" not in row and row["loss_raw"]:
            window = [entry["loss"] for entry in train if entry["images"] >= row["images"]][:1]
            found += [
                {"epoch": row["images"] / images_an_epoch, "gap": (row["loss_raw"] - loss) / row["loss_raw"]}
                for loss in window
            ]
    return found


def row_of(arm: Arm, metrics_log: Sequence[Mapping[str, Any]], images_an_epoch: int) -> dict[str, Any]:
    """The results of a training, from its metrics log."""
    measured = curve(metrics_log, images_an_epoch)
    best = min(measured, key=lambda point: point["value"])
    return {
        "arm": arm.name,
        "words": arm.label,
        "quality": measured,
        "best": best,
        "last": measured[-1],
        "gaps": gaps(metrics_log, images_an_epoch) or loss_gaps(metrics_log, images_an_epoch),
        "measuring_share": measuring_share(metrics_log),
        "seconds": max(row["wall"]["seconds"] for row in metrics_log),
    }


def row_texts(row: Mapping[str, Any]) -> list[str]:
    """A row of the table as text."""
    if row.get("failed"):
        return [row["words"], row["failed"], "", "", ""]
    gap = f"{row['gaps'][-1]['gap']:.2f}" if row["gaps"] else "–"
    return [row["words"], _point(row["best"]), _point(row["last"]), gap, f"{row['measuring_share']:.1%}"]


def _point(point: Mapping[str, Any]) -> str:
    return f"{point['value']:.3g} ± {point['standard_error']:.2g} after {point['epoch']:.0f}"


def head(distance: SetDistance) -> list[str]:
    """Column titles of ``row_texts``."""
    return [
        "trained with",
        f"best {distance.short_label}, after epochs",
        "last",
        "gap at the end",
        "spent on measuring",
    ]


def markdown(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """The table and its settings, as Markdown."""
    distance = set_distance(record["metric"])
    titles = head(distance)
    lines = [
        "# Few images, with and without augmentation",
        "",
        f"Data: {record['data']}, {record['train_items']:,} training images; recipe {record['recipe']}, "
        f"{record['epochs']} epochs, seed {record['seed']}; augmentation: {', '.join(record['augmentation'])}. "
        f"{record['samples']:,} samples every {record['every_epochs']} epochs against {record['reference']:,} held-out "
        f"images by the {distance.label} over {record['features']} features.",
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
    ]
    lines += ["| " + " | ".join(row_texts(row)) + " |" for row in rows]
    lines += [
        "",
        "![Quality and gap against epochs](small_data.png)",
        "",
        f"{conclusion(rows)} Numbers after ± are standard errors over sampling, not over training runs.",
        "",
    ]
    return "\n".join(lines)


def conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """The effect of the augmentation in words, if both trainings finished."""
    finished = {row["arm"]: row for row in rows if not row.get("failed")}
    if len(finished) < len(ARMS):
        return "Not all trainings finished."
    sentences = [
        f"At the {where}, {_comparison(finished['plain'][key], finished['augmented'][key])}."
        for key, where in (("best", "best epoch of each"), ("last", "last epoch"))
    ]
    late = [row["words"] for row in finished.values() if significantly_above(row["last"], row["best"])]
    sentences.append(f"The distance rose again after its best epoch with {' and with '.join(late)}." if late else "")
    return " ".join(filter(None, sentences))


def _comparison(plain: Mapping[str, float], augmented: Mapping[str, float]) -> str:
    if significantly_above(plain, augmented):
        return "the augmentation lowers the distance"
    if significantly_above(augmented, plain):
        return "the augmentation raises the distance"
    return "no difference was found"


def significantly_above(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Whether the 95 % interval of a - b is above 0."""
    return a["value"] - b["value"] > 1.96 * math.hypot(a["standard_error"], b["standard_error"])


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], distance: SetDistance, features: str) -> None:
    """Write ``small_data.png``: the distance and the gap against epochs, one line per training."""
    figure, (left, right) = plot_style.charts(2)
    for row, colour in zip(rows, (plot_style.RED, plot_style.BLUE), strict=False):
        if row.get("failed"):
            continue
        epochs, values, errors = (
            [point[key] for point in row["quality"]] for key in ("epoch", "value", "standard_error")
        )
        left.errorbar(epochs, values, yerr=errors, color=colour, marker="o", ms=3, capsize=2, label=row["words"])
        along = [(point["epoch"], point["gap"]) for point in row["gaps"]]
        if along:
            right.plot(*zip(*along, strict=True), color=colour, marker="o", ms=3, label=row["words"])
    title = f"{distance.label} ({features}) from held-out images"
    left.set(xlabel="epochs", yscale="log" if distance.positive else "linear", title=title)
    right.set(xlabel="epochs", title="gap between training and held-out images")
    right.axhline(0, color=plot_style.GREY, linewidth=0.8)
    for axes in (left, right):
        axes.title.set_fontsize(9.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
        plot_style.grid_lines(axes)
    plot_style.save(figure, path)


def draw_samples(path: Path, shown: Sequence[tuple[str, ImageArray]]) -> None:
    """Write ``samples.png``: the label and samples (N, C, H, W) of each training, in two rows."""
    rows = [row for _, images in shown for row in np.array_split(images, 2)]
    labels = [text for words, _ in shown for text in (words, "")]
    image_grid.write([image_grid.Table(rows, row_labels=labels, row_gaps=range(2, len(rows), 2))], path)
