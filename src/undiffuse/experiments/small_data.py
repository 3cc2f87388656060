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
from undiffuse.claims import writes_to
from undiffuse.config import FrozenModel
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.errors import RunError, UsageError
from undiffuse.evaluation.quality import quality_measure
from undiffuse.experiments.trainings import Parts, check_study, trained
from undiffuse.files import write_json, write_text
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.set_distance import SetDistance, set_distance
from undiffuse.models.saved import origin_of
from undiffuse.observer import announce, note
from undiffuse.recipes import get_recipe
from undiffuse.sealed import read_sealed, sealed
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
from undiffuse.wording import Table, counted

_TRIAL_STEPS, _TRIAL_LOGS = 24, 4
_SHOWN = 32
#: Samples that a distance has to be of to tell two trainings apart, whatever fewer it would take.
_LEAST = 50


@writes_to("out")
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
    """Train what is not trained yet; write ``table.md``, ``small_data.png``, ``samples.png`` and ``study.json``.

    Args:
        data: a source of images, with as many more to hold out.
        out: a folder; a study that was interrupted there goes on where it was.
        recipe, overrides: what is trained; its data, budget and seed are the study's.
        augmentation: overrides of the augmented training; by default what suits the recipe.
        images: to train on.
        epochs: passes over them.
        every: epochs between two measurements; more where measuring would take more than a fifth of the training.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the data.
        metric: the distance over them, a row of ``SET_DISTANCES``.
    Returns:
        The content of ``study.json``.
    Raises:
        UsageError: senseless numbers, too few images, or a folder that holds something else.
    """
    check_study(out, images=None, samples=1, seed=seed)
    check_passes(images, epochs, every)
    source = source_config_for(data)
    if not isinstance(source, ImageConfig):
        raise UsageError(f"the study 'small-data' is for images, {source.model_dump()['name']!r} makes points")
    base = _configuration(recipe, overrides, source, images, epochs, seed)
    chosen = list(augmentation) or default_augmentation(base)
    training, held_out = split_data(base)
    if len(training) < images:
        raise UsageError(f"--images {images}: the data has {len(training)} training images; ask for fewer")
    extractor = pick_features(features, training.shape, origin_of(base.data.model_dump(), training.class_names))
    distance = set_distance(metric)
    measuring = _Measuring(extractor.name, distance, _fewest(extractor, training.shape, distance))
    if len(held_out) < measuring.fewest:
        other = ", or say --metric kernel" if distance.positive else ""
        raise UsageError(
            f"samples are measured against held-out images, at least {measuring.fewest} of them, and the data holds "
            f"out {len(held_out)}; say data.validation_fraction=0.2, or give more images{other}"
        )
    budget = _budget(base, out, images, every, measuring, device)
    announce(
        f"measuring {counted(budget.samples, 'sample')} every {counted(budget.epochs, 'epoch')}, "
        f"{budget.share:.0%} of the training's time"
    )
    rows, shown = [], []
    parts = Parts("training", len(ARMS))
    for arm in ARMS:
        parts.begin(arm.words)
        row, samples = _arm(arm, _of_arm(base, arm, chosen, budget, images), out, measuring, device)
        rows.append(row)
        shown += [(arm.words, samples)] if samples is not None else []
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
    """DiffAugment of a system that knows it, for it reaches no sample; else what ``augment=document`` does."""
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
    # the gap sets as many training images with the held-out ones
    return config.model_copy(update={"validation_images": min(config.validation_images, images)})


def _of_arm(base: RunConfig, arm: Arm, augmentation: Sequence[str], budget: Budget, images: int) -> RunConfig:
    every = budget.epochs * images
    own = [
        *(augmentation if arm.augmented else []),
        f"quality_every_images={every}",
        f"validate_every_images={every}",
        f"log_every_images={max(base.batch_images, every // 4)}",
        f"quality_samples={budget.samples}",
    ]
    return apply_overrides(base, own).model_copy(update={"recipe": f"study-{arm.name}"})


