"""This project and its peers behind one interface: a training step, a denoiser of averaged weights, samples.

Each peer is trained with the defaults of its training script, except that the network's size is matched, and images
come from this project's loader, in memory, in [-1, 1], without flips (which suit neither digits nor shoes).

diffusers, ``examples/unconditional_image_generation/train_unconditional.py``: DDPM with 1000 linear betas, noise
prediction, AdamW at 1e-4 with betas (0.95, 0.999) and decay 1e-6, 500 steps of warm-up, half a cosine down to the last
step, batches of 16, gradients cut to 1, an average warmed up by 1 - (1 + step)^-3/4 to at most 0.9999, no autocast.

denoising-diffusion-pytorch, ``Trainer`` and ``GaussianDiffusion``: 1000 steps of the sigmoid schedule, v prediction,
Adam at 1e-4 with betas (0.9, 0.99), batches of 16, gradients cut to 1, an average of 0.995 every ten steps, no
autocast.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers import ddp_unet, diffusers_unet, import_ddp, num_parameters
from torch import Tensor, nn

from undiffuse.core.denoiser import ClippedDenoiser, Denoiser
from undiffuse.core.processes import DiscreteVP
from undiffuse.core.random import derived_seed
from undiffuse.data.dataset import ArrayDataset, Dataset
from undiffuse.data.loader import Loader
from undiffuse.models.base import DenoisingModel, to_uint8
from undiffuse.models.request import SampleRequest
from undiffuse.networks.config import UNetConfig
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, sample
from undiffuse.samplers.grids import time_grid
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

#: Batch size for sampling peers.
_ROWS = 100
#: Sampler for all denoisers with 20 evaluations.
SOLVER, SOLVER_STEPS, SOLVER_GRID = "dpmpp_2m", 20, "uniform"


@dataclass(frozen=True)
class Setting:
    """Settings of a learner.

    Args:
        data: training data.
        seed: seed of weights, data order, noise.
        num_images: images of the full run, on which learning rates depend.
        device: device of the computation.
        compile: whether to compile the network with torch.
        autocast: whether peers compute in bfloat16; their default is float32.
    """

    data: Dataset
    seed: int = 0
    num_images: int = 100_000
    device: str = "cpu"
    compile: bool = False
    autocast: bool = False


class OwnWayOnlyError(Exception):
    """A learner that only supports its own sampler; the message gives the reason."""


class Learner(ABC):
    """A training in progress; ``images`` is the number of images seen."""

    batch_images: int
    images: int = 0

    @abstractmethod
    def step(self) -> None:
        """Run one training step, including averages."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The trained network."""

    @abstractmethod
    def denoiser(self) -> Denoiser:
        """Denoiser of the averaged weights, for data in [-1, 1]."""

    @abstractmethod
    def sample_own_way(self, num: int, seed: int, evaluations: int) -> Tensor:
        """uint8 images by its own sampler with at most ``evaluations`` evaluations."""

    def sample_our_way(self, num: int, seed: int) -> Tensor:
        """uint8 images of its denoiser by this project's solver with 20 evaluations."""
        denoiser = ClippedDenoiser(FixedBatchDenoiser(self.denoiser(), _ROWS))
        times = time_grid(SOLVER_GRID, denoiser.process, SOLVER_STEPS, denoiser.log_snr_range)
        shape, device = self.data.shape, next(self.network().parameters()).device
        parts = [
            sample(denoiser, make_sampler(SOLVER), times, shape=shape, seeds=seeds, device=device).x
            for seeds in _parts(num, seed)
        ]
        return to_uint8(torch.cat(parts)).cpu()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save the state needed to resume."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Restore the state saved by ``save``."""

    data: Dataset


def _parts(num: int, seed: int) -> list[range]:
    return [range(seed + start, seed + min(start + _ROWS, num)) for start in range(0, num, _ROWS)]


