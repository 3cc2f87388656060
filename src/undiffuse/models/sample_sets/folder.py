"""A folder of samples that is written incrementally and can be resumed after an interruption.

Files are first written to a hidden folder next to the output folder, ``.NAME.REQUEST.partial``, whose name contains a
hash of everything that affects the samples; it is renamed when it is complete. Incomplete files have temporary names,
so that existing samples need not be generated again: sample i depends only on seed i.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.space import Space
from undiffuse.files import finalize_folder, translate_os_errors
from undiffuse.images import SHOWN_SIDE, fill_png, image_of
from undiffuse.models.prompts import text_record
from undiffuse.models.sample_sets.files import check_grid
from undiffuse.models.sample_sets.image_record import PER_SAMPLE, image_record, texts_of
from undiffuse.models.sample_sets.record import row_of, setting_of, write_record

#: Default number of images in ``grid.png``; larger grids are hard to view.
SHOWN = 256
#: Folders with more samples are synced to disk before they are moved.
_SYNC_THRESHOLD = 1000
_COSTS, _POINTS = "costs.json", "points.f32"


class SampleSet:
    """Writes samples into a folder.

    Args:
        out: output folder.
        shared: the shared part of the record, without costs.
        seeds, prompts: seed and prompt of each sample; no prompts for a model with neither classes nor text.
        shape: shape of one sample.
        shown: number of images in the grid.
        environment: what else affects the exact values, such as the version and the kind of device; not recorded.
        record: whether each image file contains its record, see ``image_record``.
    """

    def __init__(
        self,
        out: Path,
        shared: Mapping[str, Any],
        seeds: range,
        prompts: Sequence[Prompt],
        shape: tuple[int, ...],
        shown: int = SHOWN,
        environment: str = "",
        record: bool = True,
    ) -> None:
        check_grid(shown)
        self.out, self.shared, self.seeds, self.prompts, self.shape = out, dict(shared), seeds, prompts, shape
        self.shown, self.points, self.record = shown, not Space.of_data(shape).is_image, record
        requested = json.dumps(
            [environment, self.shared, seeds.start, len(seeds), _requested(prompts), list(shape), record],
            sort_keys=True,
        )
        target = out.resolve()
        self.folder = target.with_name(f".{target.name}.{hashlib.sha256(requested.encode()).hexdigest()[:12]}.partial")
        self.nfe, self.partial_nfe = self._costs()

    def __len__(self) -> int:
        return len(self.seeds)

    def missing(self) -> list[int]:
        """Indices of the samples that have not been written yet, ascending."""
        if not self.folder.is_dir():
            return list(range(len(self)))
        if self.points:
            return list(range(self._num_complete_rows(), len(self)))
        existing = {path.name for path in self.folder.iterdir()}
        return [number for number in range(len(self)) if _file(number) not in existing]

    def other_requests(self) -> list[Path]:
        """Partial folders of other requests for the same output folder."""
        target = self.out.resolve()
        return sorted(set(target.parent.glob(f".{target.name}.*.partial")) - {self.folder})

    def discard(self) -> None:
        """Delete the partial folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, numbers: Sequence[int], samples: npt.NDArray[Any], nfe: int, partial_nfe: int) -> None:
        """Write samples with these indices, and their costs.

        Args:
            numbers: B indices, ascending.
            samples: uint8 images (B, C, H, W) or float32 points (B, D).
            nfe: maximum NFE over the samples.
            partial_nfe: maximum number of evaluations with cached features.
        Raises:
            UsageError, RunError: if the files cannot be written.
        """
        with translate_os_errors(self.out):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.nfe, self.partial_nfe = max(self.nfe, nfe), max(self.partial_nfe, partial_nfe)
            costs = self.folder / f"{_COSTS}.tmp"
            costs.write_text(json.dumps([self.nfe, self.partial_nfe]), encoding="utf-8")
            costs.replace(self.folder / _COSTS)
            if self.points:
                self._append(numbers[0], samples)
                return
            for number, sample in zip(numbers, samples, strict=True):
                unfinished = self.folder / f"{_file(number)}.tmp"
                fill_png(unfinished, sample, self.texts(number))
                unfinished.replace(self.folder / _file(number))

    def finish(self, more: Mapping[str, Any] | None = None) -> None:
        """Write the grid and the record, and move the folder to its final path.

        Args:
            more: functions that write additional files, by file name.
        """
        costs = {"nfe": self.nfe, "partial_nfe": self.partial_nfe}
        with translate_os_errors(self.out):
            for stray in self.folder.glob("*.tmp"):
                stray.unlink()
            if self.points:
                self._finish_points()
            grid = image_of(self._for_grid(), smallest_side=SHOWN_SIDE)
            fill_png(
                self.folder / "grid.png",
                grid,
                self.texts(0, in_grid=len(self) if self.points else min(self.shown, len(self))),
            )
            for file, write in (more or {}).items():
                write(self.folder / file)
            record = self.folder / "samples.json"
            write_record(record, {**self.shared, **costs}, self.seeds, self.prompts, self.points)
            if len(self) > _SYNC_THRESHOLD:
                os.sync()
        finalize_folder(self.folder, self.out)
        (self.out / _COSTS).unlink(missing_ok=True)  # last, since resuming needs the costs

    def texts(self, number: int, in_grid: int | None = None) -> dict[str, str]:
        """The texts of an image file; none without records.

        Args:
            number: index of the sample, or of the first one in a grid of several.
            in_grid: number of samples in the grid; None for the image of one sample.
        """
        if not self.record:
            return {}
        row = row_of(number, self.shared, self.seeds, self.prompts, self.points)
        if in_grid is not None:
            row = {key: value for key, value in row.items() if key not in PER_SAMPLE} | {"num": in_grid}
        size = None if self.points else (int(self.shape[-2]), int(self.shape[-1]))
        return texts_of(image_record(row, size, setting_of(self.shared)))

    def _costs(self) -> tuple[int, int]:
        try:
            nfe, partial_nfe = json.loads((self.folder / _COSTS).read_text(encoding="utf-8"))
            return int(nfe), int(partial_nfe)
        except (OSError, ValueError, TypeError):
            return 0, 0

    def _for_grid(self) -> npt.NDArray[Any]:
        if self.points:
            points: npt.NDArray[Any] = np.load(self.folder / "samples.npy", mmap_mode="r")
            return points
        return np.stack([_read(self.folder / _file(number)) for number in range(min(self.shown, len(self)))])

    @property
    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    def _num_complete_rows(self) -> int:
        path = self.folder / _POINTS
        if not path.is_file() and (self.folder / "samples.npy").is_file():
            return len(self)
        return min(path.stat().st_size // self._row_bytes, len(self)) if path.is_file() else 0

    def _append(self, first: int, samples: npt.NDArray[Any]) -> None:
        path = self.folder / _POINTS
        with path.open("rb+" if path.is_file() else "wb") as file:
            file.truncate(first * self._row_bytes)  # remove a partially written row
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(samples, dtype="<f4").tobytes())

    def _finish_points(self) -> None:
        path = self.folder / _POINTS
        if not path.is_file():  # the points were finished before an interruption
            return
        rows = np.memmap(path, dtype="<f4", mode="r", shape=(len(self), *self.shape))
        np.save(self.folder / "samples.npy", rows)
        path.unlink()


def _requested(prompts: Sequence[Prompt]) -> list[Any]:
    """What identifies the prompts: class names, with the texts of those that have any."""
    return [[prompt.class_name, texts] if (texts := text_record(prompt)) else prompt.class_name for prompt in prompts]


def in_fixed_batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Split ``numbers`` into batches of at most ``size``.

    Args:
        numbers: a sequence.
        size: maximum batch size, at least 1.
    Example:
        >>> list(in_fixed_batches([0, 1, 2], 2))
        [[0, 1], [2]]
    """
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def read_samples(folder: Path, num: int, points: bool) -> npt.NDArray[Any]:
    """Read the samples of a finished folder.

    Args:
        folder: of the set.
        num: of its samples.
        points: whether they are rows of ``samples.npy`` rather than images.
    Returns:
        uint8 images (num, C, H, W) or float32 points (num, D).
    """
    if points:
        rows: npt.NDArray[Any] = np.load(folder / "samples.npy")
        return rows
    return np.stack([_read(folder / _file(number)) for number in range(num)])


def _file(number: int) -> str:
    return f"{number:06d}.png"


def _read(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image of this folder as (C, H, W)."""
    from PIL import Image

    with Image.open(path) as image:
        array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
