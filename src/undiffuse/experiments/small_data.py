"""``undiffuse study small-data``: trains a recipe on few images, with and without augmentation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from undiffuse.api.arguments import check_passes
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.training import MeasuredBy, split_data, train_run
from undiffuse.checksums import read_checked, with_checksum
from undiffuse.config import FrozenModel
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.errors import RunError, UsageError
from undiffuse.evaluation.quality import quality_measure
from undiffuse.experiments.trainings import Parts, check_study, trained
from undiffuse.files import write_json, write_text
from undiffuse.locking import locks
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.set_distance import SetDistance, set_distance
from undiffuse.models.saved import origin_of
from undiffuse.observer import announce, note
from undiffuse.recipes import get_recipe
from undiffuse.studies.ablations.small_data import (
    ARMS,
    Arm,
    Budget,
    budget_of,
    conclusion,
    draw_curves,
    draw_samples,
    head,
    markdown,
    row_of,
    row_texts,
    trial_costs,
)
from undiffuse.training.config import RunConfig
from undiffuse.training.metrics_log import read_metrics
from undiffuse.version import __version__
from undiffuse.wording import Table, count_noun

_TRIAL_STEPS, _TRIAL_LOGS = 24, 4
_SHOWN = 32
#: Minimum number of samples to distinguish two trainings, even if the distance would need fewer.
_LEAST = 50


@locks("out")
def small_data(
    data: str,
    out: Path,
    *,
    recipe: str,
    overrides: Sequence[str],
    augmentation: Sequence[str],
    images: int,
    epochs: int,
    every: int,
    features: str = "auto",
    metric: str = "frechet",
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Train the missing models; write ``table.md``, ``small_data.png``, ``samples.png`` and ``study.json``.

    Args:
        data: a source of images, with further images to hold out.
        out: a folder; a study that was interrupted there is resumed.
        recipe, overrides: configuration of the trainings; the study sets data, budget and seed.
        augmentation: overrides of the augmented training; by default selected by the recipe.
        images: number of training images.
        epochs: number of epochs.
        every: epochs between two measurements; increased if measuring would take more than a fifth of the training.
        features: a key of ``metrics.FEATURES``; ``auto`` selects by the data.
        metric: the distance between features, a key of ``SET_DISTANCES``.
    Returns:
        The content of ``study.json``.
    Raises:
        UsageError: if a number is out of range, there are too few images, or the folder has other content.
    """
    check_study(out, images=None, samples=1, seed=seed)
    check_passes(images, epochs, every)
    source = source_config_for(data)
    if not isinstance(source, ImageConfig):
        raise UsageError(
            f"the study 'small-data' is for images, {source.model_dump()['name']!r} makes {source.contents}"
        )
    base = _configuration(recipe, overrides, source, images, epochs, seed)
    chosen = list(augmentation) or default_augmentation(base)
    training, held_out = split_data(base)
    if len(training) < images:
        raise UsageError(f"--images {images}: the data has {len(training)} training images; ask for fewer")
    extractor = pick_features(features, training.shape, origin_of(base.data.model_dump(), training.class_names))
    distance = set_distance(metric)
    measuring = _Measuring(extractor.name, distance, _min_samples(extractor, training.shape, distance))
    if len(held_out) < measuring.fewest:
        other = ", or say --metric kernel" if distance.positive else ""
        raise UsageError(
            f"samples are measured against held-out images, at least {measuring.fewest} of them, and the data holds "
            f"out {len(held_out)}; say data.validation_fraction=0.2, or give more images{other}"
        )
    budget = _budget(base, out, images, every, measuring, device)
    announce(
        f"measuring {count_noun(budget.samples, 'sample')} every {count_noun(budget.epochs, 'epoch')}, "
        f"{budget.share:.0%} of the training's time"
    )
    rows, shown = [], []
    parts = Parts("training", len(ARMS))
    for arm in ARMS:
        parts.begin(arm.label)
        row, samples = _arm(arm, _arm_config(base, arm, chosen, budget, images), out, measuring, device)
        rows.append(row)
        shown += [(arm.label, samples)] if samples is not None else []
    record = {
        "study": "small-data",
        "data": base.data.name,
        "recipe": recipe,
        "overrides": list(overrides),
        "augmentation": chosen,
        "train_items": images,
        "epochs": epochs,
        "every_epochs": budget.epochs,
        "samples": budget.samples,
        "promised_share": budget.share,
        "reference": len(held_out),
        "features": extractor.name,
        "metric": distance.name,
        "features_protocol": extractor.protocol(),
        "seed": seed,
        "undiffuse": __version__,
    }
    return _write(out, record, rows, shown)


def default_augmentation(config: RunConfig) -> list[str]:
    """DiffAugment if the system supports it, since it does not affect samples; otherwise ``augment=document``."""
    if "diff_augment" in type(config.system).model_fields:
        return ['system.diff_augment=["colour","translation","cutout"]']
    return ["augment=document"]


