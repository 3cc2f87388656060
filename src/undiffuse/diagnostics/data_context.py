"""Input of the data checks: the set as used for training, its files if it has any, and statistics of one pass over it.

The pass stores a thumbnail and a few statistics of each image: about 3 KB per image, independent of its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undiffuse.data import load_dataset
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.config import EncodedConfig, FolderConfig, ImageConfig, SourceConfig
from undiffuse.data.dataset import HASH_BYTES, Dataset, Hashes, Indices
from undiffuse.data.load import list_source
from undiffuse.data.split import held_out_rows
from undiffuse.diagnostics.duplicates import Pairs, near_pairs, thumbnails
from undiffuse.diagnostics.limits import NEAR
from undiffuse.diagnostics.survey import Survey, survey_folder
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, Observer

#: Maximum number of images whose pixels are examined, evenly spaced in larger sets. Hashes are compared for all images.
MOST = 100_000
_CHUNK = 512
#: Grey level differences: caused by compression in uniform areas; visible as an edge.
_SAME, _VISIBLE = 4, 16


@dataclass(frozen=True)
class Values:
    """Statistics of each image, ``(N,)`` each.

    Attributes:
        low, high: smallest and largest value, 0..255.
        mean, contrast: mean and standard deviation of its values.
        black, white: fraction of values at 0 and at 255.
        border: mean value of its outermost rows and columns.
        plain_border: whether the outermost rows and columns have a single colour.
        end_border: fraction of the border values at 0 or 255, which is high for a plain background.
        bars: fraction of the height or width covered by uniform bars on two opposite sides.
        grey: whether its channels are equal.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    contrast: Tensor
    black: Tensor
    white: Tensor
    border: Tensor
    plain_border: Tensor
    end_border: Tensor
    bars: Tensor
    grey: Tensor


@dataclass
class DataContext:
    """A set of images or points to be examined.

    Args:
        name: name given by the user.
        config: configuration of the source.
        against: another set that must not share images with it, such as the test set.
        near: maximum distance of near-duplicates, see ``diagnostics.duplicates``; searched among ``MOST`` items.
        observer: receives the number of examined images and the total.
    """

    name: str
    config: SourceConfig
    against: DataContext | None = None
    near: float = NEAR
    observer: Observer = SILENT

    @cached_property
    def survey(self) -> Survey | None:
        """The files of a folder; ``None`` for other sources."""
        return survey_folder(self.config, self.observer) if isinstance(self.config, FolderConfig) else None

    @cached_property
    def dataset(self) -> Dataset:
        """All readable items, including those without a label that other items have."""
        without = dict.fromkeys(self.lacking, "none") if self.lacking else {}
        return load_dataset(self._skipping.model_copy(update=without))

    @property
    def _skipping(self) -> SourceConfig:
        """The configuration of the source with unusable items skipped."""
        skipping = {"on_error": "skip"} if hasattr(self.config, "on_error") else {}
        return self.config.model_copy(update=skipping)

    @cached_property
    def lacking(self) -> dict[str, list[str]]:
        """Maps ``labels`` to the items that lack one although other items have it.

        Training raises an error for such a set, or skips these items.
        """
        config = self._skipping
        keys = _optional(config)
        if not keys or len(self._listed) == len(every := _listed(config, dict.fromkeys(keys, "none"))):
            return {}
        complete = set(_item_names(self._listed))
        return {key: [name for name in _item_names(every) if name not in complete] for key in keys}

    @cached_property
    def _listed(self) -> Dataset:
        """The items used for training, listed but not decoded."""
        return _listed(self._skipping, {})

    @property
    def has_images(self) -> bool:
        """Whether its items are images."""
        return self.dataset.space.is_image

    @cached_property
    def rows(self) -> Indices:
        """Indices of the items whose pixels are examined."""
        return evenly_spaced(len(self.dataset), MOST)

    @property
    def coverage(self) -> tuple[int, int]:
        """(items examined, items found); (0, 0) if the set cannot be read."""
        if "dataset" not in vars(self):
            return 0, 0
        survey = vars(self).get("survey")
        broken = len(survey.broken) if survey is not None else 0
        return len(self.rows), len(self.dataset) + broken

    def names(self, items: Iterable[int]) -> list[str]:
        """Short names of items, by their indices in the set."""
        return [self.short(self.dataset.item_name(int(item))) for item in items]

    def short(self, name: str) -> str:
        """The name of an item relative to the location of the set."""
        return name.removeprefix(f"{getattr(self.config, 'location', '')}/")

    @cached_property
    def hashes(self) -> Hashes:
        """(N, 16) hashes of all items."""
        return self.dataset.hashes()

    @cached_property
    def labels(self) -> Indices | None:
        """(N,) labels of all items, -1 for missing ones; ``None`` if the set has none."""
        if "labels" not in self.lacking:
            return self.dataset.labels
        numbers = self._listed.labels
        if numbers is None:
            return None
        number_of = dict(zip(_item_names(self._listed), numbers.tolist(), strict=True))
        return np.array([number_of.get(name, -1) for name in _item_names(self.dataset)], dtype=np.int64)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return (self._listed if "labels" in self.lacking else self.dataset).class_names

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of items per class; empty if there are no labels."""
        if self.labels is None:
            return {}
        times = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, times, strict=True))

    @cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each item belongs to the validation split."""
        return held_out_rows(self.dataset.split_hashes(), self.config.validation_fraction)

    @cached_property
    def _examined(self) -> tuple[Values, Tensor]:
        if not self.has_images:
            raise UsageError(f"{self.name} holds points of shape {self.dataset.shape}; this check is for images")
        parts, small = [], []
        for start in range(0, len(self.rows), _CHUNK):
            images = torch.from_numpy(self.dataset.items(self.rows[start : start + _CHUNK]))
            parts.append(values_of(images))
            small.append(thumbnails(images))
            self.observer.progress(start + len(images), len(self.rows))
        columns = [torch.cat([getattr(part, name) for part in parts]) for name in Values.__dataclass_fields__]
        return Values(*columns), torch.cat(small)

    @property
    def values(self) -> Values:
        """Statistics of each image."""
        return self._examined[0]

    @property
    def small(self) -> Tensor:
        """Thumbnails, uint8 (N, C, h, w)."""
        return self._examined[1]

    @cached_property
    def pairs(self) -> Pairs:
        """Near-duplicates within the set; of exact duplicates only the first is compared."""
        _, first = np.unique(as_items(self.hashes[self.rows]), return_index=True)
        places = torch.from_numpy(np.sort(first))
        found = near_pairs(self.small[places], self.near)
        items = torch.from_numpy(self.rows)[places]
        return Pairs(items[found.first], items[found.second], found.distance, found.mirrored, found.limit)


