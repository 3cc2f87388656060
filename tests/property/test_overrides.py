"""Overrides mean the same in any order, and lose nothing that was said and is still known."""

from __future__ import annotations

import warnings
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.config import validate
from undiffuse.data import source_config_for
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.recipes import get_recipe
from undiffuse.training.config import OptimizerConfig, RunConfig

#: Overrides that go together with each recipe named; those of a group are values of one key.
CHOICES = {
    "ddpm-digits": [
        ["optimizer.name=muon", "optimizer.name=adamw"],
        ["optimizer.clip_norm=0.1"],
        ["optimizer.learning_rate=0.0005"],
        ["system.process.name=ddpm_cosine", "system.process=ddpm_cosine"],
        ["system.process.num_steps=50"],
        ["system.time_density.name=uniform", "system.time_density=uniform"],
        ["system.weighting.name=sigmoid"],
        ["system.sampling.num_steps=7"],
        ["system.sampling.sampler=ddim"],
        ["augment.name=document", "augment=document"],
        ["augment.rotate=0.3"],
        ["data.validation_fraction=0.2"],
        ["system.network.channels=8"],
        ["ema.halflife_images=100"],
    ],
    "edm-cifar10": [
        ["system.process.name=ve"],
        ["system.process.sigma_max=50"],
        ["augment.name=flip"],
        ["augment.flip=0.25"],
        ["data.name=zip"],
        ["data.path=x.zip"],
        ["system.network.dropout=0.2"],
        ["system.name=mean_flow", "system=mean_flow"],
        ["optimizer.name=muon"],
    ],
}


def applied(recipe: str, overrides: list[str]) -> RunConfig | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UsageWarning)
        try:
            return apply_overrides(get_recipe(recipe), overrides)
        except UsageError as error:
            return str(error)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_gives_the_same_configuration(data: st.DataObject) -> None:
    recipe = data.draw(st.sampled_from(sorted(CHOICES)))
    groups = data.draw(st.lists(st.sampled_from(CHOICES[recipe]), unique_by=lambda group: group[0], max_size=6))
    chosen = [data.draw(st.sampled_from(group)) for group in groups]
    assert applied(recipe, data.draw(st.permutations(chosen))) == applied(recipe, chosen)


@pytest.mark.parametrize("overrides", list(permutations(("optimizer.clip_norm=0.1", "optimizer.name=muon", "seed=3"))))
def test_another_optimizer_keeps_the_clip_and_the_warm_up_and_the_rate_is_reported(overrides: tuple[str, ...]) -> None:
    recipe = get_recipe("edm-cifar10")
    with pytest.warns(UsageWarning, match=r"learning_rate=.* was chosen for adam and is kept for muon"):
        config = apply_overrides(recipe, overrides)
    expected = recipe.optimizer.model_copy(update={"name": "muon", "clip_norm": 0.1})
    assert config.optimizer == expected and expected.warmup_images > 0


def test_a_rate_of_ones_own_is_not_commented_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_overrides(get_recipe("edm-cifar10"), ["optimizer.name=muon", "optimizer.learning_rate=1e-3"])


def test_what_the_new_row_knows_stays_and_the_rest_is_reported() -> None:
    recipe = get_recipe("vpsde-swissroll")  # beta_max = 9
    config = applied("vpsde-swissroll", ["system.process=sub_vp"])
    assert isinstance(config, RunConfig)
    assert config.system.process.model_dump() == {"name": "sub_vp", "beta_min": 0.1, "beta_max": 9.0}  # type: ignore[attr-defined]
    with pytest.warns(UsageWarning, match=r"system.process=ddpm_cosine does not take .*: beta_max=9"):
        chain = apply_overrides(recipe, ["system.process=ddpm_cosine"])  # whose beta_max lies below 1
    assert chain.system.process.beta_max == 0.999  # type: ignore[attr-defined]
    with pytest.warns(UsageWarning, match="system.process=flow does not take"):
        apply_overrides(recipe, ["system.process=flow"])


def test_another_system_keeps_the_network_and_its_sections_can_be_set() -> None:
    recipe = get_recipe("flow-mnist")
    overrides = ["system.sampling.num_steps=3", "system.name=mean_flow", "system.network.channels=8"]
    config = applied("flow-mnist", overrides)
    assert isinstance(config, RunConfig) and config.system.name == "mean_flow"
    expected = recipe.system.network.model_copy(update={"channels": 8})  # type: ignore[attr-defined]
    assert config.system.network == expected  # type: ignore[attr-defined]
    assert config.system.sampling.num_steps == 3  # type: ignore[attr-defined]


def test_other_data_keeps_what_it_takes() -> None:
    config = applied("edm-cifar10", ["data.name=zip", "data.path=x.zip"])
    assert isinstance(config, RunConfig) and config.data.path == "x.zip"  # type: ignore[attr-defined]
    recipe = get_recipe("flow-mnist")
    assert apply_overrides(recipe, [], source_config_for("digits")).data.name == "digits"
    with pytest.raises(UsageError, match="path"):
        apply_overrides(get_recipe("edm-cifar10"), ["data.name=zip"])


def test_of_two_values_the_last_counts_and_a_whole_section_comes_before_its_parts() -> None:
    for overrides in (
        ["seed=1", "optimizer.name=adam", "seed=2"],
        ["optimizer.name=muon", "optimizer.name=adam", "seed=2"],
    ):
        config = applied("ddpm-digits", overrides)
        assert isinstance(config, RunConfig) and config.seed == 2 and config.optimizer.name == "adam"
    whole = 'system.process={"name": "vp", "beta_max": 9}'
    for order in permutations([whole, "system.process.beta_min=0.2", "system.time_density=uniform"]):
        config = applied("ddpm-digits", list(order))
        assert isinstance(config, RunConfig)
        assert config.system.process.model_dump() == {"name": "vp", "beta_min": 0.2, "beta_max": 9}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.process=flwo", r"'system.process'.*did you mean 'flow'"),
        ("system.proces.name=vp", "no section 'proces'.*did you mean 'process'"),
        ("optimizer.clip=1", "no key 'optimizer.clip'"),
        ("system.process.betamax=1", "betamax"),
        ("seed.x=1", "no section 'seed'"),
    ],
)
def test_what_is_unknown_gets_the_nearest(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_overrides(get_recipe("ddpm-digits"), [override])


def test_a_key_s_earlier_name_sets_the_key() -> None:
    """Within a section, as a section, and in a file; said under both names it is refused."""
    earlier, now = "optimizer.phase_rates.generator=1e-2", "optimizer.phase_learning_rates.generator=1e-2"  # data
    config = apply_overrides(get_recipe("gan-rings"), [earlier])
    assert config == apply_overrides(get_recipe("gan-rings"), [now])
    values = config.model_dump(mode="json")
    rates = values["optimizer"].pop("phase_learning_rates")
    assert validate(RunConfig, {**values, "optimizer": {**values["optimizer"], "phase_rates": rates}}) == config  # data
    with pytest.raises(UsageError, match="earlier name of 'phase_learning_rates'"):
        validate(OptimizerConfig, {"phase_rates": {}, "phase_learning_rates": {}})  # data
