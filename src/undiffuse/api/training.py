"""``undiffuse train``: from a recipe to a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from undiffuse.api.arguments import check_texts
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure, placed, saved_config
from undiffuse.api.configuration.text_folder import check_text_encoder
from undiffuse.api.extension import check_same_end, extend, is_extension
from undiffuse.api.interrupting import GuardedObserver, stopping_on_interrupt
from undiffuse.api.loading import load, next_command, pick_device
from undiffuse.api.outputs import check_empty_or_run, run_exists_error
from undiffuse.api.residual_signal import note_residual_signal
from undiffuse.api.short_runs import note_noisy_preview, note_short_run
from undiffuse.cancellation import Cancel
from undiffuse.data import load_dataset, source_config_for, split_by_content
from undiffuse.data.dataset import Dataset
from undiffuse.data.split import subset_by_content
from undiffuse.errors import StoppedError, UsageError
from undiffuse.evaluation.quality import quality_measure
from undiffuse.locking import locked, output_folder
from undiffuse.models.files.record import changed_data_part
from undiffuse.models.files.size_limit import limited_to
from undiffuse.models.saved import Model, read_config
from undiffuse.objectives.base import ObjectiveConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.observer import (
    SILENT,
    Observing,
    announce,
    check_cancelled,
    current_cancel,
    current_observer,
    not_cancelled,
    note,
    observing,
    stage,
)
from undiffuse.registry import known_keywords
from undiffuse.training.checkpoint import largest_shapes
from undiffuse.training.config import RunConfig, differences
from undiffuse.training.folder import check_no_links, not_started, remove_unstarted
from undiffuse.training.quality import Measure
from undiffuse.training.trainer import Trainer, finalized
from undiffuse.wording import count_noun

#: Creates the quality metric of a training from a model, the reference data and a number of samples.
MeasuredBy = Callable[[Model, Dataset, int], Measure]
#: Environment variables with the number of processes of a launcher.
_NUMBERS_OF_PROCESSES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def split_data(config: RunConfig) -> tuple[Dataset, Dataset]:
    """(training, held-out) parts of the configured data."""
    location = getattr(config.data, "location", None)
    if location is not None and not location.exists():
        raise UsageError(f"no such file or folder: {location}; give its location with --data")
    fraction: float = config.data.validation_fraction  # type: ignore[attr-defined]
    training, held_out = split_by_content(load_dataset(config.data), fraction)  # type: ignore[arg-type]
    return subset_by_content(training, config.train_items), held_out


@dataclass(frozen=True)
class TrainedRun:
    """Result of a training.

    Attributes:
        folder: of the run, with its checkpoints, its model and ``metrics.jsonl``.
        num_images: seen so far.
        finished: whether the run is complete; if not, ``train(resume=True, out=folder)`` resumes it.
        cause: of a request to stop early; empty if there was none.
        signal: number of the signal that requested it; 0 if none did.
    """

    folder: Path
    num_images: int
    finished: bool
    cause: str = ""
    signal: int = 0

    @property
    def next_command(self) -> str:
        """The command to continue with: sampling, or evaluation of a model that generates no samples."""
        return next_command(self.folder)

    def load(self, device: str = "auto", weights: str = "ema") -> Model:
        """The trained model.

        Args:
            device: ``cpu``, ``cuda`` or ``auto``.
            weights: ``ema`` or ``raw``.
        """
        return load(self.folder, device, weights)


@known_keywords
def train(
    recipe: str | RunConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    start: str | Path | None = None,
    start_weights: str = "ema",
    stop_after_seconds: float | None = None,
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> TrainedRun:
    """Train a model on your own images, or from a recipe with any key overridden.

    Args:
        recipe: its name, or a whole configuration; by default one that fits ``data`` is chosen.
        overrides: ``key=value`` texts, such as ``num_images=50000``.
        data: a folder of images, an archive, or the name of a data source.
        out: folder of the run; ``runs/RECIPE-NNN`` by default.
        resume: from the newest valid checkpoint in ``out``, bit for bit equal to an uninterrupted run.
        config: a run's ``config.json``, whose configuration is trained again.
        start: a model to fine-tune on ``data``: a run folder, a model folder or a bundled name. Its configuration is
            used with a smaller learning rate and fewer images.
        start_weights: ``ema`` for its averaged weights, ``raw`` for those of its last step.
        stop_after_seconds: stop with a checkpoint after this time.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives steps and rows of the metrics log; a function of (done, total, part), or an ``Observer``.
        cancel: stops the training from any thread; it finishes its step and writes a checkpoint.
    Returns:
        The run, finished or not.
    Raises:
        UsageError: an invalid key, value, data set or folder; nothing is written.
        RunError: a loss that is not finite, or a disk that is full.
        StoppedError: Ctrl-C in the main thread of a script or a notebook; a checkpoint was written. A second Ctrl-C
            stops immediately.
        CancelledError: cancelled before the first step; nothing was written.
    Note:
        If the observer raises, the training finishes its step, writes a checkpoint and raises the same error.
    Example::

        run = undiffuse.train("ddpm-digits", ["num_images=4000"], observer=print)
        images = run.load().sample(16)
    """
    check_texts("overrides", overrides)
    if resume and out is None:
        raise UsageError("resuming needs the folder of the run, out")
    where = Path(out).expanduser() if out is not None else None
    with observing(observer, cancel):
        requested_run = _requested(recipe, overrides, data, where, resume, device, config, start, start_weights)
        with output_folder(where, Path("runs"), requested_run.recipe) as folder:
            return train_to_end(requested_run, folder, resume, stop_after_seconds, device)


def _requested(
    recipe: str | RunConfig | None,
    overrides: Sequence[str],
    data: str | Path | None,
    out: Path | None,
    resume: bool,
    device: str,
    config: str | Path | None,
    start: str | Path | None,
    start_weights: str,
) -> RunConfig:
    if isinstance(recipe, RunConfig):
        if start is not None:
            raise UsageError(
                "start uses the configuration of the model, and recipe gives another; leave one of them out"
            )
        source = source_config_for(str(data)) if data is not None else None
        return placed(apply_overrides(recipe, overrides, source))
    named, file = str(data) if data is not None else None, Path(config) if config is not None else None
    return configure(recipe, overrides, named, out, resume, device, file, start, start_weights)


def train_to_end(
    config: RunConfig, out: Path, resume: bool = False, stop_after_seconds: float | None = None, device: str = "auto"
) -> TrainedRun:
    """Call ``train_run`` and describe the result; a run that was cancelled is a result, not an error.

    Args:
        config: of the run.
        out: its folder.
        resume: see ``train``.
        stop_after_seconds: see ``train``.
        device: see ``train``.
    Raises:
        StoppedError: Ctrl-C in a script or a notebook.
    """
    check_cancelled()
    try:
        finished = train_run(config, out, resume=resume, stop_after_seconds=stop_after_seconds, device=device)
    except StoppedError as stop:
        if stop.interrupted or (cancel := current_cancel()) is None:
            raise stop.with_advice(f"resume with undiffuse.train(out={str(out)!r}, resume=True)") from None
        return TrainedRun(out, images_of(out), False, cancel.cause, cancel.number)
    return TrainedRun(out, images_of(out), finished)


def images_of(run: Path) -> int:
    """Number of training images seen by a run's newest checkpoint."""
    return max((int(path.name.removeprefix("images_")) for path in run.glob("checkpoints/images_*")), default=0)


