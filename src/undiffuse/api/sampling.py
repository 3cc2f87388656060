"""``undiffuse sample``: numbered images, a grid, and a record of how each was generated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.api.arguments import check_unrecorded, required_model
from undiffuse.api.loading import opened
from undiffuse.api.outputs import SAMPLES, check_results
from undiffuse.api.repeating.request import repeated
from undiffuse.cancellation import Cancel
from undiffuse.conditioning.prompt import Prompt
from undiffuse.errors import RERUN, UsageError
from undiffuse.images import fill_png, image_of
from undiffuse.locking import locks
from undiffuse.models.classes import Classes
from undiffuse.models.initial_images import initial_images
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.prompts import TextRequest, literal, number_of_samples, requested_texts
from undiffuse.models.request import SampleRequest
from undiffuse.models.sample_sets.folder import SHOWN, SampleSet, read_samples
from undiffuse.models.sample_sets.record import shared_record
from undiffuse.models.samples import Samples
from undiffuse.models.saved import Model, check_seeds
from undiffuse.observer import Observing, announce, note, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.samplers.base import Progress, Sampled, Sampler
from undiffuse.version import __version__
from undiffuse.wording import count_noun

#: Samples and steps shown in ``progressive.png``; ``progressive.npz`` holds all.
_SHOWN_ROWS, _SHOWN_MOMENTS = 8, 10

#: Maximum bytes of them in memory.
_MOST_HISTORY = 2**29


@known_keywords
@takes_options
def sample(
    model: str | Path | Model | None = None,
    num: int | None = None,
    *,
    options: SamplingOptions,
    seed: int | None = None,
    class_name: Classes = None,
    prompt: TextRequest = None,
    negative: TextRequest = None,
    image: Any = None,
    from_image: str | Path | None = None,
    allow_other_model: bool = False,
    out: str | Path | None = None,
    progressive: bool = False,
    shown: int = SHOWN,
    overwrite: bool = False,
    record: bool = True,
    batch_size: int = 64,
    weights: str | None = None,
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> Samples:
    """Draw ``num`` samples from a model; with ``out`` they are also written there, as numbered PNGs with a record.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``; with ``from_image`` the recorded one by
            default.
        num: at least 1; by default one for each of several prompts, otherwise 16, or 1 with ``from_image``.
        options: sampling options, see ``models.options``.
        seed: of the first sample, 0 by default; sample i depends on ``seed`` + i alone.
        class_name: one class for all samples, or several that are cycled through; all classes by default, ``[None]``
            for unconditional samples.
        prompt: one text for all samples, or several that are cycled through, see ``Model.sample``.
        negative: one negative prompt for guidance, or several that are cycled through.
        image: initial image or images, used with a ``strength`` below 1: a file, a folder or other data, or arrays as
            ``Model.sample`` takes them.
        from_image: an image file with a record, which is repeated; other arguments replace those of the record.
        allow_other_model: whether to repeat ``from_image`` with other weights than recorded.
        out: a folder. A set that was interrupted there is completed.
        progressive: also write the predicted x_0 of every step to ``out``.
        shown: number of images in ``grid.png``.
        overwrite: replace samples in ``out``.
        record: whether each image file in ``out`` contains its record, see ``undiffuse.read_record``.
        batch_size: images at a time; changes no bit of any.
        weights: ``ema`` or ``raw``; ``ema`` by default, with ``from_image`` the recorded ones.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives progress in images.
        cancel: cancels the work from any thread; samples in ``out`` that are complete are kept for the next call.
    Returns:
        uint8 (num, C, H, W) for images, float32 (num, D) for points, on the CPU.
    Raises:
        UsageError: no such model, an unknown sampler, grid or class, a folder that is not empty.
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
    if out is None and progressive:
        raise UsageError("progressive writes files; name a folder with out")
    where = Path(out).expanduser() if out is not None else None
    if where is not None:
        check_results(where, SAMPLES, overwrite)
    with observing(observer, cancel):
        repetition = None
        if from_image is None:
            check_unrecorded(allow_other_model)
            loaded = opened(required_model(model), device, weights or "ema")
        else:
            loaded, repetition = repeated(
                *(from_image, model, options, num, seed, class_name),
                prompt=prompt,
                negative=negative,
                image=image,
                weights=weights,
                device=device,
                allow_other_model=allow_other_model,
            )
            options, class_name = repetition.options, repetition.class_name
            num, seed, prompt, negative = repetition.num, repetition.seed, repetition.prompt, repetition.negative
        texts, negatives = requested_texts(prompt), requested_texts(negative, "negative")
        num, seed = number_of_samples(num, texts), seed or 0
        if where is not None:
            written = sample_to_folder(
                loaded,
                where,
                num=num,
                options=options,
                seed=seed,
                batch_size=batch_size,
                class_name=class_name,
                texts=texts,
                negatives=negatives,
                progressive=progressive,
                image=image,
                shown=shown,
                overwrite=overwrite,
                record=record,
            )
            samples = written.samples()
        else:
            images, _ = _load_init_images(loaded, image, num)
            samples = loaded.sample(
                num,
                seed=seed,
                class_name=class_name,
                prompt=literal(texts),
                negative=literal(negatives),
                image=images,
                batch_size=batch_size,
                **options.given(),
            )
        if repetition is not None:
            repetition.compare(samples.numpy()[0], samples.record)
        return samples


