"""Compare classifier guidance with classifier-free guidance at equal NFE: quality, coverage, correct classes.

    undiffuse train classifier-mnist --data data/mnist --out runs/classifier
    python benchmarks/classifier_guidance.py mnist --classifier runs/classifier --data data/mnist
    python benchmarks/classifier_guidance.py mnist --classifier runs/classifier --scales 1 4 --through x_t x_0

Ways to draw the same seeds, all classes in turn: ``free``, classifier-free guidance of a conditional model by weight;
``classifier``, the same network without a class, guided by the classifier by scale; ``both``, the network with the
class and the classifier. A guided step costs two evaluations; without guidance there are twice as many steps. The
classifier that decides which images show the requested class is that of the features, not the one that guides.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import guidance
import interleaved
import numpy as np
import torch
from torch import Tensor

from undiffuse.api.loading import load
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition_spec import UNCONDITIONAL
from undiffuse.files import write_json
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.models.base import to_uint8
from undiffuse.models.classifier_guidance import with_classifier
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.models.stages import DenoisingStage
from undiffuse.samplers.base import max_nfe
from undiffuse.samplers.plan import run
from undiffuse.studies.plots.plot_style import CYCLE, charts, grid_lines, save

PIECE = 100


@dataclass(frozen=True)
class Way:
    """A kind of guidance (``free``, ``classifier`` or ``both``), its weight, and the input of the classifier."""

    kind: str
    weight: float
    through: str = "x_t"

    @property
    def guided(self) -> bool:
        """Whether a step costs two evaluations."""
        return self.weight != (1 if self.kind == "free" else 0)

    @property
    def folder(self) -> str:
        """Folder of its images."""
        return f"{self.kind}-{self.weight:g}-{self.through}"

    def options(self, arguments: argparse.Namespace) -> SamplingOptions:
        """Sampling options; the steps are doubled without guidance."""
        by_classifier = self.kind != "free"
        return SamplingOptions.of(
            sampler=arguments.sampler,
            steps=arguments.steps * (1 if self.guided else 2),
            grid=arguments.grid,
            guidance=1.0 if by_classifier else self.weight,
            classifier="given" if by_classifier else None,
            classifier_scale=self.weight if by_classifier else None,
            classifier_through=self.through if by_classifier else None,
        )


def ways(arguments: argparse.Namespace) -> list[Way]:
    """All ways; weight 1 of classifier-free guidance first."""
    free = [Way("free", weight) for weight in dict.fromkeys([1.0, *arguments.weights])]
    by_classifier = [(kind, through) for through in arguments.through for kind in ("classifier", "both")]
    guided = [Way(kind, scale, through) for kind, through in by_classifier for scale in arguments.scales]
    return [*free, *(way for way in guided if way.guided or way == Way("classifier", 0))]  # other zeros are repeats


def drawn(model: Model, way: Way, arguments: argparse.Namespace) -> tuple[Tensor, Tensor, int]:
    """Images (N, C, H, W) uint8, their classes (N,) and their NFE; images that exist are read."""
    setting = f"{arguments.sampler}-{arguments.steps}-{arguments.grid}".replace(":", "_")
    assert model.classifier is not None
    weights = f"{model.weights_sha256[:12]}-{model.classifier.weights_sha256[:12]}"
    folder = arguments.work / f"{weights}-{setting}" / way.folder
    folder.mkdir(parents=True, exist_ok=True)
    parts, nfe, count = [], 0, len(model.class_names)
    for start in range(0, arguments.num, PIECE):
        seeds = range(start, min(start + PIECE, arguments.num))
        path = folder / f"{start:06d}-{len(seeds)}.npz"
        if not path.is_file():
            x, nfe = _sampled(model, way, seeds, way.options(arguments))
            partial = path.with_suffix(".tmp.npz")
            np.savez(partial, images=to_uint8(x).cpu().numpy(), nfe=nfe)
            partial.replace(path)
        with np.load(path) as kept:
            parts.append(torch.from_numpy(kept["images"]))
            nfe = int(kept["nfe"])
    return torch.cat(parts), torch.arange(arguments.num) % count, nfe


def _sampled(model: Model, way: Way, seeds: range, options: SamplingOptions) -> tuple[Tensor, int]:
    """Samples with classes in turn; for ``classifier`` the network does not get the class."""
    names, module = model.class_names, model.module
    prompts = [Prompt(names[seed % len(names)]) for seed in seeds]
    classifier = None if way.kind == "free" else model.noisy_classifier
    request = SampleRequest(seeds, options, prompts=prompts, classifier=classifier)
    plan = with_classifier(module.plan(options), request, names, module.shape)
    if way.kind == "classifier":
        (stage,) = plan.stages
        assert isinstance(stage, DenoisingStage)
        plan = replace(plan, stages=(replace(stage, conditioner=LabelConditioner(UNCONDITIONAL)),))
    output = run(plan, request.requests(), batch_size=PIECE)
    return output.x, max_nfe(output.nfe)


def class_share(
    images: Tensor, labels: Tensor, extractor: FeatureExtractor, names: tuple[str, ...]
) -> dict[str, float]:
    """Share of images that the classifier of the features assigns to the requested class; empty without one."""
    if extractor.num_classes != len(names):
        return {}
    share = float((extractor.classify(images).argmax(1) == labels).double().mean())
    return {"right": round(share, 4), "right_error": round((share * (1 - share) / len(images)) ** 0.5, 4)}


def fill(model: Model, arguments: argparse.Namespace, record: dict[str, Any], path: Path) -> None:
    """Measure the ways missing in the record."""
    have = {(row["kind"], row["weight"], row["through"]) for row in record["rows"]}
    missing = [way for way in ways(arguments) if (way.kind, way.weight, way.through) not in have]
    if not missing:
        return
    train = guidance.training_part(model, arguments.data)
    extractor = pick_features(arguments.features, train.shape, model.origin)
    real = guidance.real_features(train, extractor, arguments)
    record |= {"features": extractor.protocol(), "real_images": len(real)}
    for way in missing:
        images, labels, nfe = drawn(model, way, arguments)
        shares = class_share(images, labels, extractor, model.class_names)
        row = {**vars(way), "nfe": nfe, **guidance.measured(images, extractor, real), **shares}
        record["rows"].append(row)
        write_json(path, record)
        print(json.dumps(row), flush=True)


def page(record: dict[str, Any]) -> str:
    """The record as a table."""
    lines = interleaved.head(record, f"Classifier guidance of {record['model']}")
    lines += [
        f"{record['num']} samples a way of {record['steps']} guided steps with {record['sampler']}, the same seeds, "
        f"all classes in turn, against {record['real_images']} training images. *free* is classifier-free guidance, "
        "*classifier* the network without a class and the classifier, *both* the network with the class and the "
        "classifier. *right* is the share of images that an independent classifier assigns to the requested class.",
        "",
    ]
    rows = []
    distance = "frechet" if all("frechet" in row for row in record["rows"]) else "kernel"
    keys = [*((distance,) if distance == "frechet" else ()), "kernel", "right", "precision", "recall", "coverage"]
    keys = [key for key in keys if all(key in row for row in record["rows"])]
    kinds = list(dict.fromkeys((row["kind"], row["through"]) for row in record["rows"]))
    for row in sorted(record["rows"], key=lambda row: (kinds.index((row["kind"], row["through"])), row["weight"])):
        numbers = [f"{row[key]:.3f} ± {row[f'{key}_error']:.3f}" for key in keys]
        way = row["kind"] if row["kind"] == "free" else f"{row['kind']}, {row['through']}"
        rows.append([way, f"{row['weight']:g}", row["nfe"], *numbers])
    names = {"frechet": "Fréchet"}
    lines += interleaved.grid(["guidance", "weight", "NFE", *(names.get(key, key) for key in keys)], rows)
    return "\n".join(lines) + "\n"


def draw(record: dict[str, Any], path: Path) -> None:
    """Distance against coverage and recall, a curve for each kind of guidance."""
    distance = "frechet" if all("frechet" in row for row in record["rows"]) else "kernel"
    fig, panels = charts(2)
    series = list(dict.fromkeys((row["kind"], row["through"]) for row in record["rows"]))
    for axes, share in zip(panels, ("coverage", "recall"), strict=True):
        for (kind, through), colour in zip(series, CYCLE, strict=False):
            rows = [row for row in record["rows"] if (row["kind"], row["through"]) == (kind, through)]
            rows.sort(key=lambda row: row["weight"])
            label = kind if kind == "free" else f"{kind}, through {through}"
            axes.plot([row[share] for row in rows], [row[distance] for row in rows], "o-", color=colour, label=label)
            for row in rows:
                axes.annotate(f"{row['weight']:g}", (row[share], row[distance]), fontsize=7)
        axes.set(xlabel=share, ylabel=f"{'Fréchet' if distance == 'frechet' else 'kernel'} distance")
        grid_lines(axes)
    panels[0].legend(fontsize=8)
    save(fig, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a model folder or a bundled model, with classes")
    parser.add_argument(
        "--classifier", required=True, help="a run or a model folder of a classifier of the same classes"
    )
    parser.add_argument("--data", help="where the data of the model lies, if not where the run found it")
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 1.5, 2, 3], help="of classifier-free guidance")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2, 4], help="of the classifier")
    parser.add_argument("--through", nargs="+", choices=("x_t", "x_0"), default=["x_t"])
    parser.add_argument("--sampler", default="unipc")
    parser.add_argument("--steps", type=int, default=10, help="with guidance; twice as many without")
    parser.add_argument("--grid", default="uniform")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--features", default="auto", help="as of undiffuse evaluate")
    parser.add_argument("--reference", type=int, default=10_000, help="training images")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-classifier-guidance"), help="where images are kept"
    )
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser)
    arguments = interleaved.parse(parser)
    if arguments.smoke:
        arguments.weights, arguments.scales, arguments.num, arguments.reference = [1, 2], [1], 12, 24
        arguments.steps = 2
    model = load(arguments.model, arguments.device).guided(SamplingOptions.of(classifier=arguments.classifier))
    if not model.module.class_names or model.classifier is None:
        raise SystemExit(f"{arguments.model} was trained without classes; name a model with classes")
    label = Path(arguments.model).name
    out = arguments.out or interleaved.default_out(f"classifier-guidance-{label}")
    path = out.with_name(out.name + ".json")
    setting = {"model": label, "num": arguments.num, "sampler": arguments.sampler, "steps": arguments.steps}
    new_record = interleaved.new_record("classifier-guidance", arguments, **setting, rows=[])
    new_record |= {"weights_sha256": model.weights_sha256, "classifier_sha256": model.classifier.weights_sha256}
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else new_record
    for key in (*setting, "weights_sha256", "classifier_sha256"):
        if record[key] != new_record[key]:
            raise SystemExit(f"the rows of {path} have {key} {record[key]}, not {new_record[key]}; name another --out")
    record["command"] = new_record["command"]
    path.parent.mkdir(parents=True, exist_ok=True)
    fill(model, arguments, record, path)
    draw(record, out.with_name(out.name + ".png"))
    interleaved.write(record, page(record), out)


if __name__ == "__main__":
    main()
