"""What the doctor examines in data: the set as training would see it, its files where it has any, and one pass over it.

The pass keeps a thumbnail and a few numbers of each image: about 3 KB of memory an image, whatever its size.
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

#: Images whose pixels are examined; of a larger set an evenly spaced choice. Hashes are compared of all.
MOST = 100_000
_CHUNK = 512
#: Grey levels of difference that compression makes in a plain area, and that are seen as an edge.
_SAME, _VISIBLE = 4, 16


@dataclass(frozen=True)
class Values:
    """Numbers of each image, ``(N,)`` each.

    Attributes:
        low, high: smallest and largest value, 0..255.
        mean, contrast: mean and standard deviation of its values.
        black, white: share of values at 0 and at 255.
        border: mean value of its outermost rows and columns.
        plain_border: whether the outermost rows and columns are all of one colour.
        end_border: share of the values there at 0 or 255, as a plain ground has.
        bars: share of the height or width that bars of one colour take, on both of two opposite sides.
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
        name: what the user called it.
        config: of the source.
        against: another set that must share no image with it, such as the test set.
        near: the limit on the distance of near-duplicates, see ``doctor.duplicates``; searched among ``MOST`` items.
        observer: learns how many images are examined, of how many.
    """

    name: str
    config: SourceConfig
    against: DataContext | None = None
    near: float = NEAR
    observer: Observer = SILENT

    @cached_property
    def survey(self) -> Survey | None:
        """Each file of a folder; ``None`` for other sources."""
        return survey_folder(self.config, self.observer) if isinstance(self.config, FolderConfig) else None

    @cached_property
    def dataset(self) -> Dataset:
        """All items that can be read, including those without a label or a caption that others have."""
        without = dict.fromkeys(self.lacking, "none") if self.lacking else {}
        return load_dataset(self._skipping.model_copy(update=without))

    @property
    def _skipping(self) -> SourceConfig:
        """The source, read such that what cannot be used is skipped."""
        skipping = {"on_error": "skip"} if hasattr(self.config, "on_error") else {}
        return self.config.model_copy(update=skipping)

    @cached_property
    def lacking(self) -> dict[str, list[str]]:
        """Key of the source, ``captions`` or ``labels`` -> the items without one where others have it.

        A training refuses such a set, or leaves these items out.
        """
        config = self._skipping
        keys = _optional(config)
        if not keys or len(self._listed) == len(every := _listed(config, dict.fromkeys(keys, "none"))):
            return {}
        lacking = {}
        for key in keys:
            complete = set(_item_names(_listed(config, {other: "none" for other in keys if other != key})))
            if without := [name for name in _item_names(every) if name not in complete]:
                lacking[key] = without
        return lacking

    @cached_property
    def _listed(self) -> Dataset:
        """What training would take, found and not decoded."""
        return _listed(self._skipping, {})

    @property
    def has_images(self) -> bool:
        """Whether its items are images."""
        return self.dataset.space.is_image

    @cached_property
    def rows(self) -> Indices:
        """Numbers of the items whose pixels are examined."""
        return evenly_spaced(len(self.dataset), MOST)

    @property
    def coverage(self) -> tuple[int, int]:
        """(items examined, items found); none where the set cannot be read."""
        if "dataset" not in vars(self):
            return 0, 0
        survey = vars(self).get("survey")
        broken = len(survey.broken) if survey is not None else 0
        return len(self.rows), len(self.dataset) + broken

    def names(self, items: Iterable[int]) -> list[str]:
        """What to call items, by their numbers in the set."""
        return [self.short(self.dataset.item_name(int(item))) for item in items]

    def short(self, name: str) -> str:
        """The name of an item without the folder that all of them lie in."""
        return name.removeprefix(f"{getattr(self.config, 'location', '')}/")

    @cached_property
    def hashes(self) -> Hashes:
        """(N, 16) of all items."""
        return self.dataset.hashes()

    @cached_property
    def labels(self) -> Indices | None:
        """(N,) of all items, -1 where one has none; ``None`` where no item has."""
        if "labels" not in self.lacking:
            return self.dataset.labels
        numbers = self._listed.labels
        if numbers is None:
            return None
        number_of = dict(zip(_item_names(self._listed), numbers.tolist(), strict=True))
        return np.array([number_of.get(name, -1) for name in _item_names(self.dataset)], dtype=np.int64)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        return (self._listed if "labels" in self.lacking else self.dataset).class_names

    @property
    def class_counts(self) -> dict[str, int]:
        """How many items each class has; empty where there are no labels."""
        if self.labels is None:
            return {}
        times = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, times, strict=True))

    @cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the project's own split holds each item out."""
        return held_out_rows(self.hashes, self.config.validation_fraction)

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
        """Numbers of each image."""
        return self._examined[0]

    @property
    def small(self) -> Tensor:
        """Thumbnails, uint8 (N, C, h, w)."""
        return self._examined[1]

    @cached_property
    def pairs(self) -> Pairs:
        """Near-duplicates within the set, exact ones apart: of those one each is compared."""
        _, first = np.unique(as_items(self.hashes[self.rows]), return_index=True)
        places = torch.from_numpy(np.sort(first))
        found = near_pairs(self.small[places], self.near)
        items = torch.from_numpy(self.rows)[places]
        return Pairs(items[found.first], items[found.second], found.distance, found.mirrored, found.limit)


def as_items(hashes: Hashes) -> npt.NDArray[np.void]:
    """(N,) from (N, 16): each hash as one thing that can be sorted and compared."""
    return np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}")[:, 0]


def _optional(config: SourceConfig) -> list[str]:
    """Keys that may be read of each item and are not turned off; a choice of classes needs its labels."""
    keys = [key for key in ("captions", "labels") if isinstance(config, EncodedConfig) and hasattr(config, key)]
    chosen = isinstance(config, ImageConfig) and bool(config.classes)
    return [key for key in keys if getattr(config, key) != "none" and not (key == "labels" and chosen)]


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
    """Share of the height in bars of one colour at top and bottom, 0 without, ``(B,)``.

    A margin around a drawing is no bar: bars are alike in height, and what lies between them begins at once over most
    of the width and reaches both sides over most of their height.
    """
    batch, height = len(images), images.shape[2]
    difference = (images.int() - images[..., :1, :1].int()).abs().amax(1)  # from the corner's colour, (B, H, W)
    full = (difference > _SAME).any(2)
    rows = torch.arange(height).expand(batch, height)
    top = torch.where(full, rows, height).amin(1)
    bottom = torch.where(full, rows, -1).amax(1)
    alike = (top - (height - 1 - bottom)).abs() <= max(1, height // 32)  # as centring leaves them
    barred = (top > 0) & (bottom < height - 1) & (bottom > top) & alike
    strong, every = difference > _VISIBLE, torch.arange(batch)
    edges = [strong[every, row].float().mean(1) for row in (top.clamp(max=height - 1), bottom.clamp(min=0))]
    inside = ((rows >= top[:, None]) & (rows <= bottom[:, None])).float()
    sides = [(strong[..., column] * inside).sum(1) / inside.sum(1).clamp(min=1) for column in (0, -1)]
    most = torch.stack([*edges, *sides]).amin(0) > 0.7
    share = (height - (bottom - top + 1)).float() / height
    return torch.where(barred & most, share, torch.zeros_like(share))