@dataclass(frozen=True)
class WrittenSamples:
    """Samples in a folder.

    Attributes:
        folder: of the set.
        num: of its samples.
        shared: record of all of them, costs included.
        seeds: one per sample.
        prompts: one per sample; empty for a model with neither classes nor text.
        points: whether they are points rather than images.
    """

    folder: Path
    num: int
    shared: Mapping[str, Any]
    seeds: range
    prompts: Sequence[Prompt]
    points: bool

    def first(self) -> np.ndarray[Any, Any]:
        """Read the first one."""
        first: np.ndarray[Any, Any] = read_samples(self.folder, 1, self.points)[0]
        return first

    def samples(self) -> Samples:
        """Read them."""
        x = torch.from_numpy(read_samples(self.folder, self.num, self.points))
        return Samples.of(x, self.shared, self.seeds, self.prompts)


@locks("out")
def sample_to_folder(
    model: Model,
    out: Path,
    *,
    num: int | None,
    options: SamplingOptions,
    seed: int,
    batch_size: int,
    class_name: Classes = None,
    texts: Sequence[str] = (),
    negatives: Sequence[str] = (),
    progressive: bool = False,
    image: Any = None,
    shown: int = SHOWN,
    overwrite: bool = False,
    record: bool = True,
) -> WrittenSamples:
    """Draw ``num`` samples into ``out``, which exists once all are written; see ``SampleSet``.

    Args:
        model: to sample from.
        out: the folder.
        num: at least 1; None for one for each of several prompts, otherwise 16.
        options: of sampling; the model's defaults where unset.
        seed: of the first sample.
        batch_size: images at a time; changes no bit of any.
        class_name: see ``sample``.
        texts, negatives: see ``Model.prompts``.
        progressive: also write the predicted x_0 of every step.
        image: see ``sample``.
        shown: number of images in ``grid.png``.
        overwrite: replace samples in ``out``.
        record: whether each image file contains its record; ``samples.json`` always has all records.
    Returns:
        What was written: ``000000.png`` ..., ``grid.png``, ``samples.json``, and the files of ``progressive``.
    Raises:
        UsageError: ``out`` is not empty, or the model cannot serve the request.
    """
    check_results(out, SAMPLES, overwrite)
    num = number_of_samples(num, texts)
    seeds = check_seeds(seed, num)
    model = model.guided(options)
    prompts = model.prompts(num, class_name, texts, negatives)
    given, about = _load_init_images(model, image, num)
    images = initial_images(given, model.module.space, num)
    request = SampleRequest(seeds, options, batch_size=batch_size, images=images, classifier=model.noisy_classifier)
    made_by = f"undiffuse {__version__} {model.module.device.type}{' progressive' if progressive else ''}"
    shared = shared_record(model, request) | ({"image": about} if about is not None else {})
    if image is None:
        note_identical_starts(model, options, num)
    sample_set = SampleSet(out, shared, seeds, prompts, model.module.shape, shown, made_by, record)
    history = _History(model, num, sample_set.texts(0, in_grid=min(num, _SHOWN_ROWS))) if progressive else None
    if history is not None:
        sample_set.discard()  # predictions of earlier steps were not kept
    text = _generate_missing(model, sample_set, request, history)
    sample_set.finish({} if history is None else {"progressive.npz": history.write})
    if text:
        note(text)
    announce(f"{count_noun(num, 'sample')} in {out} ({_cost(sample_set)} each)")
    costs = {"nfe": sample_set.nfe, "partial_nfe": sample_set.partial_nfe}
    return WrittenSamples(out, num, {**shared, **costs}, seeds, prompts, sample_set.points)