def _fewest(extractor: FeatureExtractor, shape: tuple[int, ...], distance: SetDistance) -> int:
    return max(_LEAST, distance.min_images(extractor.dim or int(np.prod(shape))))


class _Measuring(NamedTuple):
    """How the samples of all trainings are measured: the features, the distance over them, and the fewest samples."""

    features: str
    distance: SetDistance
    fewest: int

    @property
    def metric(self) -> str:
        """As the metrics log names it."""
        return f"{self.distance.name}_{self.features}"

    @property
    def made(self) -> MeasuredBy:
        """What trainings measure by."""
        return partial(quality_measure, features=self.features, metric=self.distance.name)


class _Planned(FrozenModel):
    """What the trial of an interrupted study said, so that the same command goes on with the same trainings."""

    epochs: int
    samples: int
    share: float


def _budget(base: RunConfig, out: Path, images: int, every: int, measuring: _Measuring, device: str) -> Budget:
    """From a short trial of the plain training; kept, for another trial would say a little other."""
    path = out / "runs" / "budget.json"
    if path.is_file():
        kept = read_sealed(path, "remove it, and another trial is made")
        if (before := kept.get("metric", measuring.metric)) != measuring.metric:
            raise UsageError(f"the study in {out} measures by {before}, not {measuring.metric}; give another --out")
        if kept["every"] == every and kept["config"] == base.model_dump(mode="json"):
            return Budget(**_Planned.model_validate(kept["budget"]).model_dump())
    announce("a short trial, to see what a pass and a sample cost")
    trial, seen = out / "runs" / "trial", _TRIAL_STEPS * base.batch_images
    shutil.rmtree(trial, ignore_errors=True)
    own = [
        f"num_images={seen}",
        f"quality_every_images={2 * seen}",
        f"quality_samples={measuring.fewest}",
        f"log_every_images={seen // _TRIAL_LOGS}",
        "validate_every_images=0",
    ]
    train_run(apply_overrides(base, own), trial, device=device, measured_by=measuring.made)
    budget = budget_of(*trial_costs(read_metrics(trial), images), every, measuring.fewest)
    shutil.rmtree(trial)
    planned = {"every": every, "metric": measuring.metric, "budget": budget._asdict()}
    write_json(path, sealed({**planned, "config": base.model_dump(mode="json")}))
    return budget


def _arm(arm: Arm, config: RunConfig, out: Path, measuring: _Measuring, device: str) -> tuple[dict[str, Any], Any]:
    """Numbers and a few samples of a training; one that breaks down is a result, and says so."""
    run = out / "runs" / arm.name
    try:
        model = trained(config, run, device, measuring.made)
        samples = model.sample(_SHOWN).numpy()
    except RunError as error:
        note(f"{arm.name} broke down: {error}")
        return {"arm": arm.name, "words": arm.words, "failed": f"broke down: {error}"}, None
    assert config.train_items is not None
    return row_of(arm, read_metrics(run), config.train_items), samples


def _write(out: Path, record: dict[str, Any], rows: list[dict[str, Any]], shown: list[Any]) -> dict[str, Any]:
    result = {**record, "rows": rows, "conclusion": conclusion(rows)}
    distance = set_distance(record["metric"])
    draw_curves(out / "small_data.png", rows, distance, record["features"])
    if shown:
        draw_samples(out / "samples.png", shown)
    write_json(out / "study.json", sealed(result))
    write_text(out / "table.md", markdown(rows, record))
    return result


def summary(result: Mapping[str, Any]) -> Table:
    """The result of the study as a table, a line a training."""
    title = f"{result['data']}, {counted(result['train_items'])}, {counted(result['epochs'], 'epoch')}"
    return Table(title, head(set_distance(result["metric"])), [row_texts(row) for row in result["rows"]])
