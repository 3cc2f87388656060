"""Training does what it says: it learns, accumulates, averages, follows its schedules and keeps a metrics log."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, log_rows_of
from PIL import Image

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.data.dataset import ArrayDataset
from undiffuse.models.base import GenerativeModel
from undiffuse.training.config import EMAConfig, OptimizerConfig
from undiffuse.training.ema import EMA
from undiffuse.training.metrics_log import read_metrics
from undiffuse.training.schedule import learning_rate
from undiffuse.training.trainer import Trainer
from undiffuse.training.validation import validation_loss


def trained(folder: Path, recipe: str, *overrides: str) -> Trainer:
    config = configure(recipe, list(overrides), None, None, False)
    trainer = Trainer(config, *split_data(config), folder)
    assert trainer.run()
    return trainer


def test_a_swiss_roll_is_learned(tmp_path: Path) -> None:
    """Predicting eps = 0 (its mean) costs 1; predicting from x_t as if the data were Gaussian costs E alpha^2."""
    options = ("data.num_points=4000", "system.network.width=64", "system.network.num_blocks=2")
    options += (
        "num_images=200000",
        "batch_images=500",
        "optimizer.learning_rate=5e-3",
        "optimizer.warmup_images=2000",
        "ema.halflife_images=5000",
    )
    options += ("log_every_images=10000", "validate_every_images=50000", "preview_every_images=0")
    trained(tmp_path, "ddpm-swissroll", *options)
    losses = [row["loss"] for row in read_metrics(tmp_path) if row["kind"] == "validation"]
    process = configure("ddpm-swissroll", [], None, None, False).system.model_dump()["process"]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, process["num_steps"], dtype=torch.float64), 0)
    gaussian = float(alpha_bar.mean())  # the data have unit variance
    assert losses[-1] < 0.9 * gaussian < 0.6
    assert losses[-1] < losses[0]


def test_digits_beat_a_constant(tmp_path: Path) -> None:
    options = ("system.network.channels=16", "num_images=6400", "batch_images=64", "optimizer.warmup_images=640")
    options += ("log_every_images=640", "validate_every_images=3200", "preview_every_images=6400")
    trained(tmp_path, "ddpm-digits", *options, "ema.halflife_images=400", "optimizer.learning_rate=5e-3")
    rows = read_metrics(tmp_path)
    validation = [row for row in rows if row["kind"] == "validation"]
    assert [row["images"] for row in validation] == [3200, 6400]
    assert validation[-1]["loss"] < 0.35  # 1 for a constant
    assert validation[-1]["loss_raw"] < 0.45
    training = [row for row in rows if row["kind"] == "train"]
    assert [row["images"] for row in training] == list(range(640, 6401, 640))
    assert training[-1]["loss"] < 0.5 * training[0]["loss"]
    assert {"step", "loss", "grad_norm", "learning_rate", "wall"} <= training[0].keys()
    with Image.open(tmp_path / "previews" / "images_000000006400.png") as preview:
        assert preview.size[0] >= 4 * 8


def test_accumulated_gradients_are_the_mean(tmp_path: Path) -> None:
    """The gradient before the first step, from four micro-batches, against the mean of their own gradients."""
    config = configure("ddpm-digits", [*TINY, "micro_batch_images=4", "optimizer.clip_norm=null"], None, None, False)
    trainer = Trainer(config, *split_data(config), tmp_path)
    parts = []
    for number in range(4):
        batch, rng = trainer._micro_batch(number)
        trainer.objective.model.zero_grad()
        trainer.objective(batch, "main", rng).loss.backward()
        parts.append([value.grad.clone() for value in trainer.objective.model.parameters() if value.grad is not None])
    trainer._one_step()
    whole = [value.grad for value in trainer.objective.model.parameters() if value.grad is not None]
    assert len(whole) == len(parts[0])
    for index, gradient in enumerate(whole):
        mean = sum(part[index] for part in parts) / 4
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)
    assert len({tuple(trainer._micro_batch(number)[0].indices.tolist()) for number in range(4)}) == 4


def test_the_gradient_is_clipped_and_its_norm_before_is_logged(tmp_path: Path) -> None:
    config = configure("ddpm-digits", [*TINY, "optimizer.clip_norm=0.001", "num_images=16"], None, None, False)
    trainer = Trainer(config, *split_data(config), tmp_path)
    trainer.run()
    moved = [p for p in trainer.objective.model.parameters() if p.grad is not None]
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in moved))
    assert clipped == pytest.approx(0.001, rel=1e-3)
    assert read_metrics(tmp_path)[0]["grad_norm"] > 0.01


class Holding(GenerativeModel):
    """A model of one module."""

    def __init__(self, held: torch.nn.Module) -> None:
        super().__init__()
        self.held = held


def test_the_average_follows_its_formula() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    model = Holding(module)
    ema = EMA(model, EMAConfig(halflife_images=100, rampup=None))
    assert ema.decay(0, 100) == 0.5
    assert ema.decay(10**9, 50) == pytest.approx(0.5**0.5)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.fill_(1.0)
    for step in range(3):
        ema.update(model, 100 * step, 100)
    average = ema.average.get_parameter("held.weight")
    torch.testing.assert_close(average, 1 + (start - 1) / 8)
    assert not average.requires_grad and not ema.average.training


def test_the_average_ramps_up() -> None:
    """The half-life is at most ``rampup`` of the images seen; at the first step the average is the weights."""
    ema = EMA(Holding(torch.nn.Linear(1, 1)), EMAConfig(halflife_images=1000, rampup=0.05))
    assert ema.decay(0, 10) == 0.0
    assert ema.decay(2000, 10) == pytest.approx(0.5 ** (10 / 100))
    assert ema.decay(10**6, 10) == pytest.approx(0.5 ** (10 / 1000))


def test_statistics_of_batch_norms_are_averaged_and_other_buffers_copied() -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    module.register_buffer("seen", torch.zeros(3))
    model = Holding(module)
    ema = EMA(model, EMAConfig(halflife_images=8, rampup=None))
    start = module[0].running_mean.clone()
    module(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) + 5)
    module.get_buffer("seen").fill_(4.0)
    ema.update(model, 80, 8)
    average = ema.average.get_submodule("held.0")
    torch.testing.assert_close(average.running_mean, (start + module[0].running_mean) / 2)
    assert int(average.num_batches_tracked) == 1
    assert torch.equal(ema.average.get_buffer("held.seen"), module.get_buffer("seen"))


def test_learning_rates() -> None:
    def at(decay: str, images: int, warmup: int = 100, final: float = 0.1) -> float:
        config = OptimizerConfig.model_validate(
            {"learning_rate": 2.0, "warmup_images": warmup, "decay": decay, "final_fraction": final}
        )
        return learning_rate(config, images, 1100)

    for decay in ("constant", "cosine", "linear", "inverse_sqrt"):
        assert at(decay, 10) == pytest.approx(0.2)  # warm-up is linear in images
        assert at(decay, 100) == pytest.approx(2.0)
    assert at("constant", 5000) == 2.0
    assert at("linear", 600) == pytest.approx(2 * 0.55)
    assert at("cosine", 350) == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert at("cosine", 1100) == at("linear", 1100) == at("linear", 1200) == pytest.approx(0.2)
    assert at("inverse_sqrt", 400) == pytest.approx(1.0)
    assert at("cosine", 0, warmup=0) == 2.0


def test_schedules_are_counted_in_images_whatever_the_batch(tmp_path: Path) -> None:
    rates = {}
    for batch in (16, 32):
        folder = tmp_path / str(batch)
        options = ("num_images=160", "optimizer.warmup_images=64", "optimizer.decay=linear", f"batch_images={batch}")
        trained(folder, "ddpm-digits", *TINY, *options)
        rates[batch] = [row["learning_rate"] for row in log_rows_of(folder) if row["kind"] == "train"]
    assert rates[16] == rates[32]


def test_the_validation_loss_is_the_same_at_every_look(tmp_path: Path) -> None:
    config = configure("ddpm-digits", list(TINY), None, None, False)
    trainer = Trainer(config, *split_data(config), tmp_path)
    first, second = (
        validation_loss(trainer.objective, trainer.validation, 40, config.seed, trainer.device) for _ in range(2)
    )
    assert first == second
    assert first != validation_loss(trainer.objective, trainer.validation, 40, config.seed + 1, trainer.device)


def test_one_seed_one_run(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(tmp_path / name, "ddpm-digits", *TINY, "num_images=64", f"seed={seed}")
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_global_randomness_changes_nothing_and_is_left_alone(tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(seed))
        trained(tmp_path / str(seed), "ddpm-digits", *TINY, "num_images=64", "system.network.dropout=0.3")
        assert torch.equal(torch.rand(1), expected)
    assert log_rows_of(tmp_path / "1") == log_rows_of(tmp_path / "2")


def test_a_run_without_held_out_images(tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    config = configure(
        "ddpm-swissroll", ["num_images=100", "batch_images=50", "preview_every_images=0"], None, None, False
    )
    train = ArrayDataset("points", points)
    assert Trainer(config, train, train.subset([]), tmp_path).run()
    assert {row["kind"] for row in read_metrics(tmp_path)} == {"train"}


def test_tensorboard(tmp_path: Path, undiffuse: CommandLine) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    undiffuse.fine("train", "ddpm-digits", *TINY, "tensorboard=true", "--out", tmp_path / "run")
    board = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    shown = {event.step: event.value for event in board.Scalars("train/loss")}
    written = {row["images"]: row["loss"] for row in log_rows_of(tmp_path / "run") if row["kind"] == "train"}
    assert shown == pytest.approx(written)
    assert board.Scalars("validation/loss")
