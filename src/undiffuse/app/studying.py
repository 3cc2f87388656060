"""``undiffuse study``: experiments on theory, each into a folder of pictures and one JSON of all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undiffuse.app.early import EXACT, refuse_process
from undiffuse.app.early_numbers import check_points
from undiffuse.app.early_out import STUDY, check_results, study_folder
from undiffuse.app.models import load
from undiffuse.app.overrides import read_options
from undiffuse.app.real import own_data
from undiffuse.app.show import counting, say, table, warn
from undiffuse.claims import claimed
from undiffuse.config import Component
from undiffuse.core.processes import PROCESSES
from undiffuse.core.terminal_noise import terminal_noise
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.files import check_own_folder, replacing
from undiffuse.limits import check_seed
from undiffuse.models.base import denoising
from undiffuse.models.saved import Model
from undiffuse.observer import OnProgress
from undiffuse.registry import known_keywords, lookup, make, nearest, resolve
from undiffuse.studies import MODEL_STUDIES
from undiffuse.studies.pictures import PictureSubject
from undiffuse.studies.run import check_images, run_study
from undiffuse.studies.subject import Subject
from undiffuse.studies.theory import check_plane, own_files, study_theory
from undiffuse.studies.truth import TRUTHS, truth_of


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
) -> dict[str, Any]:
    """One study of a trained model of pictures; returns the content of ``study.json``.

    Args:
        name: a row of ``studies.MODEL_STUDIES``.
        model: a run folder, a model folder or a bundled name.
        out: folder of the pictures, ``study.json`` and ``README.md``; ``studies/NAME-MODEL`` by default.
        options: of the study, as ``key=value``.
        data: where the data that the model was trained on lies now; by default where it lay.
    Raises:
        UsageError: no such study, model or option, a model of points, or a folder that holds something else.
    """
    check_seed(seed)
    row = lookup(MODEL_STUDIES, name, "study")
    chosen = read_options(resolve(row.options), options, f"study {name!r}")
    loaded = load(model, device, weights)
    check_images(loaded, name)
    folder = Path(out) if out is not None else study_folder(name, loaded.path)
    check_results(folder, STUDY, overwrite=True)
    subject = PictureSubject(loaded, lambda: own_data(loaded, data), seed)
    with claimed(folder), replacing(folder) as temporary, counting(name) as observer:
        temporary.mkdir(parents=True)
        result = run_study(name, subject, temporary, chosen, _facts(loaded), observer)
    for file, picture in result["pictures"].items():
        say(f"{picture['title']}: {folder / file}")
    say(f"study: {folder / 'README.md'}")
    return result


def _facts(model: Model) -> dict[str, Any]:
    return {
        "model": {"path": model.path.resolve().name, "weights": model.weights, "weights_sha256": model.weights_sha256},
        "recipe": model.config["config"]["recipe"],
        "process": model.config["config"]["system"].get("process"),
    }


def theory(
    model: str, out: Path | None, *, process: str | None, num: int, seed: int, weights: str, device: str
) -> dict[str, Any]:
    """Set a model of points, or an exact denoiser, beside the truth; returns the content of ``study.json``.

    Raises:
        UsageError: no such model or source, a model of pictures, or a folder that holds something else.
    """
    check_points(num, seed)
    if model.startswith(EXACT):
        subject, facts = _exact(model, process or "vp", num, seed)
        folder = out or Path("studies") / f"theory-{model.removeprefix(EXACT)}-exact"
    else:
        refuse_process(process)
        loaded = load(model, device, weights)
        subject, facts = _trained(loaded, model, num, seed)
        folder = out or study_folder("theory", loaded.path)
    check_own_folder(folder, "a study", "study.json", own_files(), overwrite=True)
    with claimed(folder), replacing(folder) as temporary, counting("drawing") as bar:
        temporary.mkdir(parents=True)

        def tell(done: float, total: float, name: str) -> None:
            bar.progress(done, total)
            say(f"{done + 1} of {total}: {name}")

        result = study_theory(subject, temporary, facts, OnProgress(tell))
    _print_theory(result)
    say(f"study: {folder / 'README.md'}")
    return result


def _exact(model: str, process: str, num: int, seed: int) -> tuple[Subject, dict[str, Any]]:
    """The exact denoiser of a source with its default options."""
    name = model.removeprefix(EXACT)
    if name not in TRUTHS:
        raise UsageError(f"no exact distribution {name!r}; {nearest(name, TRUTHS)}")
    config = SOURCE_CONFIGS[name](name=name)
    truth = truth_of(config)
    denoiser = truth.denoiser(make(PROCESSES, process, "process"))
    start = terminal_noise(denoiser.process)
    if start.harms(float(truth.variance.mean().sqrt()), float(truth.mean.square().mean().sqrt())):
        warn(f"--process {process} ends at {start.consequence(float(truth.variance.mean().sqrt()))}")
    subject = Subject(model, denoiser, truth, True, "ancestral", 100, "uniform", num, seed)
    return subject, {"process": process, "data": config.model_dump(mode="json"), "exact": True}


def _trained(model: Model, name: str, num: int, seed: int) -> tuple[Subject, dict[str, Any]]:
    record = model.config["config"]
    check_plane(tuple(model.module.shape), record["data"].get("name", ""), name)
    data = Component(SOURCE_CONFIGS, "data source").pick(record["data"])
    system = denoising(model.module, "the study 'theory'")
    sampling = system.sampling_record()
    subject = Subject(
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
    facts = {
        "model": {"path": model.path.resolve().name, "weights": model.weights, "weights_sha256": model.weights_sha256},
        "process": record["system"]["process"],
        "data": record["data"],
        "exact": False,
    }
    return subject, facts


def _print_theory(result: dict[str, Any]) -> None:
    pictures = result["pictures"]
    rows = [
        [row["sampler"], str(row["steps"]), str(row["nfe"] or "–"), _number(row["distance"]), row.get("note", "")]
        for row in pictures["samplers.png"]["rows"]
    ]
    floor = pictures["samplers.png"]["floor"]
    title = f"{result['subject']}: sliced Wasserstein distance from the truth; exact draws have {floor:.3g}"
    table(title, ["sampler", "steps", "evaluations", "distance", ""], rows)
    if "fisher.png" in pictures:
        levels = [
            [_number(row["ratio"]), _number(row["fisher"]), _number(row["denoising_loss"]), _number(row["loss_floor"])]
            for row in pictures["fisher.png"]["levels"]
        ]
        table("score against the truth", ["r = sigma / alpha", "Fisher divergence", "loss", "its floor"], levels)
    if (numbers := pictures.get("likelihood.png")) is not None:
        say(_likelihood_line(numbers))


def _likelihood_line(numbers: dict[str, Any]) -> str:
    return (
        f"log-likelihood at r = {numbers['ratio']:.2g}: model {numbers['nll_nats']:.4f} nats, truth "
        f"{numbers['entropy_nats']:.4f}, KL {numbers['kl_nats']:.4f} ± {numbers['kl_standard_error']:.4f}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
