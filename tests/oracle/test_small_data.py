"""Study ``small-data``: the budget of measuring, the gap, the words, and the whole of it on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undiffuse.api.training import split_data
from undiffuse.data import DigitsConfig, load_dataset
from undiffuse.data.split import split_by_content, subset_by_content
from undiffuse.errors import UsageError
from undiffuse.experiments import small_data
from undiffuse.recipes import get_recipe
from undiffuse.studies.ablations.small_data import (
    ARMS,
    MOST_SAMPLES,
    SHARE,
    budget_of,
    conclusion,
    gaps,
    loss_gaps,
    measuring_share,
    row_of,
    training_rate,
    trial_costs,
)
from undiffuse.studies.plots import plot_style
from undiffuse.wording import count_noun

TINY = (
    "system.generator.channels=4", "system.discriminator.channels=4", "system.latent_size=4", "batch_images=16",
    "validation_images=16",
)  # fmt: skip


@pytest.mark.parametrize(("epoch", "sample"), [(10.0, 0.01), (1.0, 0.001), (2.0, 0.2), (0.5, 0.5)])
def test_measuring_stays_within_its_share(epoch: float, sample: float) -> None:
    budget = budget_of(epoch, sample, 10, fewest=100)
    assert budget.samples * sample <= SHARE * epoch * budget.epochs and 100 <= budget.samples <= MOST_SAMPLES
    assert budget.share == pytest.approx(budget.samples * sample / (epoch * budget.epochs)) and budget.share <= SHARE
    assert (budget.epochs == 10) == (100 * sample <= 0.15 * epoch * 10)


def test_costs_are_read_from_the_metrics_log_of_the_trial() -> None:
    metrics_log = [
        {"kind": "train", "images": 10 * step, "loss": 1, "wall": {"seconds": step, "images_per_second": rate}}
        for step, rate in ((1, 5.0), (2, 50.0), (3, 40.0), (4, 60.0))
    ]
    metrics_log.append(
        {"kind": "quality", "images": 40, "samples": 200, "wall": {"seconds": 6, "measuring_seconds": 2}}
    )
    assert training_rate(metrics_log) == 50.0
    assert trial_costs(metrics_log, 1000) == (20.0, 0.01)
    assert measuring_share(metrics_log) == pytest.approx(2 / 4)


def test_the_gap_is_one_where_held_out_images_look_like_samples() -> None:
    def at(held_out: float) -> float:
        row = {"kind": "validation", "images": 500, "loss": 1, "d_real": held_out, "d_real_train": 3.0, "d_fake": -1.0}
        (found,) = gaps([row], 100)
        assert found["epoch"] == 5
        return found["gap"]

    assert at(3.0) == 0 and at(-1.0) == 1 and at(1.0) == 0.5
    diffusion = [
        {"kind": "train", "images": 500, "loss": 0.5},
        {"kind": "validation", "images": 500, "loss": 0.9, "loss_raw": 1.0},
    ]
    assert gaps(diffusion, 100) == [] and loss_gaps(diffusion, 100) == [{"epoch": 5.0, "gap": 0.5}]


def finished(name: str, values: list[float], error: float = 0.1) -> dict[str, Any]:
    arm = next(arm for arm in ARMS if arm.name == name)
    wall = {"seconds": 10, "measuring_seconds": 1}
    metrics_log = [
        {"kind": "quality", "images": 100 * n, "metric": "f", "value": value, "standard_error": error, "wall": wall}
        for n, value in enumerate(values, 1)
    ]
    return row_of(arm, metrics_log, 100)


def test_the_conclusion_reports_no_more_than_the_intervals() -> None:
    better = conclusion([finished("plain", [9, 5, 8]), finished("augmented", [9, 4, 3])])
    assert better.startswith("At the best epoch of each, the augmentation lowers the distance. At the last epoch, the")
    assert better.endswith("rose again after its best epoch with no augmentation.")
    none = conclusion([finished("plain", [9, 5], 1.0), finished("augmented", [9, 4], 1.0)])
    assert none.count("no difference was found") == 2 and "rose" not in none
    worse = conclusion([finished("plain", [3.0]), finished("augmented", [9.0])])
    assert worse.count("raises the distance") == 2
    assert "Not all" in conclusion([finished("plain", [1.0]), {"arm": "augmented", "failed": "failed"}])


def test_few_items_are_chosen_by_content_and_independently_of_the_split() -> None:
    training, held_out = split_by_content(load_dataset(DigitsConfig()), 0.1)
    few, more = subset_by_content(training, 100), subset_by_content(training, 200)
    assert len(few) == 100 and len(more) == 200 and subset_by_content(training, None) is training
    hashes = [{item.tobytes() for item in part.hashes()} for part in (few, more, held_out)]
    assert hashes[0] <= hashes[1] and not hashes[1] & hashes[2]
    counts = np.bincount(more.labels, minlength=10)  # a random choice has all classes
    assert counts.min() >= 8
    assert subset_by_content(training, 10_000) is training
    config = get_recipe("ddpm-digits").model_copy(update={"train_items": 50})
    assert [len(part) for part in split_data(config)] == [50, len(held_out)]


def test_the_whole_study_on_a_few_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_style, "DPI", 40)
    monkeypatch.setattr(small_data, "_min_samples", lambda extractor, shape, distance: 100)
    out = tmp_path / "study"

    def study(**measured: str) -> dict[str, Any]:
        overrides = (*TINY, "data.validation_fraction=0.1", "validation_images=100")  # more than are trained on
        return small_data.small_data("digits", out, recipe="dcgan-mnist", overrides=overrides, augmentation=(),
                                     images=64, epochs=2, every=1, seed=0, device="cpu", **measured)  # fmt: skip

    result = study()
    assert [row["arm"] for row in result["rows"]] == ["plain", "augmented"]
    written = json.loads((out / "study.json").read_text())
    assert written.pop("checksum") and result == written
    for row in result["rows"]:
        assert row["quality"] and row["gaps"] and row["seconds"] > 0
    configs = [json.loads((out / "runs" / arm / "config.json").read_text()) for arm in ("plain", "augmented")]
    assert [record["data"]["train"] for record in configs] == [64, 64]
    assert configs[0]["config"]["system"]["diff_augment"] == []
    assert configs[1]["config"]["system"]["diff_augment"] == ["colour", "translation", "cutout"]
    assert configs[0]["config"]["quality_reference"] == "held_out" and configs[0]["config"]["validation_images"] == 64
    assert {"table.md", "small_data.png", "samples.png"} <= {path.name for path in out.iterdir()}
    assert study()["rows"] == result["rows"]  # nothing is trained twice
    with pytest.raises(UsageError, match="measures by frechet_handwriting, not kernel_handwriting; give another --out"):
        study(metric="kernel")


def test_senseless_numbers_are_rejected_at_once(tmp_path: Path) -> None:
    common: dict[str, Any] = {"recipe": "dcgan-mnist", "overrides": TINY, "augmentation": (), "seed": 0,
                              "device": "cpu"}  # fmt: skip
    with pytest.raises(UsageError, match="--epochs must be at least 1"):
        small_data.small_data("digits", tmp_path, images=10, epochs=0, every=1, **common)
    with pytest.raises(UsageError, match="ask for fewer"):
        small_data.small_data("digits", tmp_path, images=10_000, epochs=1, every=1, **common)
    with pytest.raises(UsageError, match=r"holds out \d+; say data\.validation_fraction=0\.2, .* --metric kernel"):
        small_data.small_data("digits", tmp_path, images=10, epochs=1, every=1, **common)
    with pytest.raises(UsageError, match="makes points"):
        small_data.small_data("rings", tmp_path, images=10, epochs=1, every=1, **common)


def test_epochs_are_counted_in_words() -> None:
    assert [count_noun(2, noun) for noun in ("epoch", "batch", "class", "copy")] == [
        "2 epochs", "2 batches", "2 classes", "2 copies"
    ]  # fmt: skip