def train_run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    stop_after_seconds: float | None = None,
    device: str = "auto",
    measured_by: MeasuredBy | None = None,
) -> bool:
    """Train in ``out``; True if the run reached its end, False after ``stop_after_seconds``.

    Args:
        config: of the run.
        out: its folder.
        resume: from the newest valid checkpoint there.
        stop_after_seconds: stop with a checkpoint after this time.
        device: ``cpu``, ``cuda`` or ``auto``.
        measured_by: creates the quality metric of samples; ``quality_measure`` by default.
    Raises:
        UsageError: ``out`` holds another run, or one with another configuration, or another process trains there.
        StoppedError: a signal or a ``Cancel`` stopped the training; it wrote a checkpoint.
    """
    _check_single_process()
    with locked(out), _cleanup_on_failure(out):
        return _train(config, out, resume, stop_after_seconds, device, measured_by or quality_measure)


def _train(
    config: RunConfig,
    out: Path,
    resume: bool,
    stop_after_seconds: float | None,
    device: str,
    measured_by: MeasuredBy,
) -> bool:
    check_folder(config, out, resume)
    note_late_guide(config)
    check_text_encoder(config)
    training, held_out = split_data(config)
    note_residual_signal(config.system, training)
    with _limit_model_size(out):
        trainer = Trainer(config, training, held_out, out, pick_device(device))
    if config.quality_every_images:
        model = Model(trainer.ema.average, trainer.record, out, "")
        reference = held_out if config.quality_reference == "held_out" else training
        trainer.measure = measured_by(model, reference, config.quality_samples)
    if resume:
        _announce_resume(trainer, out)
    else:
        announce(
            f"{config.recipe}: {len(training):,} training and {count_noun(len(held_out), 'held-out item')} into {out}"
        )
    cancel = current_cancel() or Cancel()
    trainer.encode_captions()
    with (
        stopping_on_interrupt(cancel) as interrupt,
        stage("training", config.num_images, trainer.images) as observer,
        cancel.calling(trainer.request_stop),
    ):
        trainer.observer = guarded = GuardedObserver(observer, trainer.request_stop)
        with not_cancelled():  # it ends with a checkpoint instead
            finished = trainer.run(stop_after_seconds)
    if guarded.error is not None:
        raise guarded.error
    if finished and not note_short_run(config):
        note_noisy_preview(config, training, out)
    if not finished and cancel.requested:
        text = f"stopped at {trainer.images} images with a checkpoint ({cancel.cause})"
        raise StoppedError(text, cancel.number, interrupt.is_set())
    return finished


