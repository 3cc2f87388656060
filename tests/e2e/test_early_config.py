"""What a recipe and overrides make is refused before torch is imported, in the words of the configuration itself."""

from __future__ import annotations

import json
import random
import runpy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure
from undiffuse.cli.checks.commands import check_line
from undiffuse.cli.checks.configuration import check_resumed_with, recipe_settings
from undiffuse.cli.checks.models import Rows, model_at, run_model
from undiffuse.cli.checks.names import check_overrides
from undiffuse.cli.checks.outline import definition
from undiffuse.config import Component, model_of
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.losses.adversarial import OBJECTIVES
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.rules import num_steps_of
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.objectives.rules import SIGNED, has_penalties
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.registry import resolve
from undiffuse.studies import MODEL_STUDIES

TOOL = Path(__file__).parents[2] / "tools" / "make_cli_reference.py"

WRONG = (
    # keys that another row has
    "flow-mnist system.network.mlp_ratio=4",
    "flow-mnist system.process.beta_min=1",
    "flow-mnist system.generator.channels=1",
    "gan-rings system.generator.channels=3",
    "dcgan-mnist system.network.channels=1",
    "ddpm-digits data.path=x",
    "flow-mnist augment.foo=1",
    "flow-mnist ema.posthoc.foo=3",
    "flow-mnist system.process=vp system.process.num_steps=30",
    "flow-mnist num_images.foo=3",
    # values, and what they have to do with others
    "flow-mnist system.label_dropout=2",
    "flow-mnist ema.posthoc.sigma_rel=[0.1,0.9]",
    "flow-mnist optimizer.phase_learning_rates.foo=-1",
    "flow-mnist micro_batch_images=7",
    "flow-mnist random_flip=true augment.flip=1",
    "flow-mnist system.network.num_heads=7",
    "flow-mnist system.network=transformer system.network.num_heads=7",
    "flow-mnist system.learned_variance=true",
    "flow-mnist system.sampling.guidance=2",
    "flow-mnist system.guide_images=null",
    "iddpm-mnist system.process=flow",
    "meanflow-mnist system.process=vp",
    "ct-mnist system.last_knots=2",
    "gan-rings system.adaptive={} system.objective=wgan",
    "dcgan-mnist system.objective=wgan_gp",
    "dcgan-mnist system.objective.r1=-1",
    "gan-rings system.objective=wgan_gp system.objective.penalty=-1",
    "gan-rings system.objective.every=0",
    "progressive-mnist system.start_steps=3",
    "progressive-mnist system.base_images=0",
    # parameterization and time density of a process
    "ddpm-mnist system.parameterization=eps system.process=flow",
    "flow-mnist system.process=ddpm_linear",
    "flow-mnist system.parameterization=posterior_mean",
    "flow-mnist system.time_density=knots",
    "ct-mnist system.time_density=knots",
    "meanflow-mnist system.process=ddpm_linear",
    "progressive-mnist system.process=ddpm_cosine",
    "iddpm-mnist system.process=vp system.parameterization=posterior_mean",
    # another system
    "flow-mnist system=gan system.objective=hing",
    "flow-mnist system=diffusion system.objective=zzz",
    "flow-mnist system=gan system.process=vp",
    "flow-mnist system=gan system.discriminator_steps=0",
    "flow-mnist system=gan system.objective=wgan_gp system.discriminator.norm=batch",
    "flow-mnist system=consistency system.last_knots=2",
    "flow-mnist system=distribution_matching",
    "dcgan-mnist system=diffusion system.label_dropout=2",
    "dcgan-mnist system=diffusion system.parameterization=posterior_mean",
    # options of rows
    "ddpm-mnist system.process.beta_start=-1",
    "flow-mnist system.process=vp system.process.beta_min=30",
    "ddpm-mnist system.process.num_steps=0",
    "ddpm-mnist system.process=ddpm_cosine system.process.offset=-1",
    "vesde-mnist system.process.sigma_min=100",
    "edm-mnist system.process.sigma_max=-1",
    "flow-mnist system.time_density.std=-1",
    "flow-mnist system.weighting=min_snr system.weighting.gamma=0",
    "dcgan-mnist system.objective=wgan system.objective.clip=-1",
)


def late(recipe: str, overrides: list[str]) -> str | None:
    with warnings.catch_warnings(action="ignore", category=UsageWarning):
        try:
            apply_overrides(get_recipe(recipe), overrides)
        except UsageError as error:
            return str(error)
    return None


