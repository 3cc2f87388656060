"""``undiffuse study one-class``: trains the same recipe on one class and on all, and compares the samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.api.arguments import FEWEST_OF_A_CLASS
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.training import split_data
from undiffuse.checksums import read_checked, with_checksum
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.data.dataset import Dataset
from undiffuse.errors import RunError, UsageError
from undiffuse.experiments.trainings import Parts, check_study, trained
from undiffuse.files import write_json, write_text
from undiffuse.locking import locks
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.set_distance import SetDistance, set_distance
from undiffuse.models.saved import Model, origin_of
from undiffuse.observer import note, stage
from undiffuse.recipes import get_recipe
from undiffuse.registry import nearest
from undiffuse.studies.ablations.one_class import (
    SETS,
    SampleSet,
    Target,
    Training,
    draw_samples,
    markdown,
    measure,
    other_images,
    row_texts,
    target_of,
)
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.images.reference_distances import draw, fetch
from undiffuse.training.config import RunConfig
from undiffuse.version import __version__
from undiffuse.wording import Table

_SHOWN = 12


class Ground:
    """The real images of a study, of the class and of all classes: references, and other images for comparison."""

    def __init__(self, training: Dataset, class_name: str, num: int, seed: int) -> None:
        labels = training.labels
        if labels is None:
            raise UsageError("the study 'one-class' needs data with classes; give a folder with a sub-folder for each")
        if class_name not in training.class_names:
            raise UsageError(f"the data has no class {class_name!r}; {nearest(class_name, training.class_names)}")
        if len(training.class_names) < 2:
            raise UsageError(f"the data only has the class {class_name!r}; the study compares one with several")
        number = training.class_names.index(class_name)
        of_class = torch.from_numpy(np.flatnonzero(labels == number))
        self.share = len(of_class) / len(training)
        self.references: dict[str, Tensor] = {}
        self.others: dict[str, Tensor] = {}
        for name, rows in (("class", of_class), ("all", torch.arange(len(training)))):
            measured, others = other_images(len(rows), num, seed)
            self.references[name], self.others[name] = fetch(training, rows[measured]), fetch(training, rows[others])

    def targets(self, extractor: FeatureExtractor, num: int, distance: SetDistance) -> dict[str, Target]:
        """Features of the reference images."""
        descriptions = {"class": "real images of the class", "all": "real images of all"}
        return {
            name: target_of(extractor, images, num, descriptions[name], distance)
            for name, images in self.references.items()
        }


@locks("out")
def one_class(
    data: str,
    out: Path,
    *,
    class_name: str | None,
    recipe: str,
    overrides: Sequence[str],
    images: int,
    samples: int,
    features: str,
    metric: str,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Train the missing models, measure every set, write ``table.md``, ``samples.png`` and ``study.json``.

    Args:
        data: a source of images with classes.
        out: a folder; a study that was interrupted there is resumed.
        class_name: the one class; the first class of the data by default.
        recipe, overrides: configuration of the trainings; the study sets data, budget, seed and classes.
        images: images seen by each training.
        samples: samples per set.
        features: a key of ``metrics.FEATURES``; ``auto`` selects by the data.
        metric: the distance between features, a key of ``SET_DISTANCES``.
    Returns:
        The content of ``study.json``.
    Raises:
        UsageError: if a number is out of range, the data has no classes, or the folder has other content.
    """
    check_study(out, images=images, samples=samples, seed=seed, fewest_samples=FEWEST_OF_A_CLASS)
    source = source_config_for(data)
    if not isinstance(source, ImageConfig):
        raise UsageError(f"the study 'one-class' is for images with classes, {source.name!r} has {source.contents}")
    measure = features, set_distance(metric)
    study = _study(source, out, class_name, (recipe, overrides), images, samples, measure, seed, device)
    rows, shown = study.measured()
    requested_for = {"recipe": recipe, "overrides": list(overrides), "images": images, "seed": seed, "samples": samples}
    record = {"study": "one-class", "data": source.name, "class": study.class_name, **requested_for, **study.record()}
    return _write(out, record, rows, shown)


