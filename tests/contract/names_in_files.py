"""Every name that files and random keys are made with, gathered from the source and from runs of two steps.

A purpose that the source does not spell out where it draws is one of a run: a draw that no run reaches is refused.

python tests/contract/names_in_files.py     writes tests/golden/names.json anew
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import BaseModel
from safetensors import safe_open

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.augment.differentiable import STEPS
from undiffuse.augment.pipeline import TRANSFORMATIONS
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom, derived_seed
from undiffuse.data.config import ImageConfig
from undiffuse.data.load import load_dataset
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.data.storage.encoded import Preprocessing
from undiffuse.networks import NETWORK_CONFIGS, build_network
from undiffuse.networks.gan import DISCRIMINATOR_CONFIGS, GENERATOR_CONFIGS, build_discriminator, build_generator
from undiffuse.objectives.teacher import TeacherConfig
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.recipes.few_step import DISTILLATIONS
from undiffuse.samplers import brownian, noise
from undiffuse.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "names.json"

_SHORT = ("num_images=32", "batch_images=16", "log_every_images=16", "checkpoint_every_images=32")
_QUIET = ("validate_every_images=32", "validation_images=8", "preview_every_images=0", "quality_every_images=0")
_SMALL = ("system.network.channels=4", "system.network.norm_groups=2", "system.network.num_blocks=1")
_POINTS = ("system.network.width=8", "system.network.num_blocks=1", "data.num_points=80")
_LEVELS = ("system.network.multipliers=[1,2]", "system.network.attention_levels=[]")
_GAN = ("system.generator.width=8", "system.discriminator.width=8", "data.num_points=80")
#: Every transformation that there is, each now and then; those of colour need some.
_AUGMENTED = tuple(f"augment.{name}=0.5" for name in TRANSFORMATIONS)
_ALL_BUT_FLIPPED = tuple(option for option in _AUGMENTED if not option.startswith("augment.flip="))
_GAN_AUGMENTED = (
    *("data.channels=3", "system.generator.channels=4", "system.discriminator.channels=4", "system.latent_size=8"),
    *("system.adaptive={}", f"system.diff_augment={json.dumps(list(STEPS))}"),
    *(f"system.{option}" for option in _AUGMENTED),
)
_DRAWS = re.compile(r"\.(uniform|normal|branch)\(|stream=|derived_seed\(")
#: Runs whose names are those of their systems, and of what a system has only with an option.
TEACHER = "diffusion"
RUNS: dict[str, tuple[str, ...]] = {
    TEACHER: ("flow-digits", *_SMALL, "system.guide_images=16", "augment=document", "system.class_conditional=true"),
    "diffusion, learned variance": ("iddpm-swissroll", *_POINTS, 'ema.posthoc={"snapshot_every_images": 16}'),
    "diffusion, muon": ("flow-swissroll", *_POINTS, "optimizer.name=muon", "optimizer.learning_rate=0.02"),
    "gan": ("gan-rings", *_GAN),
    "gan, gradient penalty": ("gan-rings", *_GAN, "system.objective.name=wgan_gp"),
    "gan, augmented": ("dcgan-digits", *_GAN_AUGMENTED, "system.class_conditional=true", "system.label_dropout=0.2"),
    "classifier": ("classifier-rings", *_POINTS),
    "flipped": ("flow-digits", *_SMALL, "random_flip=true", "data.channels=3", *_ALL_BUT_FLIPPED),
}
STUDENTS: dict[str, tuple[str, ...]] = {
    "consistency": ("system.first_knots=2", "system.last_knots=4"),
    "mean_flow": (),
    "progressive": ("system.start_steps=2", "system.stage_images=16"),
    "distribution_matching": ("system.adversarial={}",),
}
#: Of each network the least that has every kind of part.
_TINY: dict[str, dict[str, Any]] = {
    "unet": {"channels": 4, "multipliers": (1, 2), "num_blocks": 1, "norm_groups": 2, "attention_levels": (1,)},
    "transformer": {"channels": 8, "num_blocks": 1, "num_heads": 2, "long_skips": False},
    "mlp": {"width": 4, "num_blocks": 1},
}


def names() -> dict[str, Any]:
    """All of them, by what they are names of."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        runs, drawn, reached = _of_runs(Path(folder), patch)
    missed = [draw for draw in unspelt() if not draw.is_among(reached)]
    assert not missed, f"let a run of RUNS reach these draws, for their purposes are known in no other way: {missed}"
    return {
        "purposes in the source": sorted(purposes()),
        "purposes of runs (stream: purpose)": drawn,
        "keys of sampling": {"noise": hex(noise._KEY), "path": hex(int(brownian._STREAM))},
        "seed of seed 1, stream train, step 2, micro-batch 3, purpose eps": derived_seed(1, "train", 2, 3, "eps"),
        "runs": runs,
        "weights of networks": _of_networks(),
        "config.json": _of_configurations(),
        "fingerprints": _of_fingerprints(),
    }


