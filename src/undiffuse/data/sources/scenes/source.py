"""The data set of computed scenes: images, captions and hashes are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.data.config.scenes import ScenesConfig
from undiffuse.data.dataset import Dataset, Hashes, Indices
from undiffuse.data.sources.scenes.layout import lay_out
from undiffuse.data.sources.scenes.render import render
from undiffuse.data.sources.scenes.words import as_bytes, caption_hashes, draw_scenes, hashed
from undiffuse.data.storage.computed_texts import ComputedTexts

HashFunction = Callable[[Numbers], Hashes]

#: Images drawn at a time, and scenes whose hashes are computed at a time: bounds the memory for large requests.
_IMAGES, _HASHES = 256, 1 << 16


class ScenesDataset(Dataset):
    """Scenes drawn when they are loaded; scene i is a function of the options and i.

    Args:
        config: options.
    """

    def __init__(self, config: ScenesConfig) -> None:
        options = config.model_dump(exclude={"name", "validation_fraction"})
        provenance = {
            "source": "computed: scenes of coloured shapes",
            "licence": "none needed",
            "options": " ".join(f"{key}={value}" for key, value in options.items()),
        }
        super().__init__(config.name, (3, config.size, config.size), (), provenance)
        self.config = config
        self._captions = SceneCaptions(config, config.num_scenes)

    def __len__(self) -> int:
        return self.config.num_scenes

    def scenes(self, indices: Indices) -> SceneArrays:
        """The words of the scenes at these positions."""
        return draw_scenes(self.config, indices)

    def items(self, indices: Indices) -> npt.NDArray[np.uint8]:
        images = np.empty((len(indices), *self.shape), dtype=np.uint8)
        for start in range(0, len(indices), _IMAGES):
            rows = indices[start : start + _IMAGES]
            scenes = self.scenes(rows)
            layout = lay_out(self.config, rows, scenes)
            images[start : start + _IMAGES] = render(self.config.vocabulary, scenes, layout)
        return images

    def hashes(self) -> Hashes:
        """Hashes of the caption, the seed and the position, which determine the image."""
        return self._in_blocks(self._item_hashes)

    def split_hashes(self) -> Hashes:
        """Hashes of the captions: all scenes with one caption are in the same split."""
        return self._in_blocks(lambda rows: caption_hashes(self.scenes(rows).caption_numbers()))

    def _item_hashes(self, rows: Numbers) -> Hashes:
        captions = caption_hashes(self.scenes(rows).caption_numbers()).view(np.uint64)
        return as_bytes(hashed(self.config.seed, rows, (0, 1)) ^ captions)

    def _in_blocks(self, compute: HashFunction) -> Hashes:
        hashes = np.empty((len(self), 16), dtype=np.uint8)
        for start in range(0, len(self), _HASHES):
            rows = np.arange(start, min(start + _HASHES, len(self)))
            hashes[rows] = compute(rows)
        return hashes


class SceneCaptions(ComputedTexts):
    """Captions of scenes.

    Args:
        config: options of the set.
        count: number of captions.
        rows: (count,) numbers of the scenes; all by default.
    """

    def __init__(self, config: ScenesConfig, count: int, rows: Numbers | None = None) -> None:
        super().__init__(count, rows)
        self._config = config

    def compute(self, rows: Numbers) -> list[str]:
        return draw_scenes(self._config, rows).captions()

    def selection(self, rows: Numbers) -> Self:
        return type(self)(self._config, len(rows), rows)

    def digest(self) -> bytes:
        numbers = b"" if self.rows is None else np.ascontiguousarray(self.rows, dtype="<i8").tobytes()
        return self._config.model_dump_json().encode() + numbers


def load(config: ScenesConfig) -> Dataset:
    """Create the data set of a ``ScenesConfig``; it has captions and no labels."""
    return ScenesDataset(config)
