"""Augmentation that does not leak: a model that is conditioned on what was done to its images draws them as they were.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.sealing import accept_edits
from undiffuse.augment import Augmentation, KarrasConfig
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import ArrayDataset, Batch, Dataset
from undiffuse.data.given import Given
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.networks import NETWORK_CONFIGS, build_network
from undiffuse.objectives.base import AnyObjective
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.recipes import get_recipe
from undiffuse.training.trainer import Trainer

LABELS = 9
SHAPE = (1, 8, 8)
NETWORKS = {
    "unet": {"channels": 8, "multipliers": (1, 2)},
    "unet, fourier features": {"channels": 8, "multipliers": (1, 2), "time_features": "fourier", "fourier_scale": 0.02},
    "transformer": {"channels": 16, "num_heads": 2, "num_blocks": 2, "patch_size": 2, "time_channels": 32},
    "transformer, tokens": {"channels": 16, "num_heads": 2, "num_blocks": 2, "conditioning": "tokens"},
    "mlp": {"width": 16, "num_blocks": 2},
}
each_network = pytest.mark.parametrize("kind", NETWORKS)


def network_of(kind: str, num_labels: int, *, trained: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    name = kind.split(",")[0]
    config = validate(NETWORK_CONFIGS[name], {"name": name, **NETWORKS[kind]})
    network = build_network(config, SHAPE, ConditionSpec.of_classes(3, num_augment=num_labels))
    if trained:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(count: int = 4) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(2)
    cond = Condition(label=torch.arange(count) % 4 - 1)
    return torch.randn(count, *SHAPE, generator=generator), torch.rand(count, generator=generator), cond


def conditioned(cond: Condition, label: Tensor) -> Condition:
    return Condition(label=cond.label, augment=label)


@each_network
def test_labels_add_one_matrix_of_zeros_and_change_no_other_weight(kind: str) -> None:
    plain, labelled = network_of(kind, 0).state_dict(), network_of(kind, LABELS).state_dict()
    added = set(labelled) - set(plain)
    assert added == {"embedding.augment.weight"} and not bool(labelled["embedding.augment.weight"].any())
    assert all(torch.equal(value, labelled[name]) for name, value in plain.items())


@each_network
def test_no_label_is_all_zeros_and_zeros_are_a_network_without_labels(kind: str) -> None:
    network, (x, c_noise, cond) = network_of(kind, LABELS, trained=True), inputs()
    without = network_of(kind, 0)
    state = {name: value for name, value in network.state_dict().items() if name != "embedding.augment.weight"}
    without.load_state_dict(state)
    expected = without(x, c_noise, cond)
    assert expected.abs().max() > 0
    assert torch.equal(network(x, c_noise, cond), expected)
    assert torch.equal(network(x, c_noise, conditioned(cond, torch.zeros(4, LABELS))), expected)


@each_network
def test_every_label_reaches_the_output_of_its_own_row(kind: str) -> None:
    network, (x, c_noise, cond) = network_of(kind, LABELS, trained=True), inputs(LABELS)
    plain, moved = network(x, c_noise, cond), network(x, c_noise, conditioned(cond, torch.eye(LABELS)))
    assert ((moved - plain).flatten(1).abs().amax(dim=1) > 1e-4).all()
    only_third = torch.eye(LABELS) * (torch.arange(LABELS) == 3)[:, None]
    changed = (network(x, c_noise, conditioned(cond, only_third)) - plain).flatten(1).abs().amax(dim=1)
    assert changed.nonzero().tolist() == [[3]]


@each_network
def test_a_network_without_labels_ignores_them(kind: str) -> None:
    network, (x, c_noise, cond) = network_of(kind, 0, trained=True), inputs()
    assert torch.equal(network(x, c_noise, conditioned(cond, torch.ones(4, LABELS))), network(x, c_noise, cond))


def objective_of(num_labels: int, **options: object) -> AnyObjective:
    torch.manual_seed(0)
    network = {"name": "unet", "channels": 8, "multipliers": (1, 2)}
    config = validate(DiffusionConfig, {"network": network, "class_conditional": True, **options})
    return config.build(SHAPE, ("a", "b"), num_labels)


def test_a_dropped_class_leaves_the_augmentation_conditioned() -> None:
    """Else the model of no class in particular would be given untouched images where they were turned."""
    conditioner = objective_of(LABELS, label_dropout=1.0).model.conditioner
    label = torch.rand(5, LABELS)
    given, x_0 = Given(label=torch.tensor([0, 1, 0, 1, 0]), augment=label), torch.zeros(5, *SHAPE)
    kept = conditioner.for_training(given, x_0, StepRandom(0, 0))
    assert kept.label is not None and kept.label.tolist() == [-1] * 5
    assert kept.augment is not None and torch.equal(kept.augment, label)
    built = objective_of(LABELS, class_conditional=False).model.conditioner.for_training(given, x_0, StepRandom(0, 0))
    assert built.label is None and built.augment is label


def test_a_step_on_untouched_images_is_a_step_without_augmentation() -> None:
    items = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    plain = Batch(items, Given(label=labels), torch.arange(6))
    zeros = Batch(items, Given(label=labels, augment=torch.zeros(6, LABELS)), torch.arange(6))
    gradients = []
    for objective, batch in ((objective_of(0), plain), (objective_of(LABELS), zeros)):
        report = objective(batch, "main", StepRandom(0, 0))
        report.loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: value.grad for name, value in objective.model.named_parameters()})
    assert set(gradients[1]) - set(gradients[0]) == {"network.embedding.augment.weight"}
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_the_labels_of_karras_et_al() -> None:
    """Their nine: two mirrors, a2, cos a3 - 1, sin a3, a5 cos a4, a5 sin a4, a6, a7."""
    augmentation = Augmentation(KarrasConfig(), (3, 32, 32))
    assert len(augmentation.label_names) == LABELS
    rows = {
        "flip": [1.0],
        "flip_vertical": [1.0],
        "scale": [1.0, -0.7],
        "rotate": [1.0, 1 / 3],
        "stretch": [1.0, 0.4, 0.5],
        "translate": [1.0, 0.2, -1.3],
    }
    label = augmentation.label({name: torch.tensor([row], dtype=torch.float64) for name, row in rows.items()})
    expected = torch.tensor([[1, 1, -0.7, -0.5, 3**0.5 / 2, 0, 0.4, 0.2, -1.3]])
    assert torch.allclose(label, expected, atol=1e-6)


def test_edm_cifar10_has_their_network_with_labels() -> None:
    """Karras et al. 2022, table 7: 55.7M; 9 labels of 128 time features."""
    recipe = get_recipe("edm-cifar10")
    labels = len(Augmentation(recipe.augment, (3, 32, 32)).label_names)
    with torch.device("meta"):
        network = build_network(recipe.system.network, (3, 32, 32), ConditionSpec(num_augment=labels))  # type: ignore[attr-defined]
    assert recipe.augment.condition and not recipe.random_flip
    assert sum(value.numel() for value in network.parameters()) == 55_732_739 + 9 * 128


# training

OVERRIDES = [
    *("system.network=mlp", "system.network.width=128", "system.network.num_blocks=3"),
    *("system.process=flow", "system.parameterization=flow", "system.weighting=flow", "system.time_density=uniform"),
    *("system.sampling.sampler=heun", "system.sampling.grid=uniform", "system.class_conditional=false"),
    *("optimizer.name=adam", "optimizer.learning_rate=2e-3", "ema.halflife_images=3000", "num_images=30000"),
    *("validate_every_images=0", "preview_every_images=0", "quality_every_images=0", "checkpoint_every_images=0"),
]


def slopes(count: int = 256) -> Dataset:
    """Dark above and bright below, at many heights and within 7 degrees of upright."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(8.0) - 3.5
    height, slant = torch.rand(2, count, 1, 1, generator=generator)
    values = torch.tanh(0.8 * (place[:, None] - 3 * (height - 0.5) + 0.3 * (slant - 0.5) * place))
    return ArrayDataset("slopes", ((values + 1) * 127.5).round().byte()[:, None].numpy())


