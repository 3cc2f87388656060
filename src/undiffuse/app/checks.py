"""What each command can be told at once that it was given wrongly, by the names of its parameters.

A row is asked twice: before the parser is imported, with what ``lines`` makes of the words, and by the command itself,
which may have been given what only the parser understands. Nothing here may import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from undiffuse.app import early
from undiffuse.app.early_data import check_data, check_source
from undiffuse.app.early_options import check_options
from undiffuse.app.early_out import check_file, check_new_run, check_out, check_results
from undiffuse.app.lines import read
from undiffuse.app.models import find_model
from undiffuse.app.parsing import named_metrics, parse_counts, parse_duration, parse_steps
from undiffuse.errors import UsageError
from undiffuse.studies import MODEL_STUDIES
from undiffuse.systems.seeds import check_seeds

P = ParamSpec("P")
R = TypeVar("R")
Texts = Sequence[str] | None
NO_FLAGS: Mapping[str, Any] = MappingProxyType({})


def check_line(arguments: Sequence[str]) -> None:
    """Refuse a whole command line, as far as names and the like tell.

    Raises:
        UsageError: as the command itself would.
    """
    line = read(arguments)
    if line is not None:
        _check(line.command, line.values)


def checked(command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A command whose row below is asked before anything else is done."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*arguments: P.args, **keywords: P.kwargs) -> R:
            _check(command, signature(function).bind(*arguments, **keywords).arguments)
            return function(*arguments, **keywords)

        return called

    return decorated


def _check(command: str, values: Mapping[str, Any]) -> None:
    if (check := CHECKS.get(command)) is not None:
        given = {**values, "flags": values}  # of which some are options of sampling, listed elsewhere
        check(**{name: given[name] for name in signature(check).parameters if name in given})


def _demo(device: str = "auto") -> None:
    early.check_device(device)


def _train(
    recipe: str | None = None,
    overrides: Texts = None,
    data: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    stop_after: str | None = None,
    dry_run: bool = False,
    device: str = "auto",
) -> None:
    if stop_after is not None:
        parse_duration(stop_after)
    early.check_device(device)
    keys = recipe is not None and "=" in recipe  # the first override, of a run without a recipe
    early.check_recipe(None if keys else recipe)
    early.check_overrides([*([recipe] if keys and recipe else []), *(overrides or [])])
    check_data(data)
    if not dry_run:
        check_new_run(out, resume)


def _distill(
    model: str,
    overrides: Texts = None,
    method: str = "consistency",
    start: str | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    stop_after: str | None = None,
    dry_run: bool = False,
    device: str = "auto",
) -> None:
    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to go on with")
    if stop_after is not None:
        parse_duration(stop_after)
    early.check_model(model, device)
    early.check_name("distillation method", method)
    early.check_overrides(overrides or [])
    check_data(data)
    if start is not None:
        early.check_model(start)
    if not dry_run:
        check_new_run(out, resume)


def _export(
    model: str,
    out: str | Path,
    tune_steps: str | None = None,
    sampler: str | None = None,
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    early.check_model(model, device, weights)
    early.check_spec("sampler", sampler)
    parse_steps(tune_steps)
    check_results(out, "an exported model", "config.json", overwrite)


def _ema(run: str | Path, out: str | Path, overwrite: bool = False) -> None:
    if not (Path(run) / "config.json").is_file():
        raise UsageError(f"no run at {run}; give the folder of a run that was trained with ema.posthoc={{}}")
    check_results(out, "an exported model", "config.json", overwrite)


def _seal(model: str) -> None:
    find_model(model)


def _sample(
    model: str,
    num: int = 16,
    flags: Mapping[str, Any] = NO_FLAGS,
    seed: int = 0,
    class_name: Texts = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    folder = early.check_model(model, device, weights)
    check_options(flags)
    check_seeds(seed, num)
    early.check_classes(folder, class_name or [])
    check_results(out, "samples", "samples.json", overwrite)


def _evaluate(
    model: str,
    data: str | None = None,
    metrics: str | None = None,
    num: int = 1000,
    flags: Mapping[str, Any] = NO_FLAGS,
    seed: int = 0,
    features: str = "auto",
    out: str | Path | None = None,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    early.check_model(model, device, weights)
    check_options(flags)
    check_seeds(seed, num)
    early.check_features(features)
    for name in named_metrics(metrics):
        early.check_name("metric", name)
    check_data(data)
    check_file(out)


def _compare(
    pictures: str,
    reference: str,
    metrics: str | None = None,
    counts: str | None = None,
    features: str = "auto",
    out: str | Path | None = None,
) -> None:
    for name in named_metrics(metrics):
        early.check_name("pair metric", name)
    early.check_features(features)
    parse_counts(counts)
    check_data(pictures)
    check_data(reference)
    check_file(out)


def _encode(
    model: str,
    source: str,
    out: str | Path,
    sampler: str = "rk45",
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    early.check_model(model, device, weights)
    early.check_solver(sampler)
    check_data(source)
    check_results(out, "latents", "encode.json", overwrite)


def _report(models: Sequence[str], data: str | None = None, device: str = "auto") -> None:
    for model in models:
        early.check_model(model, device)
    check_data(data)


def _doctor(
    subject: str,
    against: str | None = None,
    data: str | None = None,
    recipe: str | None = None,
    device: str = "auto",
) -> None:
    early.check_device(device)
    early.check_subject(subject)
    check_data(against)
    check_data(data)
    early.check_recipe(recipe)


def _models(name: str | None = None) -> None:
    early.check_bundled(name)


def _data_info(source: str, options: Texts = None, augment: str | None = None, recipe: str | None = None) -> None:
    early.check_recipe(recipe)
    check_source(source, options or [], augment)


def _data_prepare(source: str, options: Texts = None) -> None:
    check_source(source, options or [])


def _data_get(name: str | None = None) -> None:
    if name is not None:
        early.check_name("public data set", name)


def _theory(
    model: str,
    out: str | Path | None = None,
    process: str | None = None,
    weights: str = "ema",
    device: str = "auto",
) -> None:
    early.check_theory(model, process, device, weights)
    check_out(out)


def _parameterization(data: str | None = None, device: str = "auto") -> None:
    early.check_device(device)
    check_data(data)


def _one_class(
    data: str,
    overrides: Texts = None,
    recipe: str = "flow-mnist",
    features: str = "auto",
    device: str = "auto",
) -> None:
    early.check_features(features)
    early.check_training_study(recipe, overrides or [], data, device)


def _small_data(data: str, overrides: Texts = None, recipe: str = "dcgan-mnist", device: str = "auto") -> None:
    early.check_training_study(recipe, overrides or [], data, device)


def _model_study(study: str) -> Callable[..., None]:
    def check(
        model: str,
        options: Texts = None,
        out: str | Path | None = None,
        data: str | None = None,
        weights: str = "ema",
        device: str = "auto",
    ) -> None:
        early.check_model(model, device, weights)
        early.check_study_options(study, options or [])
        check_data(data)
        check_out(out)

    return check


#: By the commands' full names. What is not named here takes nothing that could be wrong by its name.
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
    "encode": _encode,
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
}
