"""A request that repeats a recorded image, with the same options or some of them varied. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undiffuse.api.loading import load
from undiffuse.api.repeating.recorded_image import RecordedImage
from undiffuse.models.options import SamplingOptions
from undiffuse.observer import announce, note

if TYPE_CHECKING:
    import numpy as np

    from undiffuse.models.saved import Model


@dataclass(frozen=True)
class Repetition:
    """A request that repeats a recorded image.

    Attributes:
        recorded: the image.
        options: of sampling.
        num: number of samples; None for one for each of the prompts.
        seed: of the first one.
        class_name, prompt, negative: see ``undiffuse.sample``.
        is_varied: whether the request differs from the record, so that the samples should differ.
    """

    recorded: RecordedImage
    options: SamplingOptions
    num: int | None
    seed: int
    class_name: Any
    prompt: Any
    negative: Any
    is_varied: bool

    def compare(self, first: np.ndarray[Any, Any], shared: Mapping[str, Any]) -> None:
        """Report whether the first sample equals the pixels of the file; nothing for a variation.

        Args:
            first: the sample, uint8 (C, H, W).
            shared: record of the samples.
        """
        self.recorded.compare_inputs(shared)
        pixels = None if self.is_varied else _pixels(self.recorded.path)
        if pixels is None:
            return
        if pixels.shape != first.shape:
            note(f"{self.recorded.path} was resized or converted after it was sampled, so it cannot be compared")
            return
        differing = int((pixels != first).sum())
        if not differing:
            announce(f"equal to {self.recorded.path} bit for bit")
            return
        note(
            f"{differing:,} of {first.size:,} values differ from {self.recorded.path}, the largest by "
            f"{abs(pixels.astype(int) - first.astype(int)).max()} of 255: {self._reason(shared)}"
        )

    def _reason(self, shared: Mapping[str, Any]) -> str:
        from undiffuse.compute.environment import describe_differences
        from undiffuse.version import __version__

        recorded = self.recorded.record
        before, now = describe_differences(recorded["computed_with"], shared["computed_with"])
        if recorded["undiffuse"] != __version__:
            before, now = f"undiffuse {recorded['undiffuse'][:20]} {before}", f"undiffuse {__version__} {now}"
        if before.strip() or now.strip():
            return f"it was computed with {before.strip()}, now {now.strip()}"
        return "the file was edited after it was sampled, or the computation differs"


def repeated(
    from_image: str | Path,
    model: str | Path | Model | None,
    options: SamplingOptions,
    num: int | None,
    seed: int | None,
    class_name: Any,
    *,
    prompt: Any,
    negative: Any,
    image: Any,
    weights: str | None,
    device: str,
    allow_other_model: bool,
) -> tuple[Model, Repetition]:
    """The model and the request that repeat an image; see ``undiffuse.sample`` for the arguments.

    Args:
        from_image: the image file.
        model: the model; None for the recorded one.
        options: options that replace recorded ones.
        num: number of samples; None for 1.
        seed: of the first sample; None for the recorded one.
        class_name, prompt, negative: None for the recorded ones.
        image: the initial image, which the record does not contain.
        weights: ``ema`` or ``raw``; None for those with the recorded SHA-256.
        device: ``cpu``, ``cuda`` or ``auto``.
        allow_other_model: whether weights may be others than recorded.
    Raises:
        UsageError: if the file has no valid record, or its model is not found.
    """
    recorded = RecordedImage(Path(from_image).expanduser())
    recorded.check_image(image)
    recorded.note_unknown()
    if model is None or isinstance(model, str | PathLike):
        folder, kind = recorded.find_weights(model, weights, allow_other_model)
        loaded = load(folder, device, kind)
    else:
        loaded = model
        recorded.check_weights(loaded.weights_sha256, loaded.path, allow_other_model)
    is_same_model = loaded.weights_sha256 == recorded.record["model_sha256"]
    is_varied = not is_same_model or bool(options.given()) or num not in (None, 1)
    is_varied = is_varied or seed not in (None, recorded.record["seed"]) or class_name is not None
    is_varied = is_varied or prompt is not None or negative is not None
    classes = class_name if class_name is not None else recorded.class_name
    if classes is None and loaded.class_names:
        classes = [None]
    merged = recorded.options(options, loaded.module.sampling_record())
    texts, negatives = prompt or recorded.prompt, negative or recorded.negative
    num = 1 if num is None and (prompt is None or isinstance(prompt, str)) else num
    first = recorded.record["seed"] if seed is None else seed
    return loaded, Repetition(recorded, merged, num, first, classes, texts, negatives, is_varied)


def _pixels(path: Path) -> np.ndarray[Any, Any] | None:
    """Pixels (C, H, W) of an image file; None if they cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            array = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        note(f"the pixels of {path} are damaged, so the repeated image is not compared with them")
        return None
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