def early(recipe: str, overrides: list[str]) -> str | None:
    try:
        check_line(["train", recipe, *overrides])
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("line", WRONG)
def test_it_is_rejected_in_the_words_of_the_configuration(line: str) -> None:
    recipe, *overrides = line.split()
    found = early(recipe, overrides)
    assert found is not None and found == late(recipe, overrides)


@pytest.mark.parametrize("recipe", ["ddpm-mnist", "dcgan-mnist", "flow-swissroll"])
def test_nothing_is_rejected_that_the_configuration_takes(recipe: str) -> None:
    """Rows of one key for those of another, whose options are carried over as far as the new one takes them."""
    rows = {
        "system.process": PROCESSES,
        "system.weighting": WEIGHTINGS,
        "system.time_density": TIME_DENSITIES,
        "system.objective": OBJECTIVES,
        "system.network": ("unet", "transformer", "mlp"),
        "system": OBJECTIVE_CONFIGS,
        "augment": ("karras", "flip"),
        "data": ("digits", "rings"),
    }
    section = get_recipe(recipe).model_dump(mode="json")
    section = {**section, **{f"system.{key}": value for key, value in section["system"].items()}}
    lines = [
        (f"{key}={name}", early(recipe, [f"{key}={name}"])) for key in rows if key in section for name in rows[key]
    ]
    assert len(lines) > 10
    for override, words in lines:
        assert words is None or words == late(recipe, [override]), override


@pytest.mark.parametrize(
    "line",
    [
        "ddpm-church48 system=consistency system.time_density.mean=-1.1",
        'iddpm-swissroll system=consistency system.network.time_injection="scale_shift"',
        "flow-mnist system=progressive system.base_images=1000",
    ],
)
def test_what_another_system_takes_of_the_old_one_is_left_to_it(line: str) -> None:
    recipe, *overrides = line.split()
    assert early(recipe, overrides) is None


def test_what_is_reported_of_adversarial_objectives_beforehand_is_true_of_them() -> None:
    for name, row in OBJECTIVES.items():
        assert (name in SIGNED) is row().signed
        assert has_penalties(model_of(name, row)(name=name)) is row().penalties.any


def reported_of_data(data: str, overrides: list[str]) -> tuple[str | None, str | None]:
    """What is said of a recipe that is yet to be chosen for data: early, and when it is."""
    message: list[str | None] = []
    for attempt in (
        lambda: check_line(["train", "--data", data, *overrides]),
        lambda: configure(None, overrides, data, None, False),
    ):
        try:
            with warnings.catch_warnings(action="ignore", category=UsageWarning):
                attempt()
        except UsageError as error:
            message.append(str(error))
        else:
            message.append(None)
    return message[0], message[1]


@pytest.mark.parametrize(
    "override",
    [
        *("micro_batch_images=7", "system.generator.channels=8", "augment=flip random_flip=true", "seed=-1"),
        *("system.learned_variance=true", "optimizer.name=sgd"),
    ],
)
def test_what_no_recipe_for_the_data_takes_is_rejected_before_one_is_chosen(override: str) -> None:
    early_words, late_words = reported_of_data("digits", override.split())
    assert early_words is not None and late_words is not None


@pytest.mark.parametrize("data", ["digits", "rings"])
@pytest.mark.parametrize(
    "override",
    [
        *("augment=document", "augment=flip", "random_flip=true", "system.network.dropout=0.1", "batch_images=8"),
        *("system.network.mlp_ratio=2", "system.network.hidden=64", "micro_batch_images=25", "system=gan"),
        *("system.process=vp", "data.size=8", "data.noise=0.1", "augment.flip=0.5 random_flip=false"),
    ],
)
def test_what_some_recipe_for_data_takes_is_not_rejected_before_one_is_chosen(data: str, override: str) -> None:
    early_words, late_words = reported_of_data(data, override.split())
    assert early_words is None or late_words is not None


@pytest.mark.slow
def test_nothing_at_random_is_rejected_that_the_configuration_takes() -> None:
    """One to four overrides from what any recipe says, and from rows that bring others, of any recipe."""
    message = {one for name in RECIPES for one in leaves(get_recipe(name).model_dump(mode="json"))}
    rows = [f"system.process={name}" for name in PROCESSES] + [f"system={name}" for name in OBJECTIVE_CONFIGS]
    rows += [f"system.weighting={name}" for name in WEIGHTINGS] + [
        f"system.time_density={name}" for name in TIME_DENSITIES
    ]
    rows += ["system.network=transformer", "data=digits", "data=rings", "augment=karras", "micro_batch_images=16"]
    rows += ["system.learned_variance=true", "system.objective=hybrid", "system.process.num_steps=1"]
    pool, draw = sorted(message), random.Random(0)
    for _ in range(6000):
        recipe = draw.choice(list(RECIPES))
        overrides = [draw.choice(rows if draw.random() < 0.6 else pool) for _ in range(draw.randint(1, 4))]
        try:
            check_overrides(overrides, recipe)
        except UsageError as error:
            assert late(recipe, overrides) is not None, (recipe, overrides, str(error))