#: What draws in training; the streams of sampling are numbers.
_OF_TRAINING = ("uniform", "normal", "branch", "StepRandom")


class Draw(NamedTuple):
    """A call that draws: its file and its lines."""

    file: str
    first: int
    last: int

    def is_among(self, lines: set[tuple[str, int]]) -> bool:
        return any((self.file, line) in lines for line in range(self.first, self.last + 1))


def purposes() -> set[str]:
    """What source code draws for, a part that varies as ``{}``."""
    return {word for _, call in _draws() for word in map(_spelt, _purposes_of(call)) if word is not None}


def unspelt() -> list[Draw]:
    """Draws of a micro-batch whose purpose, or a stream within it, is what a variable holds."""
    return [
        Draw(file, call.lineno, call.end_lineno or call.lineno)
        for file, call in _draws()
        if _name_of(call) in _OF_TRAINING and any(_spelt(word) is None for word in _purposes_of(call))
    ]


def _draws() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / "src" / "undiffuse").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if _DRAWS.search(source) else ():
            if isinstance(node, ast.Call):
                yield str(path), node


def _name_of(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _purposes_of(call: ast.Call) -> Iterator[ast.expr]:
    place = {"uniform": 1, "normal": 1, "branch": 0}.get(_name_of(call))
    yield from call.args[place : place + 1] if place is not None else ()
    yield from (
        word.value
        for word in call.keywords
        if (word.arg == "stream" and _name_of(call) == "StepRandom") or (place is not None and word.arg == "purpose")
    )
    yield from call.args if _name_of(call) == "derived_seed" else ()


def _spelt(value: ast.expr) -> str | None:
    """A text with ``{}`` for what varies; nothing for what is no text."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in value.values)
    return None


def _of_runs(
    folder: Path, patch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], dict[str, list[str]], set[tuple[str, int]]]:
    """Of each run its names, what all of them drew for, and the lines that drew."""
    drawn: dict[str, set[str]] = defaultdict(set)
    lines: set[tuple[str, int]] = set()
    generator, branch = StepRandom._generator, StepRandom.branch

    def received(self: StepRandom, purpose: str) -> torch.Generator:
        drawn[self.key[1]].add(re.sub(r"\d+", "#", purpose))
        lines.add(_line_of(sys._getframe(2)))  # of whoever asked for numbers
        return generator(self, purpose)

    def branched(self: StepRandom, purpose: str, device: torch.device | str = "cpu") -> StepRandom:
        lines.add(_line_of(sys._getframe(1)))
        return branch(self, purpose, device)

    patch.setattr(StepRandom, "_generator", received)
    patch.setattr(StepRandom, "branch", branched)
    found = {name: _of_run(_configured(*given), folder / name) for name, given in RUNS.items()}
    for method, overrides in STUDENTS.items():
        teacher = TeacherConfig(path=str(folder / TEACHER))
        student = DISTILLATIONS[method](teacher, _configured(*RUNS[TEACHER]), 1)
        found[method] = _of_run(apply_overrides(student, [*_SHORT, *_QUIET, *overrides]), folder / method)
    return found, {stream: sorted(words) for stream, words in sorted(drawn.items())}, lines


def _line_of(frame: FrameType) -> tuple[str, int]:
    return str(Path(frame.f_code.co_filename).resolve()), frame.f_lineno


def _configured(recipe: str, *overrides: str) -> Any:
    """The run of a recipe; one that ends in ``-digits`` is that of MNIST on the digits that come along."""
    digits = recipe.endswith("-digits")
    more = (*(_LEVELS if recipe.startswith("flow") else ()), "data.name=digits") if digits else ()
    name = recipe.replace("-digits", "-mnist")
    return configure(name, [*overrides, *more, *_SHORT, *_QUIET], "digits" if digits else None, None, False)


def _of_run(config: Any, folder: Path) -> dict[str, Any]:
    trainer = Trainer(config, *split_data(config), folder)
    assert trainer.run()
    (checkpoint,) = (folder / "checkpoints").iterdir()
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    with safe_open(checkpoint / "state.safetensors", "pt") as file:
        tensors = list(file.keys())
    rows: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["kind"]] |= set(_dotted(row))
    return {
        "phases": [phase.name for phase in trainer.objective.phases],
        "weights": collapsed(trainer.objective.model.state_dict()),
        "files": sorted({re.sub(r"\d+", "#", str(path.relative_to(folder))) for path in folder.rglob("*")}),
        "journal": {kind: sorted(keys) for kind, keys in sorted(rows.items())},
        "checkpoint": {
            "tensors": collapsed(name for name in tensors if not name.startswith(("model.", "ema."))),
            "kinds of tensors": sorted({name.partition(".")[0] for name in tensors}),
            "state": sorted(set(_dotted({key: value for key, value in state.items() if key != "config"}))),
        },
        "config.json": sorted(json.loads((folder / "config.json").read_text(encoding="utf-8"))),
    }


def collapsed(keys: Iterable[str]) -> list[str]:
    """Names with ``#`` for each number in them, each once."""
    return sorted({re.sub(r"(?<=\.)\d+(?=\.|$)", "#", key) for key in keys})


def _dotted(value: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, inner in value.items():
        inner = inner[0] if isinstance(inner, list) and inner and isinstance(inner[0], dict) else inner
        if isinstance(inner, dict) and inner:
            yield from _dotted(inner, f"{before}{key}.")
        else:
            yield before + key


def _of_networks() -> dict[str, list[str]]:
    """With classes and all labels."""
    shape, found = (1, 8, 8), {}
    for name, model in NETWORK_CONFIGS.items():
        created = build_network(
            model(**_TINY[name]),
            (2,) if name == "mlp" else shape,
            ConditionSpec.of_classes(2, num_augment=3, target_time=True),
        )
        found[name] = collapsed(created.state_dict())
    for name, model in GENERATOR_CONFIGS.items():
        small: dict[str, Any] = {"width": 8} if name == "mlp" else {"channels": 4}
        size = (2,) if name == "mlp" else (1, 16, 16)
        found[f"generator {name}"] = collapsed(build_generator(model(**small), size, 4, 2).state_dict())
        discriminator = build_discriminator(DISCRIMINATOR_CONFIGS[name](**small), size, 2)
        found[f"discriminator {name}"] = collapsed(discriminator.state_dict())
    return found


def _of_configurations() -> dict[str, list[str]]:
    """Keys by section; of a section that may be one of several things, by the name of each."""
    found: dict[str, set[str]] = defaultdict(set)
    for recipe in RECIPES:
        _add_keys(get_recipe(recipe), "run", found)
    for name, model in SOURCE_CONFIGS.items():
        found[f"data {name}"] |= set(model.model_fields)
    for method in DISTILLATIONS:
        student = DISTILLATIONS[method](TeacherConfig(path="teacher"), get_recipe("flow-mnist"), 1)
        _add_keys(student, "run", found)
    return {section: sorted(keys) for section, keys in sorted(found.items())}


def _add_keys(model: BaseModel, section: str, found: dict[str, set[str]]) -> None:
    for key in type(model).model_fields:
        value = getattr(model, key)
        found[section].add(key)
        if isinstance(value, BaseModel):
            _add_keys(value, f"{key} {getattr(value, 'name', '')}".strip(), found)


def _of_fingerprints() -> dict[str, Any]:
    """What is said of the options of a set, where its fingerprint and results say it."""
    plan = Preprocessing((8, 8), 1, "crop", False, 0)
    options = {"images as found": ImageConfig(name="x").options_text, "images": plan.options_text}
    for name in ("digits", "swissroll", "rings", "gaussians", "gaussian_ring"):
        options[name] = load_dataset(SOURCE_CONFIGS[name](name=name)).provenance["options"]
    return {name: re.findall(r"(\w+)=", text) for name, text in options.items()}


def text(found: Mapping[str, Any]) -> str:
    """As the golden file has it."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(text(names()), encoding="utf-8")