class Ours(Learner):
    """A run of this project with its trainer, specified by ``config``."""

    def __init__(self, config: RunConfig, setting: Setting, folder: Path) -> None:
        self.config = config.model_copy(update={"seed": setting.seed, "num_images": setting.num_images})
        self.data, self.batch_images = setting.data, config.batch_images
        self.trainer = Trainer(self.config, self.data, empty_like(self.data), folder, setting.device)
        if setting.compile:
            self.trainer.objective.model.compile_networks()
            self.trainer.ema.average.compile_networks()

    @property
    def images(self) -> int:  # type: ignore[override]
        """Seen so far."""
        return self.trainer.images

    def step(self) -> None:
        self.trainer._one_step()

    def network(self) -> nn.Module:
        network: nn.Module = self.trainer.objective.model.get_submodule(
            "network"
        )  # not the guide, which is not trained
        return network

    @property
    def system(self) -> DenoisingModel:
        """The model with averaged weights."""
        average = self.trainer.ema.average
        assert isinstance(average, DenoisingModel)
        return average

    def denoiser(self) -> Denoiser:
        return self.system.denoiser("fp32")

    def sample_own_way(self, num: int, seed: int, evaluations: int) -> Tensor:
        return self._sampled(num, seed, sampler="ddim", steps=evaluations, autoguidance=1.0)

    def sample_our_way(self, num: int, seed: int) -> Tensor:
        return self._sampled(num, seed)

    def _sampled(self, num: int, seed: int, **more: Any) -> Tensor:
        return to_uint8(self.system.sample(SampleRequest.of(seeds=range(seed, seed + num), **more)).x).cpu()

    def save(self, folder: Path) -> None:
        trainer = self.trainer
        parts = {
            "model": trainer.objective.model.state_dict(),
            "average": trainer.ema.average.state_dict(),
            "optimizer": trainer.optimizers.tensors(),
            "training": trainer.objective.state(),
        }
        save_state(folder, {"steps": trainer.step, "parts": parts})

    def restore(self, folder: Path) -> None:
        trainer, state = self.trainer, load_state(folder, self.trainer.device)
        if state is None:
            return
        trainer.step, parts = state["steps"], state["parts"]
        trainer.objective.model.load_state_dict(parts["model"])
        trainer.ema.average.load_state_dict(parts["average"])
        trainer.optimizers.load_tensors(parts["optimizer"])
        trainer.objective.load_state(parts["training"])


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a learner's state atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state in ``folder``, or ``None``."""
    if not (folder / "state.pt").is_file():
        return None
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True, map_location=device)
    return state


def empty_like(data: Dataset) -> Dataset:
    """An empty data set of the same shape: a timed run has no held-out data."""
    return ArrayDataset("none", torch.empty(0, *data.shape, dtype=torch.uint8).numpy())


