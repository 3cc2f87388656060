"""Samples in Python: a tensor with a record of how it was generated, display in notebooks, and saving."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.errors import UsageError
from undiffuse.files import check_replaceable_folder
from undiffuse.images import SHOWN_SIDE, image_of, to_image
from undiffuse.locking import locked
from undiffuse.models.sample_sets.files import OWN_FILES
from undiffuse.models.sample_sets.folder import SHOWN, SampleSet
from undiffuse.models.sample_sets.record import full_record
from undiffuse.wording import count_noun

if TYPE_CHECKING:
    from PIL.Image import Image


class Samples(Tensor):
    """uint8 images (N, C, H, W) or float32 points (N, D) on the CPU; operations on them return plain tensors.

    A slice along N, such as ``samples[:4]``, is of this type again, with seeds and classes; all other indexing returns
    plain tensors.

    Attributes:
        seeds: seed of each sample.
        classes: class of each sample, ``None`` for unconditional ones; empty for a model without classes.
        prompts: text that each sample was drawn for, ``None`` for none; empty for a model without text.
    """

    seeds: range
    classes: list[str | None]
    prompts: list[str | None]
    _given: list[Prompt]
    _shared: dict[str, Any]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, x: Tensor, shared: Mapping[str, Any], seeds: range, prompts: Sequence[Prompt]) -> Samples:
        """Create samples from a tensor and its record.

        Args:
            x: uint8 images (N, C, H, W) or float32 points (N, D), on the CPU.
            shared: the entries of ``samples.json`` that all samples have in common, including costs.
            seeds: N seeds.
            prompts: prompt of each sample; empty for a model with neither classes nor text.
        """
        samples = x.detach().as_subclass(cls)
        samples.seeds, samples._given, samples._shared = seeds, list(prompts), dict(shared)
        has_classes, has_texts = (
            any(getattr(prompt, name) is not None for prompt in prompts) for name in ("class_name", "text")
        )
        samples.classes = [prompt.class_name for prompt in prompts] if has_classes or not has_texts else []
        samples.prompts = [prompt.text for prompt in prompts] if has_texts else []
        return samples

    def __getitem__(self, index: Any) -> Tensor:
        """Samples for a slice, a plain tensor for other indices."""
        picked = super().__getitem__(index)
        if not isinstance(index, slice) or not self._is_sampled:
            return picked
        return type(self).of(picked, self._shared, self.seeds[index], self._given[index])

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``samples.json``: model, sampler, costs, and an entry per sample."""
        return full_record(self._shared, self.seeds, self._given, not self._are_images)

    @property
    def images(self) -> list[Image]:
        """The samples as Pillow images.

        Raises:
            UsageError: if the samples are points.
        """
        if not self._are_images:
            raise UsageError(f"these samples are points in {self.shape[1]} dimensions, not images; use .numpy()")
        return [to_image(array) for array in self.numpy()]

    def save(self, folder: str | Path, *, overwrite: bool = False, record: bool = True) -> Path:
        """Write the files of ``undiffuse sample``: images or ``samples.npy``, ``grid.png`` and ``samples.json``.

        Args:
            folder: output folder; created if it does not exist.
            overwrite: whether to replace existing samples.
            record: whether each image file contains its record, see ``undiffuse.read_record``; ``samples.json`` always
                has all records.
        Raises:
            UsageError: if the folder is not empty or not writable, or there are no samples.
        """
        if not len(self):
            raise UsageError("there are no samples to save; use a slice that is not empty")
        out = Path(folder).expanduser()
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise UsageError(f"{out} is not empty; use another folder, or save with overwrite=True")
        with locked(out):
            check_replaceable_folder(out, "samples", "samples.json", OWN_FILES, overwrite=True)
            shared = {key: value for key, value in self._shared.items() if key not in ("nfe", "partial_nfe")}
            shape = tuple(self.shape[1:])
            sample_set = SampleSet(out, shared, self.seeds, self._given, shape, environment="Python", record=record)
            sample_set.discard()
            sample_set.take(range(len(self)), self.numpy(), self._shared["nfe"], self._shared["partial_nfe"])
            sample_set.finish()
        return out

    @property
    def _is_sampled(self) -> bool:
        """Whether it was created by ``of``, not by a torch operation on samples."""
        return "_shared" in self.__dict__

    @property
    def _are_images(self) -> bool:
        return self.dtype == torch.uint8

    def __repr__(self) -> str:  # type: ignore[override]
        if not self._is_sampled:
            return repr(self.as_subclass(Tensor))
        what = count_noun(len(self), "image" if self._are_images else "point")
        size, seeds = "×".join(map(str, self.shape[1:])), f", {_format_seeds(self.seeds)}" if len(self) else ""
        return f"<Samples of {self._shared['model']}: {what}, {size} {self.dtype}{seeds}>"

    def _repr_png_(self) -> bytes | None:
        """A grid of the first 256 images, or the density of points, for notebooks; None if there are no samples."""
        if not len(self):
            return None
        file = io.BytesIO()
        shown = self.numpy()[:SHOWN] if self._are_images else self.numpy()
        to_image(image_of(shown, smallest_side=SHOWN_SIDE)).save(file, format="PNG")
        return file.getvalue()


def _format_seeds(seeds: range) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"seeds {seeds[0]} to {seeds[-1]}{f' in steps of {seeds.step}' if seeds.step != 1 else ''}"
