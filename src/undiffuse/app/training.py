"""``undiffuse train``: from a recipe to a run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from undiffuse.app.beginning import check_beginning, config_file, record_in
from undiffuse.app.early_out import check_no_other, run_is_there
from undiffuse.app.longer import is_longer, lengthen, refuse_other_end
from undiffuse.app.models import pick_device
from undiffuse.app.noise_end import tell_of_signal_left
from undiffuse.app.overrides import apply_overrides
from undiffuse.app.proposing import proposed
from undiffuse.app.show import TrainingView, console, counting, say, table, warn
from undiffuse.app.stopping import stopping
from undiffuse.app.too_short import tell_of_noise, tell_of_short_run
from undiffuse.claims import claimed
from undiffuse.config import validate
from undiffuse.cores import allowed_cores
from undiffuse.data import load_dataset, source_config_for, split_by_content
from undiffuse.data.dataset import Dataset
from undiffuse.data.split import few_by_content
from undiffuse.errors import StoppedError, UsageError
from undiffuse.evaluation.quality import quality_measure
from undiffuse.models.files.components import training_section
from undiffuse.models.files.record import changed_data_part, check_format
from undiffuse.models.files.size_limit import limited_to
from undiffuse.models.files.wrapped import NAME as WRAPPED
from undiffuse.models.saved import Model, read_config
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.observer import Silent
from undiffuse.progress import duration
from undiffuse.recipes import get_recipe
from undiffuse.sealed import is_changed
from undiffuse.training.checkpoint import largest_shapes
from undiffuse.training.config import RunConfig, differences
from undiffuse.training.cost import Cost, measured_cost
from undiffuse.training.folder import is_unbegun, refuse_links, take_back
from undiffuse.training.quality import Measure
from undiffuse.training.trainer import Trainer, finalized
from undiffuse.wording import command, counted

#: From a model, the data to compare with and a number of samples: what measures so many while it is trained.
MeasuredBy = Callable[[Model, Dataset, int], Measure]
#: Where launchers of several processes say how many they started.
_NUMBERS_OF_PROCESSES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def configure(
    recipe: str | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str = "auto",
    file: Path | None = None,
) -> RunConfig:
    """The configuration that a command line asks for; without a recipe that of a file, of the run to be resumed, or of
    the recipe that fits the data, which is said.

    Data other than the recipe's is measured while training only where the overrides say so: it may be too little, or
    its features too many.
    """
    check_beginning(recipe, data, file, resume, out)
    return placed(_configured(recipe, overrides, data, out, resume, device, file))


def placed(config: RunConfig) -> RunConfig:
    """The same with data found from any folder: a run is gone on with from where its user happens to be."""
    path = getattr(config.data, "path", None)
    if path is None:
        return config
    data = config.data.model_copy(update={"path": type(path)(Path(path).expanduser().absolute())})
    return config.model_copy(update={"data": data})


def _configured(
    recipe: str | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str,
    file: Path | None,
) -> RunConfig:
    source = source_config_for(data) if data is not None else None
    if file is not None:
        return apply_overrides(config_in(file), overrides, source)
    if recipe is None and data is not None and source is not None and not resume:
        config, words = proposed(source, data, overrides, device)
        say(words)
        return config
    if source is not None and recipe is not None:
        overrides = ["quality_every_images=0", *overrides]
    if recipe is not None:
        return apply_overrides(get_recipe(recipe), overrides, source)
    assert out is not None
    return apply_overrides(saved_config(out), overrides, source)


def config_in(file: Path) -> RunConfig:
    """The configuration in a file: a run's ``config.json``, or its part ``config`` alone.

    An edited file is taken as it stands, which is said: here nothing was trained with it yet.

    Raises:
        UsageError: no such file, or one that holds no configuration.
    """
    record, file = record_in(file), config_file(file)
    if is_changed(record):
        warn(f"{file} was changed after it was written; the run is of what it says now")
    whole = "format_version" in record
    if whole:
        check_format(record["format_version"], str(file))
    return validate(RunConfig, record["config"] if whole else record, f"--config {file}")


def saved_config(out: Path) -> RunConfig:
    """The configuration that the run in ``out`` was started with.

    Raises:
        UsageError: it was not trained here, or its configuration is damaged.
    """
    record = read_config(out)
    if training_section(record)["name"] == WRAPPED:
        raise UsageError(f"{out} is a denoiser from elsewhere, without a training of its own; name a run of undiffuse")
    return validate(RunConfig, record["config"], f"{out / 'config.json'}: config")


def split_data(config: RunConfig) -> tuple[Dataset, Dataset]:
    """(training, held-out) parts of the configured data."""
    location = getattr(config.data, "location", None)
    if location is not None and not location.exists():
        raise UsageError(f"no such file or folder: {location}; say where the data lies with --data")
    fraction: float = config.data.validation_fraction  # type: ignore[attr-defined]
    training, held_out = split_by_content(load_dataset(config.data), fraction)  # type: ignore[arg-type]
    return few_by_content(training, config.train_items), held_out


def train(
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
        measured_by: makes what measures samples of a model against data; ``quality_measure`` by default.
    Raises:
        UsageError: ``out`` holds another run, or one with another configuration, or another process trains there.
        StoppedError: a signal came, or whoever read the output is gone; there is a checkpoint.
    """
    _refuse_several_processes()
    with claimed(out), _leaving_nothing(out):
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
    _tell_of_late_guide(config)
    training, held_out = split_data(config)
    tell_of_signal_left(config.system, training)
    with _no_larger_than_kept(out):
        trainer = Trainer(config, training, held_out, out, pick_device(device))
    if config.quality_every_images:
        model = Model(trainer.ema.average, trainer.record, out, "")
        reference = held_out if config.quality_reference == "held_out" else training
        trainer.measure = measured_by(model, reference, config.quality_samples)
    if resume:
        _announce_resume(trainer, out)
    else:
        say(f"{config.recipe}: {len(training):,} training and {counted(len(held_out), 'held-out item')} into {out}")
    with TrainingView(config.num_images, trainer.images) as view, stopping(trainer, view) as stop:
        trainer.observer = stop
        finished = trainer.run(stop_after_seconds)
    if finished and not tell_of_short_run(config):
        tell_of_noise(config, training, out)
    if not finished:
        because = f" ({stop.cause})" if stop.number else ""
        again = command("train", "--resume", "--out", out)
        told = f"stopped at {trainer.images} images with a checkpoint{because}; go on with: {again}"
        if stop.number:
            raise StoppedError(told, stop.number)
        say(told)
    return finished


