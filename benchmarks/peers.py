"""Import of the peer libraries, and their networks at the size of ours.

``make bench-setup`` installs them into a separate virtual environment. denoising-diffusion-pytorch imports torchvision
for reading folders of images, which is not used here; so an empty stub module replaces it during the import.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from undiffuse.errors import UsageError
from undiffuse.networks.config import UNetConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DIFFUSERS, DDP = "diffusers", "denoising-diffusion-pytorch"
_MODULES = {DIFFUSERS: ("diffusers",), DDP: ("denoising_diffusion_pytorch", "ema_pytorch", "accelerate", "einops")}
_DDP_MODULE = "denoising_diffusion_pytorch"
_STAND_IN = "torchvision"


def available() -> dict[str, bool]:
    """Which peers are installed."""
    return {name: all(map(importlib.util.find_spec, modules)) for name, modules in _MODULES.items()}


def wanted(no_peers: bool) -> set[str]:
    """The peers to measure; prints a note if one is missing."""
    if no_peers:
        return set()
    found = available()
    for name in (name for name, there in found.items() if not there):
        print(f"{name} is not installed and left out; make bench-setup installs it", file=sys.stderr)
    return {name for name, there in found.items() if there}


@contextmanager
def stand_in(name: str, *parts: str) -> Iterator[None]:
    """Provide an empty stub module ``name`` with these submodules in the context, unless the real one is installed."""
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        yield
        return
    made = {name: types.ModuleType(name), **{f"{name}.{part}": types.ModuleType(f"{name}.{part}") for part in parts}}
    for part in parts:
        setattr(made[name], part, made[f"{name}.{part}"])
    sys.modules.update(made)
    try:
        yield
    finally:
        for key in made:
            sys.modules.pop(key, None)


def import_ddp() -> tuple[Any, Any]:
    """denoising-diffusion-pytorch and ema-pytorch."""
    importlib.import_module("accelerate")  # before the stub, since it checks for the real module
    with stand_in(_STAND_IN, "transforms", "utils"):
        library = importlib.import_module(_DDP_MODULE)
    inner: Any = importlib.import_module(f"{_DDP_MODULE}.{_DDP_MODULE}")
    inner.tqdm = _no_bar
    return library, importlib.import_module("ema_pytorch")


def _no_bar(items: Any, **more: Any) -> Any:
    """Replaces tqdm: returns ``items`` without a progress bar."""
    return items


def diffusers_unet(config: UNetConfig, shape: tuple[int, ...]) -> nn.Module:
    """``UNet2DModel`` with exactly the layers of our U-Net.

    Raises:
        UsageError: if the network has no equivalent.
    """
    plain = UNetConfig(
        channels=config.channels,
        multipliers=config.multipliers,
        num_blocks=config.num_blocks,
        attention_levels=config.attention_levels,
        time_injection="add",
        time_features="ddpm",
        downsample=config.downsample,
        norm_groups=config.norm_groups,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
    )
    if plain != config or config.downsample not in ("conv", "conv_same") or 4 * config.norm_groups > config.channels:
        raise UsageError(
            "UNet2DModel is only compared with plain U-Nets: added times, strided convolutions, one head, norms with "
            f"4 channels a group or more; got {config}"
        )
    levels = range(config.num_levels)
    from diffusers import UNet2DModel

    network: nn.Module = UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=tuple(map(config.level_channels, levels)),
        down_block_types=tuple("AttnDownBlock2D" if config.attends(level) else "DownBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if config.attends(level) else "UpBlock2D" for level in reversed(levels)),
        layers_per_block=config.num_blocks,
        attention_head_dim=None,
        downsample_padding=0 if config.downsample == "conv_same" else 1,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=config.norm_eps,
        norm_num_groups=config.norm_groups,
        dropout=config.dropout,
    )
    return network


def ddp_unet(shape: tuple[int, ...], parameters: int) -> nn.Module:
    """Its ``Unet`` with the closest number of parameters, and as many of its four levels as the image size allows."""
    library, _ = import_ddp()
    levels = next(count for count in (4, 3, 2, 1) if all(side % 2 ** (count - 1) == 0 for side in shape[1:]))
    options: dict[str, Any] = {"dim_mults": (1, 2, 4, 8)[:levels], "channels": shape[0]}

    def size(width: int) -> int:
        with torch.device("meta"):
            return num_parameters(library.Unet(width, **options))

    width = 8
    while size(width + 4) <= parameters:
        width += 4
    width = min((width, width + 4), key=lambda candidate: abs(size(candidate) - parameters))
    network: nn.Module = library.Unet(width, **options)
    return network


def num_parameters(network: nn.Module) -> int:
    """Total number of parameters."""
    return sum(value.numel() for value in network.parameters())
