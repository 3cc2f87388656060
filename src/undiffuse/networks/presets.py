"""The U-Nets of the papers, as options of ``UNetConfig``; described at its class methods of the same names."""

from __future__ import annotations

import math
from typing import Any

HO_CIFAR10: dict[str, Any] = {
    "channels": 128,
    "multipliers": (1, 2, 2, 2),
    "num_blocks": 2,
    "attention_levels": (1,),
    "time_injection": "add",
    "time_features": "ddpm",
    "downsample": "conv_same",
    "upsample": "nearest",
    "dropout": 0.1,
    "norm_eps": 1e-6,
}

ADM: dict[str, Any] = {
    "head_channels": 64,
    "time_injection": "scale_shift",
    "time_features": "adm",
    "downsample": "residual",
    "upsample": "residual",
    "norm_eps": 1e-5,
}

ADM_SIZES: dict[int, dict[str, Any]] = {
    64: {"channels": 192, "multipliers": (1, 2, 3, 4), "num_blocks": 3, "dropout": 0.1},
    128: {"channels": 256, "multipliers": (1, 1, 2, 3, 4), "num_blocks": 2},
    256: {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2},
    # the paper writes 256 channels and multipliers 0.5, 1, 1, 2, 2, 4, 4; the embedding stays that of 256 channels
    512: {"channels": 128, "multipliers": (1, 2, 2, 4, 4, 8, 8), "num_blocks": 2, "embedding_channels": 1024},
}


def fourier_scale(sigma_min: float, sigma_max: float, scale: float = 16.0) -> float:
    """Convert ``scale`` on log sigma = log sigma_min + t log(sigma_max / sigma_min) to the label 1000 t.

    The two labels also differ by a constant, which is only a phase shift of each frequency.

    Args:
        sigma_min: noise level at t = 0, above 0.
        sigma_max: noise level at t = 1, above ``sigma_min``.
        scale: standard deviation of the frequencies on log sigma; Song et al. use 16.
    """
    return scale * math.log(sigma_max / sigma_min) / 1000


_SONG: dict[str, Any] = {
    "channels": 128,
    "multipliers": (1, 2, 2, 2),
    "num_blocks": 4,
    "attention_levels": (1,),
    "up_attention": "last",
    "time_injection": "add",
    "downsample": "residual",
    "upsample": "residual",
    "resample_projection": True,
    "rescale_residuals": True,
    "dropout": 0.1,
    "norm_eps": 1e-6,
}

DDPMPP_CIFAR10: dict[str, Any] = {**_SONG, "time_features": "ddpm"}

_NCSNPP: dict[str, Any] = {
    **_SONG,
    "resample_filter": "fir",
    "time_features": "fourier",
    "time_channels": 256,
}

NCSNPP_CIFAR10: dict[str, Any] = {
    **_NCSNPP,
    "fourier_scale": fourier_scale(0.01, 50.0),
    "progressive_input": "residual",
}

NCSNPP_FFHQ256: dict[str, Any] = {
    **_NCSNPP,
    "multipliers": (1, 1, 2, 2, 2, 2, 2),
    "num_blocks": 2,
    "attention_levels": (4,),
    "dropout": 0.0,
    "fourier_scale": fourier_scale(0.01, 348.0),
    "progressive_input": "input_skip",
    "progressive_output": "output_skip",
}

EDM_CIFAR10: dict[str, Any] = {**DDPMPP_CIFAR10, "multipliers": (2, 2, 2), "dropout": 0.13}
