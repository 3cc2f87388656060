"""Exact annotations of computed scenes: which thing each pixel shows, edges, boxes and outlines.

A thing has the number 1 + 3 group + member, with groups and members counted from 0. Things do not overlap; they are
drawn in the order of their numbers, which is their order in depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.annotators.scenes.outlines import Segments, outline
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES
from undiffuse.data.config.scenes import ScenesConfig
from undiffuse.data.sources.scenes.layout import Layout, lay_out
from undiffuse.data.sources.scenes.render import PAD, things
from undiffuse.data.sources.scenes.words import draw_scenes

#: Largest number of things in a scene.
MOST_THINGS = 9


@dataclass(frozen=True)
class SceneAnnotations:
    """Annotations of B scenes.

    Args:
        scenes: their words.
        segmentation: (B, size, size) uint8, number of the thing that covers at least half of the pixel, else 0.
        boxes: (B, 9, 4) left, top, right and bottom edges of each thing's bounding box in pixels; 0 if absent. A digit
            is narrower than its box.
        present: (B, 9) whether the scene has the thing with number i + 1.
    """

    scenes: SceneArrays
    segmentation: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]

    @property
    def depth(self) -> npt.NDArray[np.float32]:
        """(B, size, size) order in depth in [0, 1]: 0 for the background, larger for what is drawn later."""
        return self.segmentation.astype(np.float32) / np.float32(MOST_THINGS)

    @property
    def edges(self) -> npt.NDArray[np.bool_]:
        """(B, size, size) whether a pixel of a thing is next to one that is not."""
        padded = np.pad(self.segmentation, ((0, 0), (1, 1), (1, 1)))
        inner = padded[:, 1:-1, 1:-1]
        around = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
        edges: npt.NDArray[np.bool_] = (inner > 0) & np.any([other != inner for other in around], axis=0)
        return edges

    def lines(self, row: int) -> Segments:
        """(M, 4) segments of the outlines of all things of one scene: x and y of start and end in pixels.

        Args:
            row: number of the scene within the batch.
        """
        found = []
        for thing in np.flatnonzero(self.present[row]).tolist():
            left, top, right, _ = self.boxes[row, thing]
            shape = ALL_SHAPES[self.scenes.shape[row, thing // 3]]
            found.append((outline(shape) + 1) * (right - left) / 2 + np.array([left, top, left, top]))
        return np.concatenate(found)


def annotate(config: ScenesConfig, numbers: Numbers) -> SceneAnnotations:
    """Annotations of the scenes with these numbers.

    Args:
        config: options of the set.
        numbers: (B,) numbers of scenes.
    """
    scenes = draw_scenes(config, numbers)
    layout = lay_out(config, numbers, scenes)
    boxes = np.concatenate([layout.corner, layout.corner + layout.side[:, :, None, None]], axis=-1)
    present = layout.present.reshape(-1, MOST_THINGS)
    return SceneAnnotations(
        scenes,
        _segmentation(config, scenes, layout),
        np.where(present[..., None], boxes.reshape(-1, MOST_THINGS, 4), 0),
        present,
    )


def _segmentation(config: ScenesConfig, scenes: SceneArrays, layout: Layout) -> npt.NDArray[np.uint8]:
    side = config.size + PAD
    numbers = np.zeros((len(scenes), side, side), dtype=np.uint8)
    for part in things(config.vocabulary, scenes, layout):
        number = 1 + 3 * part.group + part.member
        numbers[part.at] = np.where(part.coverage >= 0.5, np.uint8(number), numbers[part.at])
    return numbers[:, : config.size, : config.size]
