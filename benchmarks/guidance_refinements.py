"""Measure refinements of large guidance weights on a text model of scenes: agreement with the caption and saturation.

    undiffuse train text-scenes-16 --out runs/scenes
    python benchmarks/guidance_refinements.py runs/scenes --weights 2 4 8 --num 96

Each setting draws the same seeds for the same captions with a pair of colour and shape that the training data lack, the
hardest kind. ``saturated`` is the share of values at 0 or 255, ``contrast`` the mean
standard deviation of a sample over that of real scenes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import interleaved
import numpy as np

from undiffuse.annotators.scenes.vocabulary import Vocabulary
from undiffuse.api.loading import load
from undiffuse.config import validate
from undiffuse.data.config import ScenesConfig
from undiffuse.data.load import load_dataset
from undiffuse.data.sources.scenes.prompts import some_prompts
from undiffuse.metrics.caption_agreement import agreements, shares
from undiffuse.models.prompts import literal
from undiffuse.models.saved import Model

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rescale 0.7": {"guidance_rescale": 0.7},
    "rescale 1": {"guidance_rescale": 1.0},
    "parallel 0": {"guidance_parallel": 0.0},
    "parallel 0, norm 0.1": {"guidance_parallel": 0.0, "guidance_norm": 0.1},
    "norm 0.1": {"guidance_norm": 0.1},
    "no threshold": {"threshold": "none"},
    "dynamic 0.995": {"threshold": "dynamic:0.995"},
    "dynamic 0.9": {"threshold": "dynamic:0.9"},
}


def row_of(
    model: Model, captions: list[str], vocabulary: Vocabulary, real: dict[str, float], options: dict[str, Any]
) -> dict[str, Any]:
    """The measured values of one setting.

    Args:
        model: a text model of scenes.
        captions: one per sample.
        vocabulary: of the scenes.
        real: saturation and contrast of real scenes.
        options: of sampling.
    """
    images = model.sample(prompt=literal(captions), seed=0, progress=False, **options).numpy()
    found = shares(agreements(images, captions, vocabulary))["all"]
    own = statistics(images)
    return {
        "agreement": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "saturated": round(own["saturated"], 4),
        "contrast": round(own["contrast"] / real["contrast"], 4),
    }


def statistics(images: np.ndarray[Any, Any]) -> dict[str, float]:
    """Share of saturated values, and mean standard deviation of an image."""
    return {
        "saturated": float(np.isin(images, (0, 255)).mean()),
        "contrast": float(images.reshape(len(images), -1).std(axis=1).mean()),
    }


def page(record: dict[str, Any]) -> str:
    """The record as a table."""
    lines = interleaved.head(record, f"Large guidance weights of {record['model']}")
    real, num, steps = record["real_scenes"], record["num"], record["steps"]
    lines += [
        f"{num} samples of {num} captions with pairs of colour and shape that were never seen, {steps} steps of "
        "`unipc`, the same seeds. *agreement*: share that shows exactly its caption; *saturated*: share of values at "
        f"0 or 255 (real scenes: {real['saturated']:.3f}); *contrast*: of a sample over that of real scenes.",
        "",
    ]
    rows = []
    for row in record["rows"]:
        low, high = row["interval"]
        agreement = f"{row['agreement']:.3f} ({low:.2f} to {high:.2f})"
        rows.append(
            [f"{row['guidance']:g}", row["setting"], agreement, f"{row['saturated']:.3f}", f"{row['contrast']:.3f}"]
        )
    lines += interleaved.grid(["guidance", "setting", "agreement (95 %)", "saturated", "contrast"], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every setting at every weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run or a model folder of a text model of scenes")
    parser.add_argument("--weights", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--num", type=int, default=96)
    parser.add_argument("--steps", type=int, default=10)
    interleaved.common_options(parser)
    given = interleaved.parse(parser)
    if given.smoke:
        given.weights, given.num, given.steps = [2.0], 4, 2
    model = load(given.model)
    config = validate(ScenesConfig, {**model.config["config"]["data"]})
    captions = some_prompts(config, "unseen_pairs", given.num, given.seed)
    unseen = load_dataset(validate(ScenesConfig, {**config.model_dump(), "pairs": "unseen", "num_scenes": given.num}))
    real = statistics(unseen.fetch(np.arange(given.num)).items.numpy())
    setting: dict[str, Any] = {
        "model": Path(given.model).name,
        "weights_sha256": model.weights_sha256,
        "num": given.num,
    }
    record = interleaved.new_record("guidance-refinements", given, **setting, rows=[])
    for weight, (name, changes) in itertools.product(given.weights, SETTINGS.items()):
        options = {**changes, "guidance": weight, "steps": given.steps}
        row = {"guidance": weight, "setting": name, **row_of(model, captions, config.vocabulary, real, options)}
        record["rows"].append(row)
        print(row, flush=True)
    interleaved.write(record, page(record), given.out)


if __name__ == "__main__":
    main()
