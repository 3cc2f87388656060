"""Share of samples that show exactly the scene of their caption, by kind of caption and guidance weight.

    undiffuse train text-scenes-16 --out runs/scenes-16
    python benchmarks/text_scenes.py runs/scenes-16 --num 96 --cpu-seconds 1080
    python benchmarks/text_scenes.py runs/scenes --num 128 --cpu-seconds 5600

Captions of the training scenes; held out by the split, with two groups of things and with three; with a pair of colour
and shape that no training scene has; held-out captions with subject and object swapped; held-out captions in words that
were never seen. Sample i has seed i. The thresholds are those of the project's goals for the size of the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import interleaved

from undiffuse.annotators.scenes.paraphrases import paraphrased
from undiffuse.annotators.scenes.spec import swapped
from undiffuse.api.loading import load
from undiffuse.config import validate
from undiffuse.data.config import ScenesConfig
from undiffuse.data.sources.scenes.prompts import available_kinds, some_prompts
from undiffuse.metrics.caption_agreement import Share, agreements, shares
from undiffuse.models.prompts import literal
from undiffuse.models.saved import Model
from undiffuse.observer import SILENT, observing

#: (kind of caption) → smallest share of the goals, at the best weight, by the side of the images.
GOALS: dict[int, dict[str, float]] = {
    16: {"seen": 0.97, "held_out": 0.97, "unseen_pairs": 0.97},
    32: {"held_out": 0.90, "unseen_pairs": 0.80, "held_out_3": 0.75, "swapped": 0.97},
}
TITLES = {
    "seen": "captions of training scenes",
    "held_out": "held-out captions, two groups",
    "held_out_3": "held-out captions, three groups",
    "unseen_pairs": "pairs of colour and shape never seen, two groups",
    "swapped": "held-out captions with subject and object swapped",
    "paraphrased": "held-out captions in words never seen",
}


def captions_of(config: ScenesConfig, num: int, seed: int) -> dict[str, tuple[list[str], list[str]]]:
    """Prompts, and the captions that their samples must show, of each kind.

    Args:
        config: options of the scenes that the model was trained on.
        num: largest number of captions.
        seed: of the captions.
    """
    kinds = {kind: some_prompts(config, kind, num, seed, 2) for kind in available_kinds(config)}
    kinds["seen"] = some_prompts(config, "seen", num, seed)
    held_out = kinds.get("held_out", kinds["seen"])
    if config.objects > 2:
        kinds["held_out_3"] = some_prompts(config, "held_out", num, seed, 3)
    kinds["swapped"] = [swapped(caption) for caption in held_out]
    found = {kind: (captions, captions) for kind, captions in kinds.items()}
    return {**found, "paraphrased": ([paraphrased(caption) for caption in held_out], held_out)}


def measure(model: Model, config: ScenesConfig, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per kind of caption and guidance weight."""
    rows = []
    for kind, (texts, captions) in captions_of(config, given.num, given.seed).items():
        for weight in given.weights:
            options = {"guidance": weight, "steps": given.steps, "seed": given.seed, "progress": False}
            with observing(SILENT):  # unknown words are expected
                samples = model.sample(prompt=literal(texts), **options)
            found = shares(agreements(samples.numpy(), captions, config.vocabulary))
            nfe = samples.record["nfe"]
            rows.append({"kind": kind, "guidance": weight, "nfe": nfe, "num": len(texts), **_values(found)})
            print(rows[-1], flush=True)
    return rows


def _values(found: dict[str, Share]) -> dict[str, Any]:
    whole = found["all"]
    return {
        **{name: round(share.value, 4) for name, share in found.items()},
        "interval": [round(whole.low, 4), round(whole.high, 4)],
    }


def goal_rows(record: dict[str, Any]) -> list[list[str]]:
    """Goal, best share and "met" or "missed" of each kind with a goal."""
    rows = []
    for kind, goal in GOALS.get(record["size"], {}).items():
        best = max((row for row in record["rows"] if row["kind"] == kind), key=lambda row: row["all"])
        outcome = "met" if best["all"] >= goal else "missed"
        rows.append([TITLES[kind], f"≥ {goal:g}", f"{best['all']:.3f} at guidance {best['guidance']:g}", outcome])
    return rows


def page(record: dict[str, Any]) -> str:
    """The record as tables."""
    lines = interleaved.head(record, f"Captions of scenes at {record['size']}×{record['size']}: {record['model']}")
    cost = "" if record["cpu_seconds"] is None else f", {record['cpu_seconds']:,.0f} CPU seconds"
    lines += [
        f"Recipe `{record['recipe']}`, seed {record['training_seed']}, {record['images']:,} images{cost}. *all* is the "
        "share of samples with exactly the things of their caption in their relations, with its 95 % interval; the "
        "other columns are shares of the things requested.",
        "",
    ]
    parts = ("objects", "colours", "bindings", "sizes", "counts", "relations")
    rows = []
    for row in record["rows"]:
        low, high = row["interval"]
        whole = f"{row['all']:.3f} ({low:.2f} to {high:.2f})"
        numbers = [f"{row[name]:.3f}" for name in parts]
        rows.append([TITLES[row["kind"]], f"{row['guidance']:g}", row["nfe"], row["num"], whole, *numbers])
    lines += interleaved.grid(["captions", "guidance", "NFE", "samples", "all (95 %)", *parts], rows)
    if judged := goal_rows(record):
        lines += ["", *interleaved.grid(["goal", "at least", "best", ""], judged)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure a model and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run or a model folder of a text model of scenes")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--num", type=int, default=128, help="captions of each kind")
    parser.add_argument("--steps", type=int, default=10, help="of the model's sampler")
    parser.add_argument("--cpu-seconds", type=float, help="of the training, for the page")
    interleaved.common_options(parser)
    given = interleaved.parse(parser)
    if given.smoke:
        given.weights, given.num, given.steps = [2.0], 4, 2
    model = load(given.model)
    run = model.config["config"]
    config = validate(ScenesConfig, {**run["data"]})
    setting: dict[str, Any] = {"model": Path(given.model).name, "size": config.size, "recipe": run["recipe"]}
    setting |= {"training_seed": run["seed"], "images": run["num_images"], "cpu_seconds": given.cpu_seconds}
    setting |= {"weights_sha256": model.weights_sha256}
    record = interleaved.new_record(f"{run['recipe']}-{Path(given.model).name}", given, **setting)
    record["rows"] = measure(model, config, given)
    interleaved.write(record, page(record), given.out)


if __name__ == "__main__":
    main()
