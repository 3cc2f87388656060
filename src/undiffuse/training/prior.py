"""Prior preservation: samples of the start model of a class keep it while a few images of one subject are learned.

L = mean of the losses of the data + weight x mean of the losses of the samples, over a batch that contains both.

Source: Ruiz et al. 2022, "DreamBooth", arXiv:2208.12242, eq. 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.per_sample import PerRow
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch
from undiffuse.errors import UsageError
from undiffuse.files import replacing, sha256_of
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model, load
from undiffuse.registry import nearest
from undiffuse.training.config import RunConfig
from undiffuse.training.folder import PRIOR

_IMAGES = "images"


class Prior:
    """The prior images of a run.

    Args:
        config: of the run, with a start model.
        class_names: classes of the run.
    Raises:
        UsageError: a class or a prompt that the start model does not take.
    """

    def __init__(self, config: RunConfig, class_names: Sequence[str]) -> None:
        assert config.prior is not None and config.start is not None
        self.config, self.start = config.prior, config.start
        self._images: Tensor | None = None
        name, known = self.config.class_name, self.start.classes
        if name is not None and name not in known:
            hint = nearest(name, known) if known else "it has no classes; leave prior.class_name out"
            raise UsageError(f"prior.class_name: {self.start.name} has no class {name!r}; {hint}")
        if name is not None and name not in class_names:
            raise UsageError(
                f"prior.class_name={name!r} needs data with classes, and this data has none; put its images into a "
                "folder named by their class"
            )
        has_text = getattr(config.system, "text", None) is not None
        if has_text != (self.config.prompt is not None):
            raise UsageError(
                f"{self.start.name} is conditioned on captions; name that of the prior images with prior.prompt"
                if has_text
                else f"prior.prompt: {self.start.name} is not conditioned on captions; leave it out"
            )
        self._label = class_names.index(name) if name in class_names else -1

    def sample_into(self, folder: Path, device: torch.device) -> dict[str, Any]:
        """Sample the images from the start model and write them into the run's folder.

        Args:
            folder: of the run.
            device: to sample on.
        Returns:
            The section ``prior`` of ``config.json``.
        """
        model = load(self.start.path, device, self.start.weights)
        self._images = self._sampled(model)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / PRIOR) as temporary:
            save_file({_IMAGES: self._images.contiguous()}, temporary)
        return {"file": PRIOR, "sha256": sha256_of(folder / PRIOR), "num": self.config.num}

    def _sampled(self, model: Model) -> Tensor:
        count = self.config.num
        prompt = Prompt(self.config.class_name, self.config.prompt)
        prompts = [prompt] * count if prompt != Prompt() or model.class_names else None
        return model.finish(model.module.sample(SampleRequest(range(count), prompts=prompts)).x)

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Read the images that were sampled before the first step.

        Args:
            folder: of the run.
            record: its ``config.json``.
        Raises:
            UsageError: the file is missing or was changed.
        """
        file = folder / PRIOR
        if not file.is_file() or sha256_of(file) != record["prior"]["sha256"]:
            raise UsageError(f"{file} is missing or damaged, and the run needs it; restore an intact copy")
        self._images = load_file(file)[_IMAGES]

    def mixed(self, batch: Batch, rng: StepRandom) -> Batch:
        """The batch with prior images in its last rows, and the weights of its rows.

        Args:
            batch: (B, ...) of the data, B at least 2.
            rng: random numbers of the step and micro-batch.
        """
        if self._images is None:  # a trial step, which writes nothing
            return batch
        size = len(batch)
        count = min(max(round(self.config.share * size), 1), size - 1)
        rows = (rng.uniform(count, "prior") * len(self._images)).long().clamp(max=len(self._images) - 1)
        items = torch.cat([batch.items[:-count], self._images[rows.cpu()].to(batch.items)])
        weights = torch.full((size,), size / (size - count), device=batch.items.device)
        weights[-count:] = self.config.weight * size / count
        return replace(batch, items=items, given=self._given(batch, count), row_weights=weights)

    def _given(self, batch: Batch, count: int) -> Any:
        label, captions = batch.given.label, batch.given.captions
        if label is not None:
            label = torch.cat([label[:-count], label.new_full((count,), self._label)])
        if captions is not None:
            captions = PerRow([*captions[:-count], *[self.config.prompt or ""] * count])
        return replace(batch.given, label=label, captions=captions)