def degrees_from_upright(x: Tensor) -> Tensor:
    """(B,) of the direction in which images (B, 1, 8, 8) get brighter."""
    place = torch.arange(8.0) - 3.5
    across, down = (x[:, 0] * place).sum((1, 2)), (x[:, 0] * place[:, None]).sum((1, 2))
    return torch.rad2deg(torch.atan2(across, down)).abs()


def trained(folder: Path, overrides: Sequence[str]) -> Trainer:
    data = slopes()
    config = apply_overrides(get_recipe("ddpm-digits"), [*OVERRIDES, *overrides])
    trainer = Trainer(config, data, data.subset([]), folder)
    trainer.run()
    return trainer


def share_upright(trainer: Trainer) -> float:
    x = trainer.ema.average.sample(SampleRequest.of(seeds=range(200))).x
    return float((degrees_from_upright(x) < 30).double().mean())


@pytest.mark.parametrize("conditioned", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_turned_images_are_learnt_from_and_not_drawn_where_the_network_is_conditioned(
    conditioned: bool, tmp_path: Path
) -> None:
    """Of the training images 0.3 + 0.7 / 6 = 42% are within 30 degrees of upright."""
    assert degrees_from_upright(slopes().fetch(range(256)).items.float()).max() < 10
    upright = share_upright(
        trained(tmp_path, ["augment.rotate=0.7", *([] if conditioned else ["augment.condition=false"])])
    )
    assert upright >= 0.98 if conditioned else upright < 0.65


def test_a_saved_model_knows_its_conditioning(tmp_path: Path) -> None:
    trainer = trained(tmp_path, ["augment=karras", "num_images=1024"])
    model = load(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["augment_labels"] == [
        *("flip", "flip_vertical", "scale", "rotate 1", "rotate 2"),
        *("stretch 1", "stretch 2", "translate 1", "translate 2"),
    ]
    weight = model.module.state_dict()["network.embedding.augment.weight"]
    assert weight.shape[1] == LABELS and bool(weight.any())
    assert torch.equal(weight, trainer.ema.average.state_dict()["network.embedding.augment.weight"])
    assert model.sample(3).shape == (3, *SHAPE)
    lacking = json.loads((tmp_path / "config.json").read_text())
    del lacking["model"]["augment_labels"]
    (tmp_path / "config.json").write_text(json.dumps(lacking))
    accept_edits(tmp_path)
    with pytest.raises(Exception, match="does not fit its config"):
        load(tmp_path)


def test_models_from_before_labels_still_load(tmp_path: Path) -> None:
    trained(tmp_path, ["num_images=256"])
    record = json.loads((tmp_path / "config.json").read_text())
    del record["model"]["augment_labels"], record["config"]["augment"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    accept_edits(tmp_path)
    assert load(tmp_path).sample(2).shape == (2, *SHAPE)