def _configuration(
    recipe: str, overrides: Sequence[str], source: SourceConfig, images: int, epochs: int, seed: int
) -> RunConfig:
    shared = [
        f"train_items={images}",
        f"num_images={images * epochs}",
        f"seed={seed}",
        "preview_every_images=0",
        "quality_reference=held_out",
        "quality_every_images=0",
        "checkpoint_every_images=0",
    ]
    config = apply_overrides(get_recipe(recipe), [*overrides, *shared], source)
    # the gap compares equally many training and held-out images
    return config.model_copy(update={"validation_images": min(config.validation_images, images)})


def _arm_config(base: RunConfig, arm: Arm, augmentation: Sequence[str], budget: Budget, images: int) -> RunConfig:
    every = budget.epochs * images
    overrides = [
        *(augmentation if arm.augmented else []),
        f"quality_every_images={every}",
        f"validate_every_images={every}",
        f"log_every_images={max(base.batch_images, every // 4)}",
        f"quality_samples={budget.samples}",
    ]
    return apply_overrides(base, overrides).model_copy(update={"recipe": f"study-{arm.name}"})


def _min_samples(extractor: FeatureExtractor, shape: tuple[int, ...], distance: SetDistance) -> int:
    return max(_LEAST, distance.min_images(extractor.dim or int(np.prod(shape))))


class _Measuring(NamedTuple):
    """How samples are measured: the features, the distance, and the minimum number of samples."""

    features: str
    distance: SetDistance
    fewest: int

    @property
    def metric(self) -> str:
        """Name of the metric in the metrics log."""
        return f"{self.distance.name}_{self.features}"

    @property
    def factory(self) -> MeasuredBy:
        """Factory of the measure, for ``train_run``."""
        return partial(quality_measure, features=self.features, metric=self.distance.name)


class _Planned(FrozenModel):
    """Result of the trial of an interrupted study, so that the same command resumes the same trainings."""

    epochs: int
    samples: int
    share: float


def _budget(base: RunConfig, out: Path, images: int, every: int, measuring: _Measuring, device: str) -> Budget:
    """The budget from a short trial of the plain training; saved, since another trial would differ slightly."""
    path = out / "runs" / "budget.json"
    if path.is_file():
        saved = read_checked(path, "remove it to run another trial")
        if (before := saved.get("metric", measuring.metric)) != measuring.metric:
            raise UsageError(f"the study in {out} measures by {before}, not {measuring.metric}; give another --out")
        if saved["every"] == every and saved["config"] == base.model_dump(mode="json"):
            return Budget(**_Planned.model_validate(saved["budget"]).model_dump())
    announce("a short trial, to measure the cost of an epoch and of a sample")
    trial, seen = out / "runs" / "trial", _TRIAL_STEPS * base.batch_images
    shutil.rmtree(trial, ignore_errors=True)
    trial_overrides = [
        f"num_images={seen}",
        f"quality_every_images={2 * seen}",
        f"quality_samples={measuring.fewest}",
        f"log_every_images={seen // _TRIAL_LOGS}",
        "validate_every_images=0",
    ]
    train_run(apply_overrides(base, trial_overrides), trial, device=device, measured_by=measuring.factory)
    budget = budget_of(*trial_costs(read_metrics(trial), images), every, measuring.fewest)
    shutil.rmtree(trial)
    planned = {"every": every, "metric": measuring.metric, "budget": budget._asdict()}
    write_json(path, with_checksum({**planned, "config": base.model_dump(mode="json")}))
    return budget


def _arm(arm: Arm, config: RunConfig, out: Path, measuring: _Measuring, device: str) -> tuple[dict[str, Any], Any]:
    """Results and a few samples of a training; a failed training is a result and recorded as such."""
    run = out / "runs" / arm.name
    try:
        model = trained(config, run, device, measuring.factory)
        samples = model.sample(_SHOWN).numpy()
    except RunError as error:
        note(f"{arm.name} failed: {error}")
        return {"arm": arm.name, "words": arm.label, "failed": f"failed: {error}"}, None
    assert config.train_items is not None
    return row_of(arm, read_metrics(run), config.train_items), samples


def _write(out: Path, record: dict[str, Any], rows: list[dict[str, Any]], shown: list[Any]) -> dict[str, Any]:
    result = {**record, "rows": rows, "conclusion": conclusion(rows)}
    distance = set_distance(record["metric"])
    draw_curves(out / "small_data.png", rows, distance, record["features"])
    if shown:
        draw_samples(out / "samples.png", shown)
    write_json(out / "study.json", with_checksum(result))
    write_text(out / "table.md", markdown(rows, record))
    return result


def summary(result: Mapping[str, Any]) -> Table:
    """The result of the study as a table, one row per training."""
    title = f"{result['data']}, {count_noun(result['train_items'])}, {count_noun(result['epochs'], 'epoch')}"
    return Table(title, head(set_distance(result["metric"])), [row_texts(row) for row in result["rows"]])