def test_the_length_of_a_chain_is_in_its_configuration() -> None:
    """Rules about parameterizations and time densities read it there, before torch is imported."""
    for name, row in PROCESSES.items():
        assert num_steps_of(model_of(name, row)(name=name)) == row().num_steps, name


def test_all_that_a_recipe_reports_may_be_reported_again() -> None:
    for name in RECIPES:
        check_overrides(leaves(get_recipe(name).model_dump(mode="json")), name)


def leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        found += leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={json.dumps(value)}"]
    return found


def test_the_table_is_what_recipes_report() -> None:
    created = runpy.run_path(str(TOOL))
    assert created["RECIPE_TABLE"].read_text() == created["recipes_text"](), f"run: python tools/{TOOL.name}"
    for name in RECIPES:
        whole = run_model().model_validate(recipe_settings()[name]).model_dump(mode="json")
        assert whole == get_recipe(name).model_dump(mode="json"), name


def test_what_stands_in_for_a_model_has_its_fields_and_defaults() -> None:
    for name, row in OBJECTIVE_CONFIGS.items():
        assert defaults(model_at(definition(row))) == defaults(resolve(row)), name
    for place, registry in (
        ("undiffuse.core.processes:PROCESSES", PROCESSES),
        ("undiffuse.losses.weighting:WEIGHTINGS", WEIGHTINGS),
        ("undiffuse.losses.density:TIME_DENSITIES", TIME_DENSITIES),
        ("undiffuse.losses.adversarial:OBJECTIVES", OBJECTIVES),
    ):
        rows = Rows(definition(place))
        assert list(rows) == list(registry)
        for name, factory in registry.items():
            assert defaults(rows[name]) == defaults(model_of(name, factory)), name
    for name, study in MODEL_STUDIES.items():
        assert defaults(model_at(definition(study.options))) == defaults(resolve(study.options)), name


def defaults(model: Any) -> dict[str, Any]:
    """What each field is by default, as JSON has it, and whether it has to be said."""
    found = {}
    for key, field in model.model_fields.items():
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        for mark in field.metadata:
            if isinstance(mark, Component):
                value = mark.pick(value)
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        found[key] = (field.is_required(), plain)
    return found


def test_the_configuration_in_a_file_and_of_a_run_is_looked_at(tmp_path: Path) -> None:
    config = get_recipe("flow-mnist").model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="process 'flow' has no key 'beta_min'"):
        check_line(["train", "--config", str(tmp_path), "system.process.beta_min=1"])
    (tmp_path / "config.json").write_text(json.dumps({**config, "batch_images": 0}))
    with pytest.raises(UsageError, match=r"--config .* key 'batch_images'"):
        check_line(["train", "--config", str(tmp_path)])
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    with pytest.raises(UsageError, match="micro_batch_images must divide"):
        check_resumed_with(tmp_path, ["micro_batch_images=7"], None)
    (tmp_path / "config.json").write_text("{")
    check_resumed_with(tmp_path, ["micro_batch_images=7"], None)  # of a damaged run, resuming it says more


@pytest.mark.parametrize(
    ("recipe", "override", "value"),
    [
        ("flow-mnist", "ema.posthoc.snapshot_every_images=5000", {"sigma_rel": [0.05, 0.1]}),
        ("dcgan-mnist", "system.adaptive.target=0.5", {"target": 0.5}),
    ],
)
def test_a_section_that_is_off_is_switched_on_by_what_is_reported_of_it(
    recipe: str, override: str, value: dict[str, Any]
) -> None:
    """Right value: the section's own defaults for all else."""
    check_line(["train", recipe, override])
    found: Any = apply_overrides(get_recipe(recipe), [override]).model_dump(mode="json")
    for part in override.partition("=")[0].split(".")[:-1]:
        found = found[part]
    assert value.items() <= found.items()


def test_guidance_that_a_model_was_not_taught_is_reported_from_its_configuration() -> None:
    with pytest.raises(UsageError, match="needs a model trained with classes"):
        check_line(["sample", "letters", "--guidance", "3"])
    check_line(["sample", "mnist", "--guidance", "3"])
    check_line(["sample", "letters", "--guidance", "1"])
