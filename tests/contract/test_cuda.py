"""The same code on CUDA: nothing is made on the wrong device. Skipped where there is no such device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.variational import variational_bound
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.request import SampleRequest
from undiffuse.objectives.base import AnyObjective
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import GRIDS, time_grid

if not torch.cuda.is_available():  # once for all of them
    pytest.skip("this torch sees no CUDA device", allow_module_level=True)

DATA = GaussianMixture.ring(3)
every_process = pytest.mark.parametrize("process_name", PROCESSES)


def objective_of(process_name: str, **options: object) -> AnyObjective:
    network = {"name": "unet", "channels": 8, "multipliers": (1, 2), "num_blocks": 1}
    values = {"process": {"name": process_name}, "parameterization": "v", "network": network, **options}
    return validate(DiffusionConfig, {**values, "class_conditional": True}).build((1, 8, 8), ("a", "b")).to("cuda")


@every_process
@pytest.mark.parametrize("density", TIME_DENSITIES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_loss_and_its_gradient(process_name: str, density: str, weighting: str) -> None:
    try:
        objective = objective_of(process_name, weighting={"name": weighting}, time_density={"name": density})
    except UsageError:
        assert density == "knots"
        return
    batch = Batch(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), Given(label=torch.arange(4) % 2), torch.arange(4))
    report = objective(batch.to("cuda"), "main", StepRandom(0, 0, device="cuda"))
    report.loss.backward()
    assert report.loss.device.type == report.per_sample.device.type == report.t.device.type == "cuda"
    assert bool(report.per_sample.isfinite().all())


@every_process
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(process_name: str, grid: str, sampler: str) -> None:
    cond = Condition(label=torch.tensor([0, 1, -1]))
    request = SampleRequest.of(range(3), sampler=sampler, steps=3, grid=grid, cond=cond)
    x = objective_of(process_name).model.sample(request).x
    assert x.device.type == "cuda" and bool(x.isfinite().all())


@every_process
def test_the_exact_denoiser_agrees_with_the_cpu(process_name: str) -> None:
    process: Process = PROCESSES[process_name]()
    times = time_grid("log_snr", process, 8)
    drawn = [
        sample(
            DATA.denoiser(process), make_sampler("heun"), times, shape=(2,), seeds=range(8), device=device,
            dtype=torch.float64,
        ).x.cpu()
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert torch.allclose(*drawn, atol=1e-6)
    x, t = drawn[0], torch.full((8,), 0.5, dtype=torch.float64)
    assert torch.allclose(DATA.log_prob(x.cuda(), process, t.cuda()).cpu(), DATA.log_prob(x, process, t))
    assert torch.allclose(DATA.score(x.cuda(), process, t.cuda()).cpu(), DATA.score(x, process, t))
    assert torch.allclose(DATA.log_prob(x.cuda()).cpu(), DATA.log_prob(x))


def test_the_start_reports_the_device() -> None:
    process, start = PROCESSES["flow"](), torch.zeros(2, 2, device="cuda")
    drawn = sample(DATA.denoiser(process), make_sampler("ddim:eta=1"), time_grid("uniform", process, 2), shape=(2,),
                   seeds=range(2), x_start=start)  # fmt: skip
    assert drawn.x.device.type == "cuda"


@every_process
def test_the_bound(process_name: str) -> None:
    process: Process = PROCESSES[process_name]()
    x_0 = torch.linspace(-1, 1, 256, dtype=torch.float64)[torch.tensor([[3, 90], [200, 255]])]
    times = torch.tensor([0.001, 0.3, 0.6, 1.0], dtype=torch.float64)
    noise = torch.randn(4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    totals = [
        variational_bound(DATA.denoiser(process), x_0.to(device), times, lambda like, k: noise[k].to(like)).total.cpu()
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(*totals)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("row", ["karras", "document"])
def test_augmentation_draws_and_does_what_it_does_on_the_cpu(row: str, channels: int) -> None:
    from undiffuse.augment import AUGMENTATIONS, Augmentation

    images = torch.randint(0, 256, (64, channels, 12, 16), dtype=torch.uint8)
    augmentation = Augmentation(AUGMENTATIONS[row](), (channels, 12, 16))
    draws = augmentation.draw(StepRandom(0, 0, stream="augment"), 64)
    found = augmentation(images.cuda(), draws)
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), augmentation(images, draws), atol=1e-3)


def test_a_run_and_its_continuation(tmp_path: Path) -> None:
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import split_data
    from undiffuse.training.trainer import Trainer

    options = ["system.network.channels=8", "num_images=64", "batch_images=16", "preview_every_images=32"]
    for optimizer in ("adam", "muon"):
        extra = ["random_flip=true", "validate_every_images=32", f"optimizer.name={optimizer}"]
        config = configure("ddpm-digits", options + extra, None, None, False)
        assert Trainer(config, *split_data(config), tmp_path / optimizer, "cuda").run()
        assert Trainer(config, *split_data(config), tmp_path / optimizer, "cuda").resume()
