"""Early checks of each command's arguments, by the names of its parameters.

Each check runs twice: before the parser is imported, on the arguments that ``lines`` reads, and in the command itself,
on the arguments from the parser, which understands more. Nothing here may import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from undiffuse.api.arguments import (
    ADAPTIVE,
    FEWEST_OF_A_CLASS,
    check_counts,
    check_examination,
    check_items,
    check_passes,
    check_points,
    check_solver,
    check_solver_steps,
    check_student_steps,
    check_trainings,
    check_tuning,
    check_unrecorded,
    check_workers,
    required_model,
)
from undiffuse.api.configuration.parsing import named_metrics, parse_counts, parse_duration, parse_steps
from undiffuse.api.configuration.starts import check_beginning, check_resumed
from undiffuse.api.loading import find_model, names_run, results_folder
from undiffuse.api.outputs import (
    LATENTS,
    SAMPLES,
    STUDY,
    check_distinct,
    check_empty_or_run,
    check_export,
    check_file,
    check_new_run,
    check_out,
    check_results,
    check_study_folder,
    study_folder,
)
from undiffuse.api.prompt_file import requested_prompts
from undiffuse.cli.checks import names
from undiffuse.cli.checks.configuration import check_file_with, check_fine_tuning, check_proposed, check_resumed_with
from undiffuse.cli.checks.data import (
    check_augmentation,
    check_augmentation_grid,
    check_data,
    check_data_options,
    check_pair,
    check_prepare_settings,
    check_source,
)
from undiffuse.cli.checks.lines import read
from undiffuse.cli.checks.sampling_options import check_options
from undiffuse.core.limits import check_temperature
from undiffuse.data.prepare.checks import check_archive
from undiffuse.errors import UsageError
from undiffuse.limits import check_at_least, check_seed
from undiffuse.models.prompts import number_of_samples, requested_texts
from undiffuse.models.rules import check_template
from undiffuse.models.sample_sets.files import check_grid
from undiffuse.models.seeds import check_seeds
from undiffuse.studies import MODEL_STUDIES, RENAMED_STUDIES
from undiffuse.studies.study_file import study_file
from undiffuse.training.widths import check_width

if TYPE_CHECKING:
    from undiffuse.api.repeating.recorded_image import RecordedImage

P = ParamSpec("P")
R = TypeVar("R")
Words = Sequence[str] | None
NO_FLAGS: Mapping[str, Any] = MappingProxyType({})


def check_line(arguments: Sequence[str]) -> None:
    """Check a command line as far as possible without the parser.

    Raises:
        UsageError: an invalid argument; the message is that of the command itself.
    """
    line = read(arguments)
    if line is not None:
        _check(line.command, line.values)


def checked(command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a command that runs its check in ``CHECKS`` before anything else."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def wrapper(*arguments: P.args, **keywords: P.kwargs) -> R:
            _check(command, signature(function).bind(*arguments, **keywords).arguments)
            return function(*arguments, **keywords)

        return wrapper

    return decorate


def _check(command: str, values: Mapping[str, Any]) -> None:
    if (check := CHECKS.get(command)) is not None:
        given = {**values, "flags": values}  # includes the sampling options, which are defined elsewhere
        check(**{name: given[name] for name in signature(check).parameters if name in given})


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _demo(out: str | Path = "runs/demo", device: str = "auto") -> None:
    names.check_device(device)
    check_empty_or_run(Path(out))


def _train(
    recipe: str | None = None,
    overrides: Words = None,
    data: str | None = None,
    file: str | Path | None = None,
    start: str | None = None,
    start_weights: str = "ema",
    out: str | Path | None = None,
    resume: bool = False,
    stop_after: str | None = None,
    dry_run: bool = False,
    device: str = "auto",
) -> None:
    if stop_after is not None:
        parse_duration(stop_after)
    names.check_device(device)
    if recipe is not None and "=" in recipe:  # the first override of a run without a recipe
        overrides, recipe = [recipe, *(overrides or [])], None
    names.check_recipe(recipe)
    check_data(data)
    names.check_overrides(overrides or [], recipe, data)
    check_beginning(recipe, data, _path(file), resume, _path(out), start)
    if start is not None:
        check_fine_tuning(names.check_model(start, device, start_weights), start, overrides or [], data)
    elif file is not None:
        check_file_with(Path(file), overrides or [], data)
    elif recipe is None and data is not None and not resume:
        check_proposed(overrides or [], data)
    elif recipe is None and resume and out is not None:
        names.check_run(Path(out))
        check_resumed_with(Path(out), overrides or [], data)
    if not dry_run:
        check_resumed(_path(out), resume)
        check_new_run(out, resume)


def _distill(
    model: str,
    overrides: Words = None,
    steps: int = 2,
    method: str = "consistency",
    start: str | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    stop_after: str | None = None,
    dry_run: bool = False,
    device: str = "auto",
) -> None:
    check_resumed(_path(out), resume)
    if stop_after is not None:
        parse_duration(stop_after)
    names.check_model(model, device)
    check_student_steps(steps)
    names.check_name("distillation method", method)
    names.check_overrides(overrides or [])
    check_data(data)
    if start is not None:
        names.check_model(start)
    if not dry_run:
        check_new_run(out, resume)


def _export(
    model: str,
    out: str | Path,
    tune_steps: str | None = None,
    sampler: str | None = None,
    tolerance: float = 0.1,
    seeds: int = 64,
    temperature: float | None = None,
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    folder = names.check_model(model, device, weights)
    names.check_spec("sampler", sampler)
    if parse_steps(tune_steps):
        check_tuning(tolerance, seeds)
    if temperature is not None:
        check_temperature(temperature)
    check_export(out, folder, overwrite)


def _ema(run: str | Path, sigma_rel: float, out: str | Path, overwrite: bool = False) -> None:
    if not (Path(run) / "config.json").is_file():
        raise UsageError(f"no run at {run}; give the folder of a run that was trained with ema.posthoc={{}}")
    check_width(sigma_rel)
    check_export(out, run, overwrite)


def _seal(model: str) -> None:
    find_model(model)


def _sample(
    model: str | None = None,
    num: int | None = None,
    flags: Mapping[str, Any] = NO_FLAGS,
    seed: int | None = None,
    batch_size: int = 64,
    class_name: Words = None,
    prompt: Words = None,
    negative: Words = None,
    prompt_file: str | Path | None = None,
    shown: int = 1,
    image: str | None = None,
    from_image: str | Path | None = None,
    allow_other_model: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    weights: str | None = None,
    device: str = "auto",
) -> None:
    recorded = None if from_image is None else _recorded(Path(from_image))
    if recorded is None:
        check_unrecorded(allow_other_model)
        folder = names.check_model(required_model(model), device, weights or "ema")
    else:
        folder = names.check_model(recorded.folders(model)[0], device, weights or "ema")
        recorded.check_image(image)
    check_options(flags)
    seed = seed if seed is not None or recorded is None else recorded.record["seed"]
    texts, negatives = requested_prompts(prompt, negative, None if prompt_file is None else Path(prompt_file))
    expanded = requested_texts(texts)
    check_seeds(seed or 0, number_of_samples(num, expanded))
    check_at_least("batch_size", batch_size)
    check_grid(shown)
    names.check_generates(folder)
    classifier = names.check_classifier(folder, flags)
    names.check_classes(folder, class_name or [], classifier)
    names.check_prompts(folder, expanded, requested_texts(negatives, "negative"), classifier)
    if image is None and flags.get("strength") is not None:
        raise UsageError(
            f"strength {flags['strength']:g} is of an image to begin from, and there is none; name one or leave it out"
        )
    if image is not None and flags.get("strength") is None and not (recorded and recorded.has_image):
        raise UsageError("an initial image needs a strength from 0 (the image) to 1 (noise), such as a strength of 0.6")
    if image is not None and not (path := Path(image).expanduser()).is_file():
        if path.suffix and not path.exists():
            raise UsageError(f"no image {image}; check the path")
        check_data(image)
    names.check_guided(folder, flags)
    check_results(out, SAMPLES, overwrite)


def _recorded(path: Path) -> RecordedImage:
    from undiffuse.api.repeating.recorded_image import RecordedImage  # imports pydantic

    return RecordedImage(path.expanduser())


def _evaluate(
    model: str,
    data_options: Words = None,
    data: str | None = None,
    metrics: str | None = None,
    num: int = 1000,
    flags: Mapping[str, Any] = NO_FLAGS,
    seed: int = 0,
    features: str = "auto",
    evaluator: str | Path | None = None,
    gallery: int = 200,
    template: str = "{}",
    bound_images: int = 1,
    bound_random_images: int = 1,
    likelihood_images: int = 1,
    likelihood_probes: int = 1,
    batch_size: int = 1,
    out: str | Path | None = None,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    folder = names.check_model(model, device, weights)
    check_options(flags)
    check_counts({"num": num, "batch_size": batch_size, "bound_images": bound_images})
    check_counts({"bound_random_images": bound_random_images, "likelihood_images": likelihood_images})
    check_counts({"likelihood_probes": likelihood_probes})
    check_at_least("gallery", gallery, 2)
    check_template(template)
    check_seeds(seed, num)
    if evaluator is not None:
        names.check_model(str(evaluator), device, "ema")
    names.check_classifier(folder, flags)
    names.check_guided(folder, flags)
    names.check_features(features)
    for name in named_metrics(metrics):
        names.check_name("metric", name)
    check_data_options(data, data_options or [])
    check_file(out or results_folder(folder) / "evaluation.json", "evaluation.json")


def _compare(
    images: str,
    reference: str,
    options: Words = None,
    metrics: str | None = None,
    num: int | None = None,
    counts: str | None = None,
    features: str = "auto",
    size: str | None = None,
    out: str | Path | None = None,
) -> None:
    for name in named_metrics(metrics):
        names.check_name("pair metric", name)
    names.check_features(features)
    parse_counts(counts)
    if num is not None:
        check_at_least("num", num)
    check_pair((images, reference), options or [], size)
    check_file(out, "comparison.json")


def _invert(
    model: str,
    source: str,
    out: str | Path,
    options: Words = None,
    num: int = 16,
    sampler: str = ADAPTIVE,
    steps: int | None = None,
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    names.check_model(model, device, weights)
    check_solver(sampler)
    check_solver_steps(sampler, steps)
    check_items(num)
    check_source(source, options or [])
    check_results(out, LATENTS, overwrite)


def _report(
    models: Sequence[str],
    out: str | Path | None = None,
    study: Sequence[str | Path] | None = None,
    data: str | None = None,
    device: str = "auto",
) -> None:
    check_distinct([names.check_model(model, device) for model in models])
    check_file(out, "report.html")
    for folder in study or []:
        study_file(Path(folder))
    check_data(data)


def _doctor(
    subject: str,
    options: Words = None,
    against: str | None = None,
    data: str | None = None,
    recipe: str | None = None,
    near: float | None = None,
    num: int | None = None,
    seed: int = 0,
    json: str | Path | None = None,
    device: str = "auto",
) -> None:
    names.check_device(device)
    names.check_subject(subject)
    is_run = names_run(subject)
    check_examination(is_run, near, num, recipe, data)
    if is_run:
        check_seeds(seed, num or 1)
    else:
        check_source(subject, options or [])
    check_data(against)
    check_data(data)
    names.check_recipe(recipe)
    check_file(json, "doctor.json", "--json")


def _models(name: str | None = None) -> None:
    names.check_bundled(name)


def _data_info(
    source: str,
    options: Words = None,
    grid: str | Path | None = None,
    augment: str | None = None,
    recipe: str | None = None,
) -> None:
    names.check_recipe(recipe)
    check_augmentation(augment)
    check_augmentation_grid(augment, grid)
    check_file(grid, "grid.png", "--grid")
    check_source(source, options or [])


def _data_prepare(
    source: str,
    out: str | Path,
    options: Words = None,
    size: str | None = None,
    fit: str | None = None,
    channels: int | None = None,
    background: str | None = None,
    classes: str | None = None,
    filters: Words = None,
    on_error: str = "fail",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    check_workers(workers)
    check_prepare_settings(filters or [], on_error)
    given = {"size": size, "fit": fit, "channels": channels, "background": background, "classes": classes}
    check_source(source, options or [], given)
    check_archive(Path(out), overwrite)


def _data_get(name: str | None = None, out: str | Path | None = None) -> None:
    if name is not None:
        names.check_name("public data set", name)
        check_out(out or Path("data") / name)


def _theory(
    model: str,
    out: str | Path | None = None,
    process: str | None = None,
    num: int = 1000,
    seed: int = 0,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    names.check_theory(model, process, device, weights)
    check_points(num, seed)
    check_out(out)


def _parameterization(
    options: Words = None,
    data: str | None = None,
    out: str | Path = "studies/parameterization",
    images: int | None = None,
    num: int = 500,
    seed: int = 0,
    device: str = "auto",
) -> None:
    names.check_device(device)
    check_trainings(images, num, seed)
    check_source(data or "digits", options or [])
    check_study_folder(out)


def _one_class(
    data: str,
    overrides: Words = None,
    recipe: str = "flow-mnist",
    images: int = 30_000,
    num: int = 500,
    features: str = "auto",
    metric: str = "frechet",
    out: str | Path = "studies/one-class",
    seed: int = 0,
    device: str = "auto",
) -> None:
    names.check_features(features)
    names.check_name("distance", metric)
    names.check_training_study(recipe, overrides or [], data, device)
    check_trainings(images, num, seed, FEWEST_OF_A_CLASS)
    check_study_folder(out)


def _small_data(
    data: str,
    overrides: Words = None,
    recipe: str = "dcgan-mnist",
    augment: Words = None,
    images: int = 1000,
    epochs: int = 100,
    every: int = 10,
    features: str = "auto",
    metric: str = "frechet",
    out: str | Path = "studies/small-data",
    seed: int = 0,
    device: str = "auto",
) -> None:
    names.check_features(features)
    names.check_name("distance", metric)
    names.check_training_study(recipe, overrides or [], data, device)
    names.check_overrides(augment or [], recipe, data)
    check_trainings(None, 1, seed)
    check_passes(images, epochs, every)
    check_study_folder(out)


def _model_study(study: str) -> Callable[..., None]:
    def check(
        model: str,
        options: Words = None,
        out: str | Path | None = None,
        data: str | None = None,
        seed: int = 0,
        weights: str = "ema",
        device: str = "auto",
    ) -> None:
        folder = names.check_model(model, device, weights)
        check_seed(seed)
        names.check_study_options(study, options or [])
        check_data(data)
        check_results(out or study_folder(study, folder), STUDY, overwrite=True)

    return check


#: Checks by the commands' full names; commands without a check have no arguments that could be invalid.
CHECKS: dict[str, Callable[..., None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "export": _export,
    "ema": _ema,
    "seal": _seal,
    "sample": _sample,
    "evaluate": _evaluate,
    "compare": _compare,
    "invert": _invert,
    "report": _report,
    "doctor": _doctor,
    "models": _models,
    "data info": _data_info,
    "data prepare": _data_prepare,
    "data get": _data_get,
    "study theory": _theory,
    "study parameterization": _parameterization,
    "study one-class": _one_class,
    "study small-data": _small_data,
    **{f"study {name}": _model_study(name) for name in MODEL_STUDIES},
    **{f"study {old}": _model_study(name) for old, name in RENAMED_STUDIES.items()},
}
