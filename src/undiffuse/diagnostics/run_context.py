"""Input of the run checks: the model, metrics log, checkpoints and data of a run, and newly drawn samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.core.space import Space
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Batch, Dataset
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.metrics import load_features
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.modes import Modes
from undiffuse.models.files.weights import WEIGHTS, read_weights
from undiffuse.models.options import option_rows
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model, load
from undiffuse.observer import SILENT, Observer
from undiffuse.seen import images_seen
from undiffuse.wording import count_noun

#: Samples drawn first to estimate the time per sample.
_NUM_TIMED = 16
_CHUNK = 500


class CheckpointState(NamedTuple):
    """A checkpoint's name, size, damage (why it is unusable, or ""), and the compute settings of the run."""

    name: str
    num_bytes: int
    damage: str
    settings: tuple[Mapping[str, Any], ...] = ()


@dataclass
class RunContext:
    """A run or a saved model to be examined.

    Args:
        folder: folder of the run.
        record: the content of its ``config.json``.
        load_data: returns (training, held-out) items; called once, when first needed.
        metrics_log: the rows of ``metrics.jsonl``.
        metrics_log_note: description of corrupt lines in that file, or "".
        checkpoints: newest first.
        config_error: why ``config.json`` is invalid for this version, or "".
        features: an entry of ``metrics.FEATURES``, for classes and coverage.
        num: maximum number of samples, limited by ``seconds``.
        seconds: time budget for sampling.
        seed: seed of the first sample; sample i has seed + i.
        device: device of the model.
        observer: receives the number of drawn samples and the total.
        count_modes: counts the modes of samples; ``None`` if those of the data are unknown.
    """

    folder: Path
    record: Mapping[str, Any]
    load_data: Callable[[], tuple[Dataset, Dataset]]
    metrics_log: Sequence[Mapping[str, Any]] = ()
    metrics_log_note: str = ""
    checkpoints: Sequence[CheckpointState] = ()
    config_error: str = ""
    features: str = "pixels"
    num: int = 256
    seconds: float = 25.0
    seed: int = 0
    device: str = "cpu"
    observer: Observer = SILENT
    count_modes: Callable[[Tensor], Modes] | None = None
    seconds_per_sample: float = field(default=0.0, init=False)

    @cached_property
    def model(self) -> Model:
        """The model with averaged weights."""
        return load(self.folder, self.device)

    @cached_property
    def raw(self) -> dict[str, Tensor] | None:
        """The raw (not averaged) weights, if the folder has them."""
        path = self.folder / WEIGHTS["raw"]
        return read_weights(path) if path.is_file() else None

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the run."""
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return tuple(self.record["model"]["shape"])

    @property
    def images_seen(self) -> int:
        """Images seen in training, from the metrics log, else from the model's record; 0 if unknown."""
        return images_seen(self.record, self.metrics_log)

    @cached_property
    def data(self) -> tuple[Dataset, Dataset]:
        """(training, held-out) items."""
        return self.load_data()

    def rows(self, kind: str) -> list[Mapping[str, Any]]:
        """The rows of one kind, ``train`` or ``validation``, in the metrics log.

        Raises:
            UsageError: there is no metrics log.
        """
        if not self.metrics_log:
            raise UsageError("the folder has no metrics.jsonl, the metrics log of its training")
        return [row for row in self.metrics_log if row.get("kind") == kind]

    def check_images(self) -> None:
        """Check that the model generates images.

        Raises:
            UsageError: it generates points.
        """
        if not Space.of_data(self.shape).is_image:
            raise UsageError("this check is for images, and the model generates points")

    def real(self, count: int, held_out: bool = False) -> Tensor:
        """Up to ``count`` real items, evenly spaced over the training or held-out part."""
        dataset = self.data[int(held_out)]
        rows = evenly_spaced(len(dataset), count)
        parts = [dataset.fetch(rows[start : start + _CHUNK]).items for start in range(0, len(rows), _CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, *self.shape, dtype=torch.uint8)

    def batch(self, count: int, held_out: bool = False) -> Batch:
        """Like ``real``, with labels if the model is conditioned on them."""
        dataset = self.data[int(held_out)]
        batch = dataset.fetch(evenly_spaced(len(dataset), count))
        return batch if self.model.class_names else replace(batch, given=Given())

    def draw(self, first: int, count: int, num_steps: int | None = None) -> Tensor:
        """Samples ``seed + first`` ... as uint8 images or float32 points, cycling through the classes."""
        cond = self.model.condition(self.model.classes_of(None, first + count)[first:])
        seeds = range(self.seed + first, self.seed + first + count)
        sampled = self.model.module.sample(SampleRequest.of(seeds, steps=num_steps, cond=cond))
        return self.model.finish(sampled.x)

    @cached_property
    def samples(self) -> Tensor:
        """``num`` samples with the model's default options; fewer, but at least ``_NUM_TIMED``, if they take long."""
        parts = [self._timed(0, min(_NUM_TIMED, self.num))]
        allowed = max(_NUM_TIMED, min(self.num, int(self.seconds / max(self.seconds_per_sample, 1e-9))))
        while (done := sum(map(len, parts))) < min(allowed, self.num):
            self.observer.progress(done, allowed)
            parts.append(self.draw(done, min(64, allowed - done)))
        return torch.cat(parts)

    def _timed(self, first: int, count: int) -> Tensor:
        started = time.monotonic()
        drawn = self.draw(first, count)
        self.seconds_per_sample = (time.monotonic() - started) / count
        return drawn

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The feature extractor for classes and coverage."""
        return load_features(self.features)

    @property
    def sampling(self) -> str:
        """Description of how the samples were drawn."""
        record = self.model.module.sampling_record()
        method = [str(record.get("sampler", "its sampler")), f"{record.get('steps', '?')} steps"]
        options = (row.option.template.format(record[row.key]) for row in option_rows().values() if row.key in record)
        how = ", ".join(dict.fromkeys([*method, *filter(None, options)]))
        return f"{count_noun(len(self.samples), 'sample')} by {how}"