class Peer(Learner):
    """Common code of the peers; a subclass builds the parts and defines the loss."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, setting: Setting, batch_images: int) -> None:
        self.setting, self.data, self.batch_images = setting, setting.data, batch_images
        self.device = torch.device(setting.device)
        self.loader = Loader(setting.data, setting.seed, device=self.device)
        self.steps = 0
        torch.manual_seed(derived_seed(setting.seed, "weights"))

    @property
    def images(self) -> int:  # type: ignore[override]
        """Seen so far."""
        return self.steps * self.batch_images

    def step(self) -> None:
        self.model.train()
        torch.manual_seed(derived_seed(self.setting.seed, "step", self.steps))  # so no random state needs to be saved
        x_0 = self.loader.batch(self.images, self.batch_images).to(self.device).x_0
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.setting.autocast):
            loss = self.loss(x_0)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())  # both scripts print the loss, which synchronises
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.after_step()

    @abstractmethod
    def loss(self, x_0: Tensor) -> Tensor:
        """Loss of one batch of clean images in [-1, 1]."""

    @abstractmethod
    def after_step(self) -> None:
        """Update learning rate and averages."""

    @abstractmethod
    def parts(self) -> Mapping[str, Any]:
        """Objects with a ``state_dict``, by name."""

    def save(self, folder: Path) -> None:
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        save_state(folder, {"steps": self.steps, "parts": parts})

    def restore(self, folder: Path) -> None:
        state = load_state(folder, self.device)
        if state is not None:
            self.steps = state["steps"]
            for name, part in self.parts().items():
                part.load_state_dict(state["parts"][name])


class Diffusers(Peer):
    """Reimplementation of diffusers' unconditional training script; see the module docstring.

    Args:
        network: ours, which it copies, or ``None`` for the script's own, on images padded to a multiple of 32.
        learning_rate, batch_images: the script's defaults.
    """

    def __init__(
        self,
        setting: Setting,
        network: UNetConfig | None,
        learning_rate: float = 1e-4,
        batch_images: int = 16,
    ) -> None:
        super().__init__(setting, batch_images)
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        shape = setting.data.shape
        self.pad = 0 if network is not None else -(-max(shape[1:]) // 32) * 32
        self.model = (diffusers_unet(network, shape) if network is not None else _default_unet(shape[0], self.pad)).to(
            self.device
        )
        self.noises = DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.rates = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=500, num_training_steps=setting.num_images // batch_images
        )
        self.average = EMAModel(self.model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        self.forward: Callable[..., Any] = torch.compile(self.model) if setting.compile else self.model
        self._averaged: tuple[int, nn.Module] | None = None

    def network(self) -> nn.Module:
        return self.model

    def loss(self, x_0: Tensor) -> Tensor:
        x_0 = self._padded(x_0)
        noise = torch.randn_like(x_0)
        k = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        predicted = self.forward(self.noises.add_noise(x_0, noise, k), k).sample
        return F.mse_loss(predicted.float(), noise)

    def after_step(self) -> None:
        self.rates.step()
        self.average.step(self.model.parameters())

    def parts(self) -> Mapping[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "rates": self.rates, "average": self.average}

    def averaged(self) -> nn.Module:
        """A copy of the network with averaged weights; made anew after a step."""
        if self._averaged is None or self._averaged[0] != self.steps:
            network = copy.deepcopy(self.model).eval().requires_grad_(False)
            self.average.copy_to(network.parameters())
            if self.setting.compile:
                network.compile()
            self._averaged = self.steps, network
        return self._averaged[1]

    def denoiser(self) -> Denoiser:
        network = self.averaged()
        height, width = self.data.shape[1:]

        def eps(x: Tensor, k: Tensor) -> Tensor:
            predicted: Tensor = network(self._noise_padded(x), k).sample
            return predicted[:, :, :height, :width]

        return Denoiser.wrap(eps, DiscreteVP.linear(1000), "eps", time_label="index0")

    @torch.no_grad()
    def sample_own_way(self, num: int, seed: int, evaluations: int) -> Tensor:
        from diffusers import DDIMScheduler

        network, parts = self.averaged(), []
        side = (self.pad, self.pad) if self.pad else self.data.shape[1:]
        for seeds in _parts(num, seed):
            generator = torch.Generator().manual_seed(derived_seed(seeds.start, "start"))
            x = torch.randn(len(seeds), self.data.shape[0], *side, generator=generator).to(self.device)
            scheduler = DDIMScheduler.from_config(self.noises.config)
            scheduler.set_timesteps(evaluations)
            for k in scheduler.timesteps:
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.setting.autocast):
                    predicted = network(x, k).sample
                x = scheduler.step(predicted.float(), k, x).prev_sample
            parts.append(to_uint8(x[:, :, : self.data.shape[1], : self.data.shape[2]]).cpu())
        return torch.cat(parts)

    def _padded(self, x_0: Tensor) -> Tensor:
        right, below = max(self.pad - x_0.shape[3], 0), max(self.pad - x_0.shape[2], 0)
        return F.pad(x_0, (0, right, 0, below), value=-1.0)

    def _noise_padded(self, x: Tensor) -> Tensor:
        if self.pad:
            raise OwnWayOnlyError("the padded network is sampled its own way alone")
        return x


def _default_unet(channels: int, side: int) -> nn.Module:
    """The network that the script makes by default: 114 million parameters in six levels."""
    from diffusers import UNet2DModel

    down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    network: nn.Module = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=down,
        up_block_types=up,
    )
    return network


class DDP(Peer):
    """denoising-diffusion-pytorch's ``Trainer``, in our words; see the module's docstring.

    Args:
        parameters: of its network, as nearly as its widths allow.
        learning_rate, batch_images: its defaults.
    """

    def __init__(self, setting: Setting, parameters: int, learning_rate: float = 1e-4, batch_images: int = 16) -> None:
        super().__init__(setting, batch_images)
        library, ema = import_ddp()
        self.net = ddp_unet(setting.data.shape, parameters)
        self.model = library.GaussianDiffusion(
            self.net, image_size=setting.data.shape[1:], timesteps=1000, sampling_timesteps=50
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99))
        self.average = ema.EMA(self.model, beta=0.995, update_every=10, include_online_model=False)
        if setting.compile:
            self.net.compile()

    def network(self) -> nn.Module:
        return self.net

    def loss(self, x_0: Tensor) -> Tensor:
        loss: Tensor = self.model((x_0 + 1) / 2)  # it takes [0, 1]
        return loss

    def after_step(self) -> None:
        self.average.update()

    def parts(self) -> Mapping[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "average": self.average}

    def denoiser(self) -> Denoiser:
        diffusion = self.average.ema_model.eval()
        process = DiscreteVP(diffusion.betas.double())
        return Denoiser.wrap(lambda x, k: diffusion.model(x, k), process, "v", time_label="index0")

    def sample_own_way(self, num: int, seed: int, evaluations: int) -> Tensor:
        diffusion = self.average.ema_model.eval()
        diffusion.sampling_timesteps, diffusion.is_ddim_sampling = evaluations, evaluations < 1000
        parts = []
        for seeds in _parts(num, seed):
            torch.manual_seed(derived_seed(seeds.start, "start"))
            parts.append(to_uint8(diffusion.sample(len(seeds)) * 2 - 1).cpu())
        return torch.cat(parts)


def matching_parameters(config: UNetConfig, shape: tuple[int, ...]) -> int:
    """Parameters of our network of this configuration."""
    from undiffuse.networks import build_network

    with torch.device("meta"):
        return num_parameters(build_network(config, shape))
