"""Samples as Python has them: a tensor that knows how it was made, shows itself and saves itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undiffuse.claims import claimed
from undiffuse.errors import UsageError
from undiffuse.files import check_replaceable_folder
from undiffuse.images import SHOWN_SIDE, image_of, to_image
from undiffuse.models.sample_sets.files import OWN_FILES
from undiffuse.models.sample_sets.folder import SHOWN, SampleSet
from undiffuse.models.sample_sets.record import whole_record
from undiffuse.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image


class Samples(Tensor):
    """uint8 images (N, C, H, W) or float32 points (N, D) on the CPU; whatever is computed of them is a plain tensor.

    A slice along N, such as ``samples[:4]``, are samples again, with their seeds and classes; all other indexing gives
    plain tensors.

    Attributes:
        seeds: one a sample.
        classes: of each, ``None`` for no class in particular; empty for a model without classes.
    """

    seeds: range
    classes: list[str | None]
    _shared: dict[str, Any]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, x: Tensor, shared: Mapping[str, Any], seeds: range, classes: Sequence[str | None]) -> Samples:
        """These samples with what is recorded of all of them, costs among it.

        Args:
            x: uint8 images (N, C, H, W) or float32 points (N, D), on the CPU.
            shared: what ``samples.json`` says of all of them.
            seeds: N of them.
            classes: of each, ``None`` for no class in particular; empty for a model without classes.
        """
        samples = x.detach().as_subclass(cls)
        samples.seeds, samples.classes, samples._shared = seeds, list(classes), dict(shared)
        return samples

    def __getitem__(self, index: Any) -> Tensor:
        """A slice of the samples, or whatever else torch gives."""
        picked = super().__getitem__(index)
        if not isinstance(index, slice) or not self._is_made:
            return picked
        return type(self).of(picked, self._shared, self.seeds[index], self.classes[index])

    @property
    def record(self) -> dict[str, Any]:
        """What ``samples.json`` says: model, sampler, costs, and an entry per sample."""
        return whole_record(self._shared, self.seeds, self.classes, not self._are_images)

    @property
    def images(self) -> list[Image]:
        """Pillow's images.

        Raises:
            UsageError: these are points.
        """
        if not self._are_images:
            raise UsageError(f"these samples are points in {self.shape[1]} dimensions and no images; see .numpy()")
        return [to_image(array) for array in self.numpy()]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the files of ``undiffuse sample``: images or ``samples.npy``, ``grid.png`` and ``samples.json``.

        Args:
            folder: where; it is made if it is not there.
            overwrite: replace samples that are there.
        Raises:
            UsageError: something stands there, nothing can be written there, or there are no samples.
        """
        if not len(self):
            raise UsageError("there is no sample to save; take a slice that holds some")
        out = Path(folder).expanduser()
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise UsageError(f"{out} is not empty; name another folder, or allow .save to overwrite samples")
        with claimed(out):
            check_replaceable_folder(out, "samples", "samples.json", OWN_FILES, overwrite=True)
            shared = {key: value for key, value in self._shared.items() if key not in ("nfe", "partial_nfe")}
            sample_set = SampleSet(out, shared, self.seeds, self.classes, tuple(self.shape[1:]), made_by="Python")
            sample_set.discard()
            sample_set.take(range(len(self)), self.numpy(), self._shared["nfe"], self._shared["partial_nfe"])
            sample_set.finish()
        return out

    @property
    def _is_made(self) -> bool:
        """By a model, and not by torch out of such samples."""
        return "_shared" in self.__dict__

    @property
    def _are_images(self) -> bool:
        return self.dtype == torch.uint8

    def __repr__(self) -> str:  # type: ignore[override]
        if not self._is_made:
            return repr(self.as_subclass(Tensor))
        what = counted(len(self), "image" if self._are_images else "point")
        size, seeds = "×".join(map(str, self.shape[1:])), f", {_words(self.seeds)}" if len(self) else ""
        return f"<Samples of {self._shared['model']}: {what}, {size} {self.dtype}{seeds}>"

    def _repr_png_(self) -> bytes | None:
        """The grid of the first 256, or the density of points, for notebooks; nothing of none."""
        if not len(self):
            return None
        file = io.BytesIO()
        shown = self.numpy()[:SHOWN] if self._are_images else self.numpy()
        to_image(image_of(shown, smallest_side=SHOWN_SIDE)).save(file, format="PNG")
        return file.getvalue()


def _words(seeds: range) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"seeds {seeds[0]} to {seeds[-1]}{f' in steps of {seeds.step}' if seeds.step != 1 else ''}"
