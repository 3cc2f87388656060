"""``undiffuse study``: experiments on theory, each written to a folder of images with a JSON file of all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.arguments import EXACT, check_points, check_process, check_texts
from undiffuse.api.configuration.overrides import read_options
from undiffuse.api.datasets.reference_data import own_data
from undiffuse.api.loading import load
from undiffuse.api.outputs import STUDY, check_results, study_folder
from undiffuse.cancellation import Cancel
from undiffuse.config import Component, FrozenModel
from undiffuse.core.processes import PROCESSES
from undiffuse.core.terminal_noise import terminal_noise
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.files import check_replaceable_folder, replacing
from undiffuse.limits import check_seed
from undiffuse.locking import locked
from undiffuse.models.base import denoising
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, OnProgress, announce, note, observing, stage
from undiffuse.registry import known_keywords, lookup, make, nearest, resolve
from undiffuse.studies import MODEL_STUDIES, RENAMED_STUDIES
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.run import check_model, run_study
from undiffuse.studies.theory.context import TheoryContext
from undiffuse.studies.theory.ground_truth import TRUTHS, truth_of
from undiffuse.studies.theory.study import check_plane, own_files, study_theory
from undiffuse.wording import renamed_note


@known_keywords
def study(
    name: str,
    model: str | Path,
    out: str | Path | None = None,
    options: Sequence[str] = (),
    *,
    seed: int = 0,
    weights: str = "ema",
    device: str = "auto",
    data: str | None = None,
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Run one study of a trained model; returns the content of ``study.json``.

    Args:
        name: a row of ``studies.MODEL_STUDIES``.
        model: a run folder, a model folder or a bundled name.
        out: folder of the images, ``study.json`` and ``README.md``; ``studies/NAME-MODEL`` by default.
        options: ``key=value`` texts for the study.
        seed: of the random numbers.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        data: current location of the training data; by default the recorded one.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Raises:
        UsageError: no such study, model or option, a model of points, or a folder with other content.
        CancelledError: it was cancelled.
    """
    check_texts("options", options)
    with observing(observer, cancel):
        if name == "theory":
            return _theory(str(model), out, options, seed, weights, device)
        return _study(name, model, out, options, seed, weights, device, data)


def _theory(
    model: str, out: str | Path | None, options: Sequence[str], seed: int, weights: str, device: str
) -> dict[str, Any]:
    """The study of models of points, with options as for the others."""
    chosen = read_options(TheoryOptions, options, "study 'theory'")
    where = Path(out).expanduser() if out is not None else None
    return theory(model, where, process=chosen.process, num=chosen.num, seed=seed, weights=weights, device=device)


class TheoryOptions(FrozenModel):
    """Options of the study ``theory``.

    Args:
        process: of ``exact:NAME``, such as ``ve`` or ``vp:beta_max=10``; ``vp`` by default.
        num: points per set for distances.
    """

    process: str | None = None
    num: int = 1000


def _study(
    name: str,
    model: str | Path,
    out: str | Path | None,
    options: Sequence[str],
    seed: int,
    weights: str,
    device: str,
    data: str | None,
) -> dict[str, Any]:
    check_seed(seed)
    if name in RENAMED_STUDIES:
        note(renamed_note(name, RENAMED_STUDIES[name]))
        name = RENAMED_STUDIES[name]
    row = lookup(MODEL_STUDIES, name, "study")
    chosen = read_options(resolve(row.options), options, f"study {name!r}")
    loaded = load(model, device, weights)
    check_model(loaded, name)
    folder = Path(out) if out is not None else study_folder(name, loaded.path)
    check_results(folder, STUDY, overwrite=True)
    subject = ImageStudyContext(loaded, lambda: own_data(loaded, data), seed)
    with locked(folder), replacing(folder) as temporary, stage(name) as observer:
        temporary.mkdir(parents=True)
        result = run_study(name, subject, temporary, chosen, _model_record(loaded), observer)
    for file, image in result["pictures"].items():  # data
        announce(f"{image['title']}: {folder / file}")
    announce(f"study: {folder / 'README.md'}")
    return result


def _model_record(model: Model) -> dict[str, Any]:
    return {
        "model": {"path": model.path.resolve().name, "weights": model.weights, "weights_sha256": model.weights_sha256},
        "recipe": model.config["config"]["recipe"],
        "process": model.config["config"]["system"].get("process"),
    }


def theory(
    model: str, out: Path | None, *, process: str | None, num: int, seed: int, weights: str, device: str
) -> dict[str, Any]:
    """Compare a model of points, or an exact denoiser, with the true distribution; returns ``study.json``.

    Args:
        model: a run folder of points, or ``exact:NAME``.
        out: the folder; ``studies/theory-MODEL`` if None.
        process: of ``exact:NAME``; ``vp`` if None.
        num: points per set for distances.
        seed: of the first.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
    Raises:
        UsageError: no such model or source, a model of images, or a folder with other content.
    """
    check_points(num, seed)
    if model.startswith(EXACT):
        subject, record = _exact(model, process or "vp", num, seed)
        folder = out or Path("studies") / f"theory-{model.removeprefix(EXACT)}-exact"
    else:
        check_process(process)
        loaded = load(model, device, weights)
        subject, record = _trained(loaded, model, num, seed)
        folder = out or study_folder("theory", loaded.path)
    check_replaceable_folder(folder, "a study", "study.json", own_files(), overwrite=True)
    with locked(folder), replacing(folder) as temporary, stage("drawing") as bar:
        temporary.mkdir(parents=True)

        def on_progress(done: float, total: float, name: str) -> None:
            bar.progress(done, total)
            announce(f"{done + 1} of {total}: {name}")

        result = study_theory(subject, temporary, record, OnProgress(on_progress))
    announce(f"study: {folder / 'README.md'}")
    return result


def _exact(model: str, process: str, num: int, seed: int) -> tuple[TheoryContext, dict[str, Any]]:
    """The exact denoiser of a source with its default options."""
    name = model.removeprefix(EXACT)
    if name not in TRUTHS:
        raise UsageError(f"no exact distribution {name!r}; {nearest(name, TRUTHS)}")
    config = SOURCE_CONFIGS[name](name=name)
    truth = truth_of(config)
    denoiser = truth.denoiser(make(PROCESSES, process, "process"))
    start = terminal_noise(denoiser.process)
    if start.biases_samples(float(truth.variance.mean().sqrt()), float(truth.mean.square().mean().sqrt())):
        note(f"--process {process} ends at {start.consequence(float(truth.variance.mean().sqrt()))}")
    subject = TheoryContext(model, denoiser, truth, True, "ancestral", 100, "uniform", num, seed)
    return subject, {"process": process, "data": config.model_dump(mode="json"), "exact": True}


def _trained(model: Model, name: str, num: int, seed: int) -> tuple[TheoryContext, dict[str, Any]]:
    record = model.config["config"]
    check_plane(tuple(model.module.shape), record["data"].get("name", ""), name)
    data = Component(SOURCE_CONFIGS, "data source").pick(record["data"])
    system = denoising(model.module, "the study 'theory'")
    sampling = system.sampling_record()
    subject = TheoryContext(
        record["recipe"],
        system.denoiser("fp32").eval(),
        truth_of(data),
        False,
        sampling["sampler"],
        sampling["steps"],
        sampling["grid"],
        num,
        seed,
    )
    own = {
        "model": {"path": model.path.resolve().name, "weights": model.weights, "weights_sha256": model.weights_sha256},
        "process": record["system"]["process"],
        "data": record["data"],
        "exact": False,
    }
    return subject, own