def _check_single_process() -> None:
    """Raise if several processes were launched: each would train the same run."""
    for name in _NUMBERS_OF_PROCESSES:
        count = os.environ.get(name, "1")
        if count.isdecimal() and int(count) > 1:
            raise UsageError(
                f"started as {count} processes ({name}={count}), but a run trains in one process; start one, without "
                f"torchrun or similar, or set {name}=1"
            )


@contextmanager
def _cleanup_on_failure(out: Path) -> Iterator[None]:
    """Remove a run that failed before its first checkpoint, so that ``out`` can be used again."""
    was_there, was_run = out.is_dir(), (out / "config.json").is_file()
    try:
        yield
    except BaseException:
        if out.is_dir() and not was_run:
            remove_unstarted(out)
        if not was_there:
            with suppress(OSError):  # it is not empty
                out.rmdir()
        raise


def note_late_guide(config: RunConfig) -> None:
    """Note if the guide of autoguidance would be stored after the end of the run."""
    system = config.system
    if not isinstance(system, DiffusionConfig) or system.sampling.autoguidance == 1 or system.guide_images is None:
        return
    if system.guide_images > config.num_images:
        note(
            f"system.guide_images={system.guide_images} is larger than num_images={config.num_images}: samples will "
            "have no guide; set it to a tenth of the run, or system.guide_images=null system.sampling.autoguidance=1"
        )


def _limit_model_size(out: Path) -> AbstractContextManager[None]:
    """Limit the size of the model to the shapes in the checkpoint, whatever ``config.json`` contains."""
    shapes = largest_shapes(out / "checkpoints")
    return limited_to(shapes) if shapes else nullcontext()


def _announce_resume(trainer: Trainer, out: Path) -> None:
    if (out / "config.json").is_file() and not not_started(out):
        _check_same_data(trainer, out)
        if saved_config(out).num_images != trainer.config.num_images:
            extend(out, trainer.config.num_images)
    trainer.observer = current_observer() or SILENT
    if trainer.resume():
        finished = trainer.images >= trainer.config.num_images
        announce(
            f"{out} is finished, at {trainer.images} images"
            if finished
            else f"resuming {out} at {trainer.images} images"
        )
    else:
        announce(f"no valid checkpoint in {out}; starting from the beginning")


def _check_same_data(trainer: Trainer, out: Path) -> None:
    """Check the fingerprint of the data; its location and file format may change."""
    record, now = read_config(out), trainer.record
    if part := changed_data_part(record["data"], now["data"]):
        lines = differences(record["config"]["data"], now["config"]["data"])
        named = f" ({'; '.join(f'data.{line}' for line in lines)})" if lines else ""
        raise UsageError(
            f"the {part} are not those that {out} was started with{named}; restore them, or start a new run in another "
            "--out"
        )


def check_folder(config: RunConfig, out: Path, resume: bool) -> None:
    """Check that a run can be written to a folder, or resumed there.

    Args:
        config: of the run.
        out: its folder.
        resume: whether a run there is resumed.
    Raises:
        UsageError: with what is there, and what to do.
    """
    check_empty_or_run(out)
    check_no_links(out)
    if not (out / "config.json").is_file():
        return
    if not_started(out):
        return
    if not resume:
        raise run_exists_error(out)
    old = saved_config(out)
    assert isinstance(config.system, ObjectiveConfig) and isinstance(old.system, ObjectiveConfig)
    config = config.model_copy(update={"system": config.system.completed_from(old.system)})
    config = finalized(config, read_config(out)["model"]["class_names"])
    if not (lines := differences(old.model_dump(mode="json"), config.model_dump(mode="json"))):
        return
    if is_extension(old, config, lines):
        check_same_end(out, old, config)
    else:
        raise UsageError(
            f"{out} was started with another configuration ({'; '.join(lines)}); resume it without changes, "
            "or start a new run in another --out"
        )
