"""What can be chosen about each network; no torch here, so that the command line can read a configuration quickly."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from undiffuse.config import ComponentConfig, validate
from undiffuse.errors import UsageError

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

#: ``ddpm``: sine then cosine, frequencies from 1 to 1/10000 inclusive (Ho et al. 2020); ``adm``: cosine then sine,
#: 1/10000 exclusive (Dhariwal & Nichol 2021); ``fourier``: random frequencies (Tancik et al. 2020).
TimeFeatures = Literal["ddpm", "adm", "fourier"]


class EmbeddedConfig(ComponentConfig):
    """What all networks share: how they are told the time.

    Args:
        time_features: sinusoidal in one of two conventions, or random Fourier.
        fourier_scale: standard deviation of the random frequencies, in cycles a unit of c_noise; ``fourier`` needs it
            said, for it depends on the label's range: about 0.016 where c_noise is 1000 t, 16 where it is a log-sigma.
        dropout: probability, in [0, 1).
    """

    time_features: TimeFeatures = "ddpm"
    fourier_scale: Annotated[float, Field(gt=0)] | None = None
    dropout: Probability = 0.0

    @model_validator(mode="after")
    def _scale_goes_with_fourier(self) -> EmbeddedConfig:
        if (self.time_features == "fourier") != (self.fourier_scale is not None):
            raise UsageError(
                f"fourier_scale={self.fourier_scale} with time_features={self.time_features!r}: random Fourier "
                "features need a scale (0.016 for labels 1000 t, 16 for log-sigma labels), the others take none"
            )
        return self


class UNetConfig(EmbeddedConfig):
    """A U-Net of residual blocks and self-attention; the defaults suit small grey pictures.

    Levels count from 0, the finest; each next one halves the feature map, rounding up, so any picture size works.

    Args:
        channels: of the finest level.
        multipliers: channels of each level, in units of ``channels``; as many as there are levels.
        num_blocks: residual blocks a level on the way down (one more on the way up).
        attention_levels: levels with self-attention after each block; negative ones count from the coarsest, -1.
        middle_attention: self-attention between the two blocks of the bottom.
        num_heads: attention heads; ``head_channels``, if given, says instead how many channels a head has.
        time_injection: add the embedding to the features, or scale and shift the normalised ones (adaptive group norm).
        downsample: ``conv`` (stride 2, padded on all sides), ``conv_same`` (padded at the end, as in Ho et al.),
            ``pool`` (2 x 2 mean), ``residual`` (a residual block around a 2 x 2 mean, as in ADM).
        upsample: ``nearest`` (then a convolution), ``transposed`` (convolution), ``residual`` (a block around nearest).
        norm_groups: the most groups a norm may have; each takes the largest divisor with 4 channels a group or more.
        embedding_channels: width of the time and class embedding, 4 x ``channels`` if not given; the time features
            are a quarter of it.
        patch_size: fold patches of this size into channels and work at 1/patch_size of the resolution; a half-size
            net does a quarter of the work.
    Raises:
        UsageError: an attention level that does not exist, or heads that do not divide the channels.
    """

    name: Literal["unet"] = "unet"
    channels: Positive = 64
    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 2)
    num_blocks: Positive = 2
    attention_levels: tuple[int, ...] = (-1,)
    middle_attention: bool = True
    num_heads: Positive = 1
    head_channels: Positive | None = None
    time_injection: Literal["add", "scale_shift"] = "scale_shift"
    downsample: Literal["conv", "conv_same", "pool", "residual"] = "conv"
    upsample: Literal["nearest", "transposed", "residual"] = "nearest"
    norm_groups: Positive = 32
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    embedding_channels: Positive | None = None
    patch_size: Positive = 1

    @property
    def num_levels(self) -> int:
        """Resolutions the network works at."""
        return len(self.multipliers)

    def attends(self, level: int) -> bool:
        """Does this level (0 is the finest) have self-attention?"""
        return level in self.attention_levels or level - self.num_levels in self.attention_levels

    def level_channels(self, level: int) -> int:
        """Channels of this level's features."""
        return self.channels * self.multipliers[level]

    def heads(self, channels: int) -> int:
        """Attention heads over so many channels."""
        return self.num_heads if self.head_channels is None else channels // self.head_channels

    @model_validator(mode="after")
    def _levels_exist(self) -> UNetConfig:
        last = self.num_levels - 1
        for level in self.attention_levels:
            if not -self.num_levels <= level <= last:
                raise UsageError(
                    f"attention level {level} does not exist: multipliers {self.multipliers} make levels 0 to {last}"
                )
        return self

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> UNetConfig:
        for level in range(self.num_levels):
            bottom = level == self.num_levels - 1
            if self.attends(level) or (bottom and self.middle_attention):
                self._check_heads(self.level_channels(level))
        return self

    def _check_heads(self, channels: int) -> None:
        if self.head_channels is not None and channels % self.head_channels:
            raise UsageError(
                f"head_channels={self.head_channels} does not divide the {channels} channels it attends over"
            )
        if self.head_channels is None and channels % self.num_heads:
            raise UsageError(f"num_heads={self.num_heads} does not divide the {channels} channels it attends over")

    @classmethod
    def ho_cifar10(cls, **overrides: Any) -> UNetConfig:
        """The 35.7M-parameter CIFAR-10 net of Ho et al. 2020, arXiv:2006.11239, appendix B."""
        options: dict[str, Any] = {
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
        return validate(cls, {**options, **overrides}, "network 'unet'")

    @classmethod
    def adm(cls, image_size: int = 64, **overrides: Any) -> UNetConfig:
        """The ablated diffusion model of Dhariwal & Nichol 2021, arXiv:2105.05233, table 11.

        Args:
            image_size: 64, 128, 256 or 512; attention goes to the feature maps of 32, 16 and 8 pixels.
            overrides: any other option of this class.
        Raises:
            UsageError: another size; give ``multipliers`` and ``attention_levels`` yourself then.
        """
        if image_size not in _ADM_SIZES:
            raise UsageError(f"ADM is defined for picture sizes {', '.join(map(str, _ADM_SIZES))}; got {image_size}")
        options: dict[str, Any] = {
            **_ADM_SIZES[image_size],
            "head_channels": 64,
            "time_injection": "scale_shift",
            "time_features": "adm",
            "downsample": "residual",
            "upsample": "residual",
            "norm_eps": 1e-5,
        }
        levels = range(len(options["multipliers"]))
        options["attention_levels"] = tuple(level for level in levels if image_size >> level in (32, 16, 8))
        return validate(cls, {**options, **overrides}, "network 'unet'")


_ADM_SIZES: dict[int, dict[str, Any]] = {
    64: {"channels": 192, "multipliers": (1, 2, 3, 4), "num_blocks": 3, "dropout": 0.1},
    128: {"channels": 256, "multipliers": (1, 1, 2, 3, 4), "num_blocks": 2},
    256: {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2},
    # the paper writes 256 channels and multipliers 0.5, 1, 1, 2, 2, 4, 4; the embedding stays that of 256 channels
    512: {"channels": 128, "multipliers": (1, 2, 2, 4, 4, 8, 8), "num_blocks": 2, "embedding_channels": 1024},
}


class MLPConfig(EmbeddedConfig):
    """A residual perceptron, for points in the plane and other vectors.

    Args:
        width: hidden channels.
        num_blocks: residual blocks of two layers each.
    """

    name: Literal["mlp"] = "mlp"
    width: Positive = 256
    num_blocks: Positive = 4
