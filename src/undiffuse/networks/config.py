"""What can be chosen about each network; no torch here, so that the command line can read a configuration quickly."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from undiffuse.config import ComponentConfig, validate
from undiffuse.errors import UsageError
from undiffuse.networks import presets

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

#: ``ddpm``: sine then cosine, frequencies from 1 to 1/10000 inclusive (Ho et al. 2020); ``adm``: cosine then sine,
#: 1/10000 exclusive (Dhariwal & Nichol 2021); ``fourier``: random frequencies (Tancik et al. 2020).
TimeFeatures = Literal["ddpm", "adm", "fourier"]


class EmbeddedConfig(ComponentConfig):
    """What all networks share: how they embed the time.

    Args:
        time_features: sinusoidal in one of two conventions, or random Fourier.
        fourier_scale: standard deviation of the random frequencies, in cycles a unit of c_noise; ``fourier`` needs it
            given, since it depends on the label's range: about 0.016 where c_noise is 1000 t, 16 where it is a
            log-sigma.
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
    """A U-Net of residual blocks and self-attention; the defaults suit small grey images.

    Levels count from 0, the finest; each next one halves the feature map, rounding up, so any image size works.

    Args:
        channels: of the finest level.
        multipliers: channels of each level, in units of ``channels``; as many as there are levels.
        num_blocks: residual blocks a level on the way down (one more on the way up).
        attention_levels: levels with self-attention after each block; negative ones count from the coarsest, -1.
        middle_attention: self-attention between the two blocks of the bottom.
        num_heads: attention heads; ``head_channels``, if given, fixes instead how many channels a head has.
        time_injection: add the embedding to the features, or scale and shift the normalised ones (adaptive group norm).
        downsample: ``conv`` (stride 2, padded on all sides), ``conv_same`` (padded at the end, as in Ho et al.),
            ``pool`` (2 x 2 mean), ``residual`` (a residual block around a 2 x 2 mean, as in ADM).
        upsample: ``nearest`` (then a convolution), ``transposed`` (convolution), ``residual`` (a block around nearest).
        norm_groups: the most groups a norm may have; each takes the largest divisor with 4 channels a group or more.
        embedding_channels: width of the time and class embedding, 4 x ``channels`` if not given.
        time_channels: width of the time features, a quarter of the embedding's if not given.
        patch_size: fold patches of this size into channels and work at 1/patch_size of the resolution; a half-size
            net does a quarter of the work.
        up_attention: on the way up, after each block of an attending level or after its last.
        rescale_residuals: multiply the sum of a branch and its shortcut by 1 / sqrt(2).
        resample_filter: of ``residual`` sampling and of the pyramids, ``box`` (2 x 2) or the anti-aliasing ``fir``
            [1, 3, 3, 1].
        resample_projection: a 1 x 1 convolution on the shortcut of each ``residual`` sampling.
        progressive_input: what is joined to the features each time they are halved: nothing, the image at that size
            (``input_skip``), or a learned pyramid (``residual``).
        progressive_combine: add the projected image to the features, or concatenate them (``input_skip`` only).
        progressive_output: the finest features are the output's only source, or each level adds its part
            (``output_skip``), or a learned pyramid is joined to the features of every level (``residual``).
    Raises:
        UsageError: an attention level that does not exist, heads that do not divide the channels, or ``fir``,
            ``residual`` pyramids or ``cat`` where nothing would use them.
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
    time_channels: Positive | None = None
    patch_size: Positive = 1
    up_attention: Literal["each", "last"] = "each"
    rescale_residuals: bool = False
    resample_filter: Literal["box", "fir"] = "box"
    resample_projection: bool = False
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    progressive_output: Literal["none", "output_skip", "residual"] = "none"

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
                    f"attention level {level} does not exist: multipliers {self.multipliers} make levels 0 to "
                    f"{last}; set attention_levels to some of these"
                )
        return self

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> UNetConfig:
        for level in range(self.num_levels):
            bottom = level == self.num_levels - 1
            if self.attends(level) or (bottom and self.middle_attention):
                self._check_heads(self.level_channels(level))
        return self

    @model_validator(mode="after")
    def _resampling_fits(self) -> UNetConfig:
        residual = self.downsample == self.upsample == "residual"
        if not residual and (self.resample_filter == "fir" or self.resample_projection):
            raise UsageError(
                f"resample_filter={self.resample_filter!r} and resample_projection={self.resample_projection} are for "
                f"system.network.downsample=residual and system.network.upsample=residual, got {self.downsample!r} and "
                f"{self.upsample!r}"
            )
        if self.resample_filter != "fir" and "residual" in (self.progressive_input, self.progressive_output):
            raise UsageError(
                f"a 'residual' pyramid needs system.network.resample_filter=fir, got {self.resample_filter!r} with "
                f"progressive_input={self.progressive_input!r} and progressive_output={self.progressive_output!r}"
            )
        if self.progressive_combine == "cat" and self.progressive_input != "input_skip":
            raise UsageError(
                f"progressive_combine='cat' is for system.network.progressive_input=input_skip, got "
                f"{self.progressive_input!r}"
            )
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
        return cls._preset(presets.HO_CIFAR10, overrides)

    @classmethod
    def adm(cls, image_size: int = 64, **overrides: Any) -> UNetConfig:
        """The ablated diffusion model of Dhariwal & Nichol 2021, arXiv:2105.05233, table 11.

        Args:
            image_size: 64, 128, 256 or 512; attention goes to the feature maps of 32, 16 and 8 pixels.
            overrides: any other option of this class.
        Raises:
            UsageError: another size; give ``multipliers`` and ``attention_levels`` yourself then.
        """
        sizes = presets.ADM_SIZES
        if image_size not in sizes:
            raise UsageError(f"ADM is defined for image sizes {', '.join(map(str, sizes))}; got {image_size}")
        options: dict[str, Any] = {**presets.ADM, **sizes[image_size]}
        levels = range(len(options["multipliers"]))
        options["attention_levels"] = tuple(level for level in levels if image_size >> level in (32, 16, 8))
        return cls._preset(options, overrides)

    @classmethod
    def ddpmpp_cifar10(cls, **overrides: Any) -> UNetConfig:
        """DDPM++ for CIFAR-10, 61.8M parameters (Song et al. 2021, arXiv:2011.13456, sec. 4.1 and appendix H).

        ``num_blocks=8`` gives the paper's "deep" network.
        """
        return cls._preset(presets.DDPMPP_CIFAR10, overrides)

    @classmethod
    def ncsnpp_cifar10(cls, **overrides: Any) -> UNetConfig:
        """NCSN++ for CIFAR-10, 62.8M parameters (the same source); ``num_blocks=8`` gives the "deep" network.

        Its Fourier features have Song et al.'s scale for log sigma from 0.01 to 50, on our label 1000 t.
        """
        return cls._preset(presets.NCSNPP_CIFAR10, overrides)

    @classmethod
    def ncsnpp_ffhq256(cls, **overrides: Any) -> UNetConfig:
        """NCSN++ for 256 x 256 (the same source): 7 levels, the image is joined to each, and each adds to the output.

        Its Fourier features have Song et al.'s scale for log sigma from 0.01 to 348, on our label 1000 t.
        """
        return cls._preset(presets.NCSNPP_FFHQ256, overrides)

    @classmethod
    def edm_cifar10(cls, **overrides: Any) -> UNetConfig:
        """The 55.7M-parameter DDPM++ for CIFAR-10 of Karras et al. 2022, arXiv:2206.00364, appendix F.

        1,152 of its weights project augmentation labels, which it has when ``augment`` gives nine.
        """
        return cls._preset(presets.EDM_CIFAR10, overrides)

    @classmethod
    def _preset(cls, options: dict[str, Any], overrides: dict[str, Any]) -> UNetConfig:
        return validate(cls, {**options, **overrides}, "network 'unet'")


class TransformerConfig(EmbeddedConfig):
    """A vision transformer over patches: DiT, U-ViT and combinations of the two; the defaults suit small grey images.

    Args:
        patch_size: side of a patch; an image that it does not divide is padded at the far ends and cropped again.
            Halving it makes four times the tokens.
        channels: of a token.
        num_blocks: blocks of attention and perceptron.
        num_heads: attention heads; they divide ``channels``.
        mlp_ratio: hidden width of the perceptron, in units of ``channels``.
        conditioning: ``adaln``, where time and class set scale, shift and gate of each block (DiT's adaLN-Zero), or
            ``tokens``, where they are one more token each (U-ViT).
        long_skips: join the first half of the blocks to the second, outermost to outermost (U-ViT).
        output_convolution: a 3 x 3 convolution over the finished image (U-ViT).
        time_channels: width of the time features.
        norm_eps: of the layer norms.
    Raises:
        UsageError: heads that do not divide the channels.
    """

    name: Literal["transformer"] = "transformer"
    time_features: TimeFeatures = "adm"
    patch_size: Positive = 4
    channels: Positive = 192
    num_blocks: Positive = 6
    num_heads: Positive = 3
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    conditioning: Literal["adaln", "tokens"] = "adaln"
    long_skips: bool = False
    output_convolution: bool = False
    time_channels: Positive = 256
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> TransformerConfig:
        if self.channels % self.num_heads:
            raise UsageError(f"num_heads={self.num_heads} does not divide channels={self.channels}")
        return self

    @classmethod
    def dit_s(cls, **overrides: Any) -> TransformerConfig:
        """DiT-S of Peebles & Xie 2023, arXiv:2212.09748, table 1, with patches of 2: 33M parameters."""
        return cls._preset({"num_blocks": 12, "channels": 384, "num_heads": 6}, overrides)

    @classmethod
    def dit_b(cls, **overrides: Any) -> TransformerConfig:
        """DiT-B (the same table), with patches of 2: 130M parameters."""
        return cls._preset({"num_blocks": 12, "channels": 768, "num_heads": 12}, overrides)

    @classmethod
    def dit_l(cls, **overrides: Any) -> TransformerConfig:
        """DiT-L (the same table), with patches of 2: 458M parameters."""
        return cls._preset({"num_blocks": 24, "channels": 1024, "num_heads": 16}, overrides)

    @classmethod
    def dit_xl(cls, **overrides: Any) -> TransformerConfig:
        """DiT-XL (the same table), with patches of 2: 675M parameters."""
        return cls._preset({"num_blocks": 28, "channels": 1152, "num_heads": 16}, overrides)

    @classmethod
    def uvit_s(cls, **overrides: Any) -> TransformerConfig:
        """U-ViT-S of Bao et al. 2023, arXiv:2209.12152, table 2, with patches of 2.

        44.5M parameters to the paper's 44M: positions are fixed instead of learned, time goes through a perceptron, and
        query, key and value have biases.
        """
        options = {"num_blocks": 13, "channels": 512, "num_heads": 8, "conditioning": "tokens"}
        return cls._preset({**options, "long_skips": True, "output_convolution": True}, overrides)

    @classmethod
    def _preset(cls, options: dict[str, Any], overrides: dict[str, Any]) -> TransformerConfig:
        return validate(cls, {"patch_size": 2, **options, **overrides}, "network 'transformer'")


class MLPConfig(EmbeddedConfig):
    """A residual perceptron, for points in the plane and other vectors.

    Args:
        width: hidden channels.
        num_blocks: residual blocks of two layers each.
    """

    name: Literal["mlp"] = "mlp"
    width: Positive = 256
    num_blocks: Positive = 4