@dataclass(frozen=True)
class _Study:
    """State shared by all sets of samples; ``base`` is the unconditional training on all classes."""

    base: RunConfig
    class_name: str
    ground: Ground
    extractor: FeatureExtractor
    distance: SetDistance
    targets: dict[str, Target]
    out: Path
    samples: int
    device: str

    def measured(self) -> tuple[list[dict[str, Any]], list[tuple[str, str, Any]]]:
        """The rows of the table, and the rows (label, note, images) of the figure."""
        rows: list[dict[str, Any]] = []
        shown = [self._real_shown("class", "of the class")]
        parts = Parts("set", len(SETS))
        for requested in SETS:
            parts.begin(f"trained on {requested.training.label}, sampling {requested.label}")
            row, images = self.measured_set(requested)
            rows.append(row)
            if images is not None:
                label = f"{requested.training.label.replace(', ', ',' + chr(10))}\n(sampling {requested.label})"
                shown.append((label, _note(row, self.distance), images))
        rows += [self.real_row(name) for name in ("class", "all")]
        return rows, [*shown, self._real_shown("all", "of all")]

    def record(self) -> dict[str, Any]:
        """Record of the real images and the metric for ``study.json``."""
        return {
            "features": self.extractor.name,
            "metric": self.distance.name,
            "references_class": len(self.ground.references["class"]),
            "references_all": len(self.ground.references["all"]),
            "features_protocol": self.extractor.protocol(),
            "undiffuse": __version__,
        }

    def measured_set(self, requested: SampleSet) -> tuple[dict[str, Any], Any]:
        """Scores of one set, and a few of its images; a failed training is a result and recorded as such."""
        config = _training_config(self.base, requested.training, self.class_name)
        name = f"{requested.training.name}-of-{'class' if requested.of_class else 'anything'}"
        path, row = self.out / "cells" / f"{name}.json", self._row(requested, config)
        try:
            model = trained(config, self.out / "runs" / requested.training.name, self.device)
            examples = _draw(model, requested, self.class_name, min(_SHOWN, self.samples)).numpy()
            if (earlier := _measured(path, row)) is not None:
                return earlier, examples
            row.update(self._scores(_draw(model, requested, self.class_name, self.samples)))
        except RunError as error:
            row["failed"] = f"failed: {error}"
            note(f"{name} {row['failed']}")
            return row, None
        write_json(path, with_checksum(row))
        return row, examples

    def real_row(self, name: str) -> dict[str, Any]:
        """Other real images of the ``class`` or of ``all``, as many as there are samples."""
        scored = self._scores(self.ground.others[name])
        return {"trained_on": "real images", "asked_for": "the class" if name == "class" else "all", **scored}

    def _real_shown(self, name: str, label: str) -> tuple[str, str, Any]:
        return f"real,\n{label}", "", self.ground.others[name][:_SHOWN].numpy()

    def _scores(self, images: Tensor) -> dict[str, Any]:
        return measure(self.extractor, images, self.targets, self.ground.references["class"])

    def _row(self, requested: SampleSet, config: RunConfig) -> dict[str, Any]:
        """Description of a set, which identifies a finished one."""
        return {
            "trained_on": requested.training.label,
            "asked_for": requested.label,
            "class_name": self.class_name,
            "config": config.model_dump(mode="json"),
            "features": self.extractor.name,
            "metric": self.distance.name,
            "samples": self.samples,
            "class_images": config.num_images * (1.0 if requested.training.one_class else self.ground.share),
        }


def _study(
    source: ImageConfig,
    out: Path,
    class_name: str | None,
    recipe: tuple[str, Sequence[str]],
    images: int,
    samples: int,
    measure: tuple[str, SetDistance],
    seed: int,
    device: str,
) -> _Study:
    base = _configuration(*recipe, source, images, seed)
    dataset = split_data(base)[0]
    chosen = class_name if class_name is not None else (dataset.class_names or ("",))[0]
    ground = Ground(dataset, chosen, samples, seed)
    features, distance = measure
    extractor = pick_features(features, dataset.shape, origin_of(base.data.model_dump(), dataset.class_names))
    targets = ground.targets(extractor, samples, distance)
    return _Study(base, chosen, ground, extractor, distance, targets, out, samples, device)


def _configuration(recipe: str, overrides: Sequence[str], source: SourceConfig, images: int, seed: int) -> RunConfig:
    """The unconditional training on all classes; the others only differ in the fields of ``Training``.

    Guidance is disabled, since a model without classes cannot use it and all sets should be sampled in the same way.
    """
    chosen = get_recipe(recipe)
    unguided = ["system.sampling.guidance=1"] if hasattr(chosen.system, "sampling") else []
    shared = [
        *unguided,
        f"num_images={images}",
        f"seed={seed}",
        "system.class_conditional=false",
        "preview_every_images=0",
        "quality_every_images=0",
        "validate_every_images=0",
        "log_every_images=5000",
    ]
    return apply_overrides(chosen, [*overrides, *shared], source)


def _training_config(base: RunConfig, training: Training, class_name: str) -> RunConfig:
    overrides = [f"system.class_conditional={str(training.conditional).lower()}"]
    overrides += [f"data.classes={json.dumps([class_name])}"] if training.one_class else []
    return apply_overrides(base, overrides).model_copy(update={"recipe": f"study-{training.name}"})


def _draw(model: Model, requested: SampleSet, class_name: str, num: int) -> Tensor:
    """``num`` samples, uint8 (N, C, H, W)."""

    def load_no_data() -> tuple[Dataset, Dataset]:
        raise RunError("samples need no data")

    subject = ImageStudyContext(model, load_no_data)
    with stage("sampling") as observer:
        named = class_name if requested.of_class else None
        return draw(subject, num, lambda done: observer.progress(done, num), class_name=named)[0]


def _measured(path: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result of the same set with the same settings and data, if any."""
    try:
        earlier = read_checked(path, "it is measured again")
    except UsageError:
        return None
    keys = ("class_name", "config", "samples", "features", "metric")
    earlier = {"metric": "frechet", **earlier}  # the only metric of earlier versions
    return earlier if all(earlier.get(key) == row[key] for key in keys) else None


def _note(row: dict[str, Any], distance: SetDistance) -> str:
    """Note next to a row of samples."""
    to_class, to_all = row["class"][distance.name], row["all"][distance.name]
    return f"{distance.short_label}\n{to_class:.3g} (the class)\n{to_all:.3g} (all)"


def _write(
    out: Path, record: dict[str, Any], rows: list[dict[str, Any]], shown: list[tuple[str, str, Any]]
) -> dict[str, Any]:
    result = {**record, "rows": rows}
    draw_samples(out / "samples.png", shown)
    write_json(out / "study.json", with_checksum(result))
    write_text(out / "table.md", markdown(rows, record))
    return result


def summary(result: Mapping[str, Any]) -> Table:
    """The result of the study as a table, one row per set of samples."""
    distance = set_distance(result["metric"])
    measured = (f"{distance.short_label} to {result['class']}", "precision", "recall", f"{distance.short_label} to all")
    texts = [row_texts(row, distance) for row in result["rows"]]
    rows = [[row[0], row[1], *row[4:7], row[7]] if len(row) > 7 else row for row in texts]
    return Table(
        f"{result['data']}, {result['images']:,} images per training", ("trained on", "sampled", *measured), rows
    )
