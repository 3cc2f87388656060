"""``undiffuse study``: experiments on theory, each into a folder of pictures and one JSON of all numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undiffuse.app.models import load
from undiffuse.app.show import counting, say, table
from undiffuse.config import Component
from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import SOURCES
from undiffuse.errors import UsageError
from undiffuse.files import check_own_folder, replacing
from undiffuse.registry import make, nearest
from undiffuse.studies.subject import Subject
from undiffuse.studies.theory import check_plane, own_files, study_theory
from undiffuse.studies.truth import TRUTHS, truth_of
from undiffuse.systems.saved import Model

#: ``exact:swissroll`` stands for the exact denoiser of that source.
EXACT = "exact:"


def theory(
    model: str, out: Path | None, *, process: str | None, num: int, seed: int, weights: str, device: str
) -> dict[str, Any]:
    """Set a model of points, or an exact denoiser, beside the truth; returns the content of ``study.json``.

    Raises:
        UsageError: no such model or source, a model of pictures, or a folder that holds something else.
    """
    if num < 50:
        raise UsageError(f"--num must be at least 50 for distances to mean anything, got {num}")
    if seed < 0:
        raise UsageError(f"--seed must be a whole number from 0 on, got {seed}")
    if model.startswith(EXACT):
        subject, facts = _exact(model, process or "vp", num, seed)
        folder = out or Path("studies") / f"theory-{model.removeprefix(EXACT)}-exact"
    else:
        if process is not None:
            raise UsageError("--process is for exact:NAME; a trained model has its own process")
        loaded = load(model, device, weights)
        subject, facts = _trained(loaded, model, num, seed)
        folder = out or Path("studies") / f"theory-{loaded.path.resolve().name}"
    check_own_folder(folder, "a study", "study.json", own_files(), overwrite=True)
    with replacing(folder) as temporary, counting("drawing") as bar:
        temporary.mkdir(parents=True)

        def tell(done: int, total: int, name: str) -> None:
            bar(done, total)
            say(f"{done + 1} of {total}: {name}")

        result = study_theory(subject, temporary, facts, tell)
    _print_theory(result)
    say(f"study: {folder / 'README.md'}")
    return result


def _exact(model: str, process: str, num: int, seed: int) -> tuple[Subject, dict[str, Any]]:
    """The exact denoiser of a source with its default options."""
    name = model.removeprefix(EXACT)
    if name not in TRUTHS:
        raise UsageError(f"no exact distribution {name!r}; {nearest(name, TRUTHS)}")
    config = SOURCES[name](name=name)
    truth = truth_of(config)
    denoiser = truth.denoiser(make(PROCESSES, process, "process"))
    subject = Subject(model, denoiser, truth, True, "ancestral", 100, "uniform", num, seed)
    return subject, {"process": process, "data": config.model_dump(mode="json"), "exact": True}


def _trained(model: Model, name: str, num: int, seed: int) -> tuple[Subject, dict[str, Any]]:
    record = model.config["config"]
    check_plane(tuple(model.system.shape), record["data"].get("name", ""), name)
    data = Component(SOURCES, "data source").pick(record["data"])
    system: Any = model.system
    sampling = system.config.sampling
    subject = Subject(
        record["recipe"],
        system.denoiser("fp32").eval(),
        truth_of(data),
        False,
        sampling.sampler,
        sampling.num_steps,
        sampling.grid,
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
