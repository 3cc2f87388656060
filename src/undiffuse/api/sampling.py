"""``undiffuse sample``: numbered images, a grid, and a record of how each was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.api.loading import opened
from undiffuse.api.outputs import SAMPLES, check_results
from undiffuse.cancellation import Cancel
from undiffuse.claims import writes_to
from undiffuse.errors import UsageError
from undiffuse.images import fill_png, image_of
from undiffuse.models.classes import Classes
from undiffuse.models.initial_images import initial_images
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.sample_sets.folder import SHOWN, SampleSet
from undiffuse.models.sample_sets.record import shared_record
from undiffuse.models.samples import Samples
from undiffuse.models.saved import Model, check_seeds
from undiffuse.observer import Observing, announce, note, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.samplers.base import Progress, Sampled, Sampler
from undiffuse.version import __version__
from undiffuse.wording import counted

#: Images and moments that ``progressive.png`` shows; ``progressive.npz`` holds every step of all images.
_SHOWN_ROWS, _SHOWN_MOMENTS = 8, 10

#: Bytes of them that are held in memory at most.
_MOST_HISTORY = 2**29


@known_keywords
@takes_options
def sample(
    model: str | Path | Model,
    num: int = 16,
    *,
    options: SamplingOptions,
    seed: int = 0,
    class_name: Classes = None,
    out: str | Path | None = None,
    batch_size: int = 64,
    weights: str = "ema",
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> Samples:
    """``num`` samples of a model; with ``out`` they are also written there, as numbered PNGs with a record.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``.
        num: at least 1.
        options: each a keyword of its own, see ``models.options``.
        seed: of the first; image i depends on ``seed`` + i alone.
        class_name: one for all, or several in turn; all classes in turn by default, ``[None]`` for none in particular.
        out: a folder, which must not be there yet.
        batch_size: images at a time; changes no bit of any.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: hears of progress in images.
        cancel: asks the work to stop, from any thread.
    Returns:
        uint8 (num, C, H, W) for images, float32 (num, D) for points, on the CPU.
    Raises:
        UsageError: no such model, an unknown sampler, grid or class, a folder that holds something.
        CancelledError: it was cancelled.
    Example:
        >>> import undiffuse
        >>> undiffuse.sample("mnist-1step", 4).shape
        torch.Size([4, 1, 28, 28])
    """
    if isinstance(model, Sampler):
        raise UsageError(
            "undiffuse.sample draws from a model, such as undiffuse.sample('mnist', 16); a sampler is run by "
            "undiffuse.run_sampler(sampler, denoiser, ...)"
        )
    where = Path(out).expanduser() if out is not None else None
    if where is not None:
        check_results(where, SAMPLES, overwrite=False)
    with observing(observer, cancel):
        loaded = opened(model, device, weights)
        samples = loaded.sample(num, seed=seed, class_name=class_name, batch_size=batch_size, **options.given())
        if where is not None:
            samples.save(where)
        return samples


@writes_to("out")
def sample_to_folder(
    model: Model,
    out: Path,
    *,
    num: int,
    options: SamplingOptions,
    seed: int,
    batch_size: int,
    class_names: Sequence[str | None],
    progressive: bool,
    image: str | None = None,
    shown: int = SHOWN,
    overwrite: bool = False,
) -> Path:
    """Sample ``num`` images and write them to ``out``, which is there when all are; see ``SampleSet``.

    Args:
        model: that is sampled.
        out: the folder.
        num: at least 1.
        options: how; what they leave unsaid is the model's own.
        seed: of the first sample.
        batch_size: images at a time; changes no bit of any.
        class_names: taken in turn; None among them for no class in particular; all classes if empty.
        progressive: keep x_0-hat over time as well.
        image: an image file or data, whose images are begun from in turn.
        shown: images in ``grid.png``, the first so many.
        overwrite: replace samples that are there.
    Returns:
        ``out``, holding ``000000.png`` ..., ``grid.png``, ``samples.json``, and what ``progressive`` adds.
    Raises:
        UsageError: ``out`` holds something already, or a request that the model cannot serve.
    """
    check_results(out, SAMPLES, overwrite)
    seeds = check_seeds(seed, num)
    names = model.classes_of(class_names or None, num)
    given, about = _load_init_images(model, image, num)
    images = initial_images(given, model.module.space, num)
    request = SampleRequest(seeds, options, batch_size=batch_size, images=images)
    made_by = f"undiffuse {__version__} {model.module.device.type}{' progressive' if progressive else ''}"
    record = shared_record(model, request) | ({"image": about} if about is not None else {})
    if image is None:
        note_identical_starts(model, options, num)
    sample_set = SampleSet(out, record, seeds, names, model.module.shape, shown, made_by)
    history = _History(model, num) if progressive else None
    if history is not None:
        sample_set.discard()  # what was predicted on the way to them is gone
    text = _filled(model, sample_set, request, history)
    sample_set.finish({} if history is None else {"progressive.npz": history.write})
    if text:
        note(text)
    announce(f"{counted(num, 'sample')} in {out} ({_cost(sample_set)} each)")
    return out


def note_identical_starts(model: Model, options: SamplingOptions, num: int) -> None:
    """A note where all of several samples begin alike: temperature 0 is no noise at all.

    Args:
        model: that is sampled.
        options: of sampling.
        num: how many samples.
    """
    own = model.module.sampling_record().get("temperature", 1.0)
    if num > 1 and (options.temperature if "temperature" in options.model_fields_set else own) == 0:
        note(
            "at temperature 0 all seeds begin alike: samples differ by class and by a stochastic sampler's noise alone"
        )


def _load_init_images(model: Model, image: str | None, num: int) -> tuple[Tensor | None, dict[str, Any] | None]:
    """What ``--image`` names and what is said of it; what reads data is not imported where there is none."""
    if image is None:
        return None, None
    from undiffuse.api.datasets.initial_images import init_from

    return init_from(model, image, num)


def _filled(model: Model, sample_set: SampleSet, request: SampleRequest, history: _History | None) -> str:
    """Make the samples that are not there yet; returns the note of sampling. What is made stays if it breaks off."""
    missing, num = sample_set.missing(), len(sample_set)
    if done := num - len(missing):
        announce(f"{done} of {num} are there from a command that was stopped; going on")
    for other in sample_set.others():
        note(f"unfinished samples of another request lie in {other}; delete that folder if they are not wanted")
    try:
        with stage("sampling") as observer:

            def callback(first: int, progress: Progress) -> None:
                steps = (done + first) * progress.count + len(progress.x) * (progress.index + 1)
                observer.progress(steps / progress.count, num)
                if history is not None:
                    history.keep(first, progress)

            def take(first: int, sampled: Sampled) -> None:
                numbers = missing[first : first + len(sampled.x)]
                sample_set.take(numbers, model.finish(sampled.x).numpy(), sampled.nfe, sampled.partial_nfe)

            seeds = [sample_set.seeds[number] for number in missing]
            prompts = model.prompts([sample_set.names[number] for number in missing] if sample_set.names else [])
            images = request.images[missing] if request.images is not None else None
            requested = replace(request, seeds=seeds, prompts=prompts, callback=callback, take=take, images=images)
            return model.module.sample(requested).note if missing else ""
    except BaseException:
        kept = num - len(sample_set.missing())
        if kept and history is None:
            note(f"{kept} of {num} samples are kept; the same command goes on with them")
        else:
            sample_set.discard()
        raise


def _cost(sample_set: SampleSet) -> str:
    partial = f" and {sample_set.partial_nfe} of its finest level" if sample_set.partial_nfe else ""
    return f"{sample_set.nfe} NFE{partial}"


class _History:
    """x_0-hat of all samples after every step, held in memory.

    Raises:
        UsageError: at the first step, where that would be too much.
    """

    def __init__(self, model: Model, num: int) -> None:
        self._model, self._num = model, num
        self._steps: dict[int, dict[int, torch.Tensor]] = {}

    def keep(self, first: int, progress: Progress) -> None:
        """What is predicted after one step of one batch."""
        x_0 = self._model.finish(progress.x_0)
        size = x_0[0].numel() * x_0.element_size() * self._num * progress.count
        if size > _MOST_HISTORY:
            raise UsageError(
                f"--progressive holds every step of all samples in memory, {size / 2**30:.1f} GiB for {self._num} of "
                f"{progress.count} steps; ask for {max(1, self._num * _MOST_HISTORY // size)} at most (-n), or fewer "
                "--steps"
            )
        self._steps.setdefault(progress.index, {})[first] = x_0

    def write(self, path: Path) -> None:
        """``progressive.npz`` and, next to it, ``progressive.png``."""
        _write_progress(path.parent, self._steps)


def _write_progress(folder: Path, history: dict[int, dict[int, torch.Tensor]]) -> None:
    """x_0-hat over time: all of it as an array, a selection as an image (a row a sample, time to the right)."""
    frames = np.stack(
        [np.concatenate([part.numpy() for _, part in sorted(step.items())]) for _, step in sorted(history.items())]
    )
    np.savez_compressed(folder / "progressive.npz", x_0=frames)
    moments = np.unique(np.linspace(0, len(frames) - 1, _SHOWN_MOMENTS).round().astype(int))
    if frames.ndim == 5:
        shown = frames[moments][:, :_SHOWN_ROWS].swapaxes(0, 1)
        fill_png(folder / "progressive.png", image_of(shown.reshape(-1, *frames.shape[2:]), len(moments)))
    else:
        clouds = np.stack([image_of(frames[moment]) for moment in moments])
        fill_png(folder / "progressive.png", image_of(clouds, len(moments)))