def _refuse_several_processes() -> None:
    """Each would train the same run by itself."""
    for name in _NUMBERS_OF_PROCESSES:
        told = os.environ.get(name, "1")
        if told.isdecimal() and int(told) > 1:
            raise UsageError(
                f"started as {told} processes ({name}={told}), and a run trains in one; start one process, without "
                f"torchrun or the like, or say {name}=1"
            )


@contextmanager
def _leaving_nothing(out: Path) -> Iterator[None]:
    """What cannot start, or breaks down before it has come to anything, must not keep ``out`` from another start."""
    was_there, was_run = out.is_dir(), (out / "config.json").is_file()
    try:
        yield
    except BaseException:
        if out.is_dir() and not was_run:
            take_back(out)
        if not was_there:
            with suppress(OSError):  # something of value stands in it
                out.rmdir()
        raise


def _tell_of_late_guide(config: RunConfig) -> None:
    """A guide that this run never comes to is no mistake, but its samples are not what the recipe promises."""
    system = config.system
    if not isinstance(system, DiffusionConfig) or system.sampling.autoguidance == 1 or system.guide_images is None:
        return
    if system.guide_images > config.num_images:
        warn(
            f"system.guide_images={system.guide_images} lies beyond num_images={config.num_images}: samples will have "
            "no guide; lower it to a tenth of the run, or say system.guide_images=null system.sampling.autoguidance=1"
        )


def _no_larger_than_kept(out: Path) -> AbstractContextManager[None]:
    """Nothing is built that the checkpoint to go on from could not fill, however large ``config.json`` says it is."""
    shapes = largest_shapes(out / "checkpoints")
    return limited_to(shapes) if shapes else nullcontext()