def as_items(hashes: Hashes) -> npt.NDArray[np.void]:
    """(N,) from (N, 16): each hash as one item that can be sorted and compared."""
    return np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}")[:, 0]


def _optional(config: SourceConfig) -> list[str]:
    """Enabled optional keys, ``labels``; labels are required if classes are selected."""
    chosen = isinstance(config, ImageConfig) and bool(config.classes)
    return ["labels"] if isinstance(config, EncodedConfig) and config.labels != "none" and not chosen else []


def _listed(config: SourceConfig, update: Mapping[str, str]) -> Dataset:
    assert isinstance(config, EncodedConfig)
    return list_source(config.model_copy(update=dict(update)))


def _item_names(dataset: Dataset) -> list[str]:
    return [dataset.item_name(row) for row in range(len(dataset))]


def values_of(images: Tensor) -> Values:
    """``Values`` of uint8 images (B, C, H, W)."""
    flat = images.flatten(1)
    edge = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=2)
    return Values(
        low=flat.min(1).values,
        high=flat.max(1).values,
        mean=flat.float().mean(1),
        contrast=flat.float().std(1, correction=0),
        black=(flat == 0).float().mean(1),
        white=(flat == 255).float().mean(1),
        border=edge.flatten(1).float().mean(1),
        plain_border=(edge == edge[..., :1]).flatten(1).all(1),
        end_border=((edge == 0) | (edge == 255)).flatten(1).float().mean(1),
        bars=torch.maximum(bars_of(images), bars_of(images.transpose(2, 3))),
        grey=(images == images[:, :1]).flatten(1).all(1),
    )


def bars_of(images: Tensor) -> Tensor:
    """Fraction of the height covered by uniform bars at top and bottom, 0 if there are none, ``(B,)``.

    The margin of a drawing does not count: bars have equal heights, and the content between them has a sharp edge over
    most of the width and touches both sides over most of its height.
    """
    batch, height = len(images), images.shape[2]
    difference = (images.int() - images[..., :1, :1].int()).abs().amax(1)  # from the corner's colour, (B, H, W)
    full = (difference > _SAME).any(2)
    rows = torch.arange(height).expand(batch, height)
    top = torch.where(full, rows, height).amin(1)
    bottom = torch.where(full, rows, -1).amax(1)
    is_centred = (top - (height - 1 - bottom)).abs() <= max(1, height // 32)  # up to rounding
    has_bars = (top > 0) & (bottom < height - 1) & (bottom > top) & is_centred
    strong, every = difference > _VISIBLE, torch.arange(batch)
    edges = [strong[every, row].float().mean(1) for row in (top.clamp(max=height - 1), bottom.clamp(min=0))]
    inside = ((rows >= top[:, None]) & (rows <= bottom[:, None])).float()
    sides = [(strong[..., column] * inside).sum(1) / inside.sum(1).clamp(min=1) for column in (0, -1)]
    is_sharp = torch.stack([*edges, *sides]).amin(0) > 0.7
    fraction = (height - (bottom - top + 1)).float() / height
    return torch.where(has_bars & is_sharp, fraction, torch.zeros_like(fraction))
