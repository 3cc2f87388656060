"""The first number that is not finite stops a run before the optimizer moves, and leaves the evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, last_checkpoint, no_leftovers, state_of
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.data.dataset import ArrayDataset
from undiffuse.training.nonfinite import NonFiniteError, first_bad_gradient, first_bad_layer
from undiffuse.training.trainer import Trainer


def trainer_in(folder: Path, *overrides: str) -> Trainer:
    config = configure("ddpm-digits", [*TINY, *overrides], None, None, False)
    return Trainer(config, *split_data(config), folder)


def spoil_at_step(trainer: Trainer, step: int, layer: nn.Module, spoil: Callable[[Tensor], Tensor]) -> None:
    """Change the output of a layer in one training step."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return spoil(output) if trainer.step == step and trainer.objective.model.training else output

    layer.register_forward_hook(hook)


def some_layer(trainer: Trainer) -> tuple[str, nn.Module]:
    """A convolution in the middle of the network."""
    layers = [(name, layer) for name, layer in trainer.objective.model.named_modules() if isinstance(layer, nn.Conv2d)]
    return layers[len(layers) // 2]


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.objective.model.state_dict().items()}


def evidence(folder: Path, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    where = folder / f"nonfinite_step_{step}"
    with Image.open(where / "images.png") as image:
        assert image.size[0] > 8
    return json.loads((where / "report.json").read_text()), load_file(where / "batch.safetensors")


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    name, layer = some_layer(trainer)
    spoil_at_step(
        trainer, 3, layer, lambda output: torch.where(torch.arange(16).reshape(-1, 1, 1, 1) == 5, torch.inf, output)
    )
    before: dict[str, Tensor] = {}
    original = trainer._one_step

    def one_step() -> None:
        before.update(weights_of(trainer))
        original()

    trainer._one_step = one_step  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError) as error:
        trainer.run()
    assert all(torch.equal(value, before[key]) for key, value in weights_of(trainer).items())
    report, batch = evidence(tmp_path, 3)
    item = int(trainer.loader.indices(3 * 16, 16)[5])
    assert report["step"] == 3 and report["images_seen"] == 48
    assert report["first_bad_layer"].startswith(name)
    assert report["indices"] == [item]
    assert batch["x_0"].shape == (1, 1, 8, 8) and batch["t"].shape == (1,)
    for fact in ("the loss is not finite", "step 3", name, trainer.loader.dataset.item_name(item), str(tmp_path)):
        assert fact in str(error.value)
    assert last_checkpoint(tmp_path).name == "images_000000000032"
    assert all(bool(torch.isfinite(value).all()) for value in state_of(tmp_path).values())
    assert no_leftovers(tmp_path)


@pytest.mark.parametrize("micro_batch", ["null", "4"])
def test_a_gradient_that_is_not_finite_though_the_loss_is(micro_batch: str, tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, f"micro_batch_images={micro_batch}")
    name, layer = some_layer(trainer)
    # the square root has an infinite slope at 0, and 0 times infinity is no number
    spoil_at_step(trainer, 2, layer, lambda output: output + (output * 0).sqrt() * 0)
    with pytest.raises(NonFiniteError, match="a gradient is not finite at step 2") as error:
        trainer.run()
    report, batch = evidence(tmp_path, 2)
    assert report["first_bad_layer"] == f"gradient of {name}.weight"
    assert report["indices"] == trainer.loader.indices(32, 16).tolist()
    assert batch["x_0"].shape == (16, 1, 8, 8)
    assert "and 8 more" in str(error.value)
    assert all(bool(torch.isfinite(value).all()) for value in weights_of(trainer).values())


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    name, parameter = next(iter(trainer.objective.model.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
    with pytest.raises(NonFiniteError, match="weights of") as error:
        trainer.run()
    assert name in str(error.value)


def test_data_that_is_not_finite(tmp_path: Path) -> None:
    config = configure(
        "ddpm-swissroll", ["batch_images=16", "num_images=64", "system.network.width=8"], None, None, False
    )
    points = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    points[7, 1] = np.nan
    train, held_out = ArrayDataset("points", points), ArrayDataset("points", points[:4])
    with pytest.raises(NonFiniteError, match="training data itself") as error:
        Trainer(config, train, held_out, tmp_path).run()
    assert "item 7" in str(error.value)
    assert not list(tmp_path.rglob("images.png"))


def test_a_mad_learning_rate_on_the_command_line(undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("optimizer.learning_rate=1e30", "optimizer.warmup_images=0", "--out", tmp_path / "run")
    line = undiffuse.rejected("train", "ddpm-digits", *TINY, *options, code=1)
    assert "not finite" in line and "learning_rate" in line and "nonfinite_step_" in line


def test_the_first_bad_layer_is_the_first_in_order_of_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.first(x))
            return y

    module = Backwards()
    with torch.no_grad():
        module.first.bias[0] = torch.inf
    assert first_bad_layer(module, lambda: module(torch.zeros(1, 2))) == "first (Linear)"
    assert first_bad_layer(nn.Linear(2, 2), lambda: None) is None


def test_the_first_bad_gradient_is_the_first_of_the_backward_pass() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.third, self.second, self.first = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.third((self.second(self.first(x)) * 0).sqrt() * 0)
            return y

    module = Backwards()
    module(torch.ones(1, 2)).sum().backward()
    assert first_bad_gradient(module, lambda: module(torch.ones(1, 2))) == "second.weight"
    assert module.third.weight.grad is not None and bool(module.third.weight.grad.isfinite().all())
    module.zero_grad()
    assert first_bad_gradient(module, lambda: None) is None