def _announce_resume(trainer: Trainer, out: Path) -> None:
    if (out / "config.json").is_file() and not is_unbegun(out):
        _refuse_other_data(trainer, out)
        if saved_config(out).num_images != trainer.config.num_images:
            lengthen(out, trainer.config.num_images)
    trainer.observer = _Notes()
    if trainer.resume():
        finished = trainer.images >= trainer.config.num_images
        say(
            f"{out} is finished, at {trainer.images} images"
            if finished
            else f"resuming {out} at {trainer.images} images"
        )
    else:
        say(f"no sound checkpoint in {out}; starting from the beginning")


def _refuse_other_data(trainer: Trainer, out: Path) -> None:
    """Where the data lie, and in what kind of file, is no part of a run; what they are is told by their fingerprint."""
    record, now = read_config(out), trainer.record
    if part := changed_data_part(record["data"], now["data"]):
        lines = differences(record["config"]["data"], now["config"]["data"])
        named = f" ({'; '.join(f'data.{line}' for line in lines)})" if lines else ""
        raise UsageError(
            f"the {part} are not those that {out} was started with{named}; put them back, or start anew in another "
            "--out"
        )


class _Notes(Silent):
    """Nothing is drawn yet."""

    def message(self, text: str) -> None:
        warn(text)


def check_folder(config: RunConfig, out: Path, resume: bool) -> None:
    """Refuse a folder that a run cannot be put into, or that holds another run.

    Raises:
        UsageError: says what is there, and what to do.
    """
    check_no_other(out)
    refuse_links(out)
    if not (out / "config.json").is_file():
        return
    if is_unbegun(out):
        return
    if not resume:
        raise run_is_there(out)
    config, old = finalized(config, read_config(out)["model"]["class_names"]), saved_config(out)
    if not (lines := differences(old.model_dump(mode="json"), config.model_dump(mode="json"))):
        return
    if is_longer(old, config, lines):
        refuse_other_end(out, old, config)
    else:
        raise UsageError(
            f"{out} was started with another configuration ({'; '.join(lines)}); resume it without changes, "
            "or start anew in another --out"
        )


def dry_run(config: RunConfig, device: str = "auto") -> None:
    """Show what a run would be, its size and its measured cost; nothing is written."""
    _tell_of_late_guide(config)
    training, held_out = split_data(config)
    tell_of_signal_left(config.system, training)
    with TemporaryDirectory() as folder, counting("measuring") as observer:  # a loss that is not finite leaves evidence
        trainer = Trainer(config, training, held_out, Path(folder), pick_device(device))
        parameters = sum(value.numel() for value in trainer.objective.model.parameters() if value.requires_grad)
        try:
            cost = measured_cost(trainer, observer)
        finally:
            trainer.loader.close()
    tell_of_short_run(config)
    rows = [
        [
            "data",
            f"{training.name}, {len(training):,} training and {counted(len(held_out), 'held-out item')} of shape "
            f"{training.shape}",
        ],
        ["classes", ", ".join(training.class_names) or "none"],
        ["parameters", f"{parameters:,}"],
        ["optimizer steps", f"{config.num_steps:,} of {config.batch_images} images"],
        ["cost of 1,000 images", f"{_seconds(cost, 1000)} on {trainer.device}"],
        ["measured", cost.measured],
        ["whole run", f"{_durations(cost, config.num_images)}, without validation, samples and checkpoints"],
        *_busy(cost, config.num_images, trainer.device.type),
    ]
    table(f"{config.recipe} (dry run: nothing is written)", ["", ""], rows)
    console().print_json(json.dumps(config.model_dump(mode="json")))


def _seconds(cost: Cost, images: int) -> str:
    low, high = cost.spread(images)
    spread = f" ({low:.2f} to {high:.2f})" if len(cost.seconds) > 1 else ""
    return f"{cost.of_images(images):.2f} s{spread}"


def _durations(cost: Cost, images: int) -> str:
    low, high = (duration(seconds) for seconds in cost.spread(images))
    middle = duration(cost.of_images(images))
    return middle if low == high else f"{middle} ({low} to {high})"


def _busy(cost: Cost, images: int, device: str) -> list[list[str]]:
    """A row that says so if others used the processor while it was measured."""
    if cost.load is None or not cost.load.shared or device != "cpu":
        return []
    others = f"others kept {cost.load.others:.1f} of {counted(allowed_cores(), 'core')} busy meanwhile"
    alone = f"with the machine to itself the run takes at least {duration(cost.alone(images))}"
    return [["busy machine", f"{others}; {alone}"]]