def note_identical_starts(model: Model, options: SamplingOptions, num: int) -> None:
    """Note that all samples start from the same latent, as temperature 0 scales the initial noise to zero.

    Args:
        model: to sample from.
        options: of sampling.
        num: number of samples.
    """
    own = model.module.sampling_record().get("temperature", 1.0)
    if num > 1 and (options.temperature if "temperature" in options.model_fields_set else own) == 0:
        note(
            "at temperature 0 all seeds start from the same latent: samples differ only by class or prompt and by the "
            "noise of a stochastic sampler"
        )


def _load_init_images(model: Model, image: Any, num: int) -> tuple[Any, dict[str, Any] | None]:
    """Initial images and their record; the readers of data are imported only if they are needed."""
    if image is None:
        return None, None
    if not isinstance(image, str | Path):
        x_0 = initial_images(image, model.module.space, num)
        return image, {"sha256": hashlib.sha256(x_0.numpy().tobytes()).hexdigest()} if x_0 is not None else None
    from undiffuse.api.datasets.initial_images import init_from

    return init_from(model, str(image), num)


def _generate_missing(model: Model, sample_set: SampleSet, request: SampleRequest, history: _History | None) -> str:
    """Generate the samples that are missing and return the sampler's note; complete ones are kept on failure."""
    missing, num = sample_set.missing(), len(sample_set)
    if done := num - len(missing):
        announce(f"{done} of {num} exist from an interrupted command; continuing")
    for other in sample_set.other_requests():
        note(f"unfinished samples of another request are in {other}; delete that folder if they are not needed")
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
            prompts = [sample_set.prompts[number] for number in missing] if sample_set.prompts else None
            images = request.images[missing] if request.images is not None else None
            requested = replace(request, seeds=seeds, prompts=prompts, callback=callback, take=take, images=images)
            return model.module.sample(requested).note if missing else ""
    except BaseException:
        kept = num - len(sample_set.missing())
        if kept and history is None:
            note(f"{kept} of {num} samples are kept; {RERUN}")
        else:
            sample_set.discard()
        raise


def _cost(sample_set: SampleSet) -> str:
    partial = f" and {sample_set.partial_nfe} of its finest level" if sample_set.partial_nfe else ""
    return f"{sample_set.nfe} NFE{partial}"


class _History:
    """Predicted x_0 of all samples after every step, in memory.

    Raises:
        UsageError: at the first step, if that would exceed the limit.
    """

    def __init__(self, model: Model, num: int, texts: Mapping[str, str]) -> None:
        self._model, self._num, self._texts = model, num, texts
        self._steps: dict[int, dict[int, torch.Tensor]] = {}

    def keep(self, first: int, progress: Progress) -> None:
        """Store the prediction of one step of one batch."""
        x_0 = self._model.finish(progress.x_0)
        size = x_0[0].numel() * x_0.element_size() * self._num * progress.count
        if size > _MOST_HISTORY:
            raise UsageError(
                f"--progressive keeps every step of all samples in memory, {size / 2**30:.1f} GiB for {self._num} of "
                f"{progress.count} steps; ask for {max(1, self._num * _MOST_HISTORY // size)} at most (-n), or fewer "
                "--steps"
            )
        self._steps.setdefault(progress.index, {})[first] = x_0

    def write(self, path: Path) -> None:
        """``progressive.npz`` and, next to it, ``progressive.png``."""
        _write_progress(path.parent, self._steps, self._texts)


def _write_progress(folder: Path, history: dict[int, dict[int, torch.Tensor]], texts: Mapping[str, str]) -> None:
    """Write the predicted x_0 of all steps as an array, and a selection as an image (one sample per row)."""
    path = folder / "progressive.png"
    frames = np.stack(
        [np.concatenate([part.numpy() for _, part in sorted(step.items())]) for _, step in sorted(history.items())]
    )
    np.savez_compressed(folder / "progressive.npz", x_0=frames)
    moments = np.unique(np.linspace(0, len(frames) - 1, _SHOWN_MOMENTS).round().astype(int))
    if frames.ndim == 5:
        shown = frames[moments][:, :_SHOWN_ROWS].swapaxes(0, 1)
        fill_png(path, image_of(shown.reshape(-1, *frames.shape[2:]), len(moments)), texts)
    else:
        clouds = np.stack([image_of(frames[moment]) for moment in moments])
        fill_png(path, image_of(clouds, len(moments)), texts)
