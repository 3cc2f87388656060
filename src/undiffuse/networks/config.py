"""Configurations of the networks. Does not import torch, so that the command line starts quickly."""

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
    """Options of all networks: time embedding and dropout.

    Args:
        time_features: sinusoidal in one of two conventions, or random Fourier.
        fourier_scale: standard deviation of the random frequencies, in cycles per unit of c_noise; required by
            ``fourier``, since it depends on the label's range: about 0.016 for c_noise = 1000 t, 16 for a log-sigma.
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
    """A U-Net of residual blocks and self-attention; the defaults are for small greyscale images.

    Level 0 is the finest; each further level halves the feature map, rounding up, so any image size is supported.

    Args:
        channels: channels of the finest level.
        multipliers: channels of each level, in units of ``channels``; one entry per level.
        num_blocks: residual blocks per level of the encoder (one more in the decoder).
        attention_levels: levels with self-attention after each block; negative indices count from the coarsest, -1.
        middle_attention: self-attention between the two middle blocks.
        text_levels: levels with cross-attention to the text after each block, in a network with text; like
            ``attention_levels``, which are used by default. The middle blocks always have it.
        text_block: how these levels attend to the text: ``attention``, one layer of cross-attention, or
            ``transformer``, blocks of self-attention, cross-attention and a gated MLP (latent diffusion).
        text_depth: blocks of each ``transformer``.
        query_key_norm: root-mean-square norms of the queries and keys of all attention layers.
        num_heads: attention heads; overridden by ``head_channels``, the number of channels per head.
        time_injection: add the embedding to the features, or scale and shift the normalised features (adaptive group
            norm).
        downsample: ``conv`` (stride 2, padded on all sides), ``conv_same`` (padded at the end, as in Ho et al.),
            ``pool`` (2 x 2 mean), ``residual`` (a residual block around a 2 x 2 mean, as in ADM).
        upsample: ``nearest`` (then a convolution), ``transposed`` (convolution), ``residual`` (a block around nearest).
        norm_groups: maximum number of groups of a norm; the largest divisor with at least 4 channels per group is used.
        embedding_channels: width of the time and class embedding, 4 x ``channels`` by default.
        time_channels: width of the time features, a quarter of the embedding's by default.
        patch_size: fold patches of this size into channels and compute at 1/patch_size of the resolution; 2 reduces the
            cost to a quarter.
        up_attention: attention of the decoder after each block of a level with attention, or only after the last.
        rescale_residuals: multiply the sum of a branch and its shortcut by 1 / sqrt(2).
        resample_filter: filter of ``residual`` resampling and of the pyramids, ``box`` (2 x 2) or the anti-aliasing
            ``fir`` [1, 3, 3, 1].
        resample_projection: a 1 x 1 convolution on the shortcut of each ``residual`` resampling.
        progressive_input: input of the lower-resolution levels: ``none``, the downsampled image (``input_skip``), or a
            learned pyramid (``residual``).
        progressive_combine: add the projected image to the features, or concatenate them (``input_skip`` only).
        progressive_output: the output is computed from the finest features (``none``), as a sum over levels
            (``output_skip``), or with a learned pyramid that is added to the features of every level (``residual``).
    Raises:
        UsageError: an attention level that does not exist, heads that do not divide the channels, or ``fir``,
            ``residual`` pyramids or ``cat`` without the options that use them.
    """

    name: Literal["unet"] = "unet"
    channels: Positive = 64
    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 2)
    num_blocks: Positive = 2
    attention_levels: tuple[int, ...] = (-1,)
    middle_attention: bool = True
    text_levels: tuple[int, ...] | None = None
    text_block: Literal["attention", "transformer"] = "attention"
    text_depth: Positive = 1
    query_key_norm: bool = False
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
        """Number of resolutions."""
        return len(self.multipliers)

    def attends(self, level: int) -> bool:
        """Whether this level (0 is the finest) has self-attention."""
        return level in self.attention_levels or level - self.num_levels in self.attention_levels

    def attends_to_text(self, level: int) -> bool:
        """Whether this level (0 is the finest) has cross-attention to the text, in a network with text."""
        if self.text_levels is None:
            return self.attends(level)
        return level in self.text_levels or level - self.num_levels in self.text_levels

    def level_channels(self, level: int) -> int:
        """Channels of this level's features."""
        return self.channels * self.multipliers[level]

    def heads(self, channels: int) -> int:
        """Number of attention heads for features with this many channels."""
        return self.num_heads if self.head_channels is None else channels // self.head_channels

    @model_validator(mode="after")
    def _levels_exist(self) -> UNetConfig:
        last = self.num_levels - 1
        for key, levels in (("attention_levels", self.attention_levels), ("text_levels", self.text_levels or ())):
            for level in levels:
                if not -self.num_levels <= level <= last:
                    raise UsageError(
                        f"attention level {level} does not exist: multipliers {self.multipliers} give levels 0 to "
                        f"{last}; set {key} to a subset of these"
                    )
        return self

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> UNetConfig:
        for level in range(self.num_levels):
            bottom = level == self.num_levels - 1
            if self.attends(level) or self.attends_to_text(level) or (bottom and self.middle_attention):
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
                f"head_channels={self.head_channels} does not divide the {channels} channels of an attention layer"
            )
        if self.head_channels is None and channels % self.num_heads:
            raise UsageError(
                f"num_heads={self.num_heads} does not divide the {channels} channels of an attention layer"
            )

    @classmethod
    def ho_cifar10(cls, **overrides: Any) -> UNetConfig:
        """The 35.7M-parameter CIFAR-10 net of Ho et al. 2020, arXiv:2006.11239, appendix B."""
        return cls._preset(presets.HO_CIFAR10, overrides)

    @classmethod
    def adm(cls, image_size: int = 64, **overrides: Any) -> UNetConfig:
        """The ablated diffusion model of Dhariwal & Nichol 2021, arXiv:2105.05233, table 11.

        Args:
            image_size: 64, 128, 256 or 512; attention is at feature maps of 32, 16 and 8 pixels.
            overrides: any other option of this class.
        Raises:
            UsageError: another size; set ``multipliers`` and ``attention_levels`` instead.
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

        Its Fourier features have Song et al.'s scale for log sigma from 0.01 to 50, converted to the label 1000 t.
        """
        return cls._preset(presets.NCSNPP_CIFAR10, overrides)

    @classmethod
    def ncsnpp_ffhq256(cls, **overrides: Any) -> UNetConfig:
        """NCSN++ for 256 x 256 (the same source): 7 levels with ``input_skip`` and ``output_skip``.

        Its Fourier features have Song et al.'s scale for log sigma from 0.01 to 348, converted to the label 1000 t.
        """
        return cls._preset(presets.NCSNPP_FFHQ256, overrides)

    @classmethod
    def edm_cifar10(cls, **overrides: Any) -> UNetConfig:
        """The 55.7M-parameter DDPM++ for CIFAR-10 of Karras et al. 2022, arXiv:2206.00364, appendix F.

        1,152 of its weights project the nine augmentation labels and exist only with augmentation conditioning.
        """
        return cls._preset(presets.EDM_CIFAR10, overrides)

    @classmethod
    def _preset(cls, options: dict[str, Any], overrides: dict[str, Any]) -> UNetConfig:
        return validate(cls, {**options, **overrides}, "network 'unet'")


class TransformerConfig(EmbeddedConfig):
    """A vision transformer over patches: DiT, U-ViT and combinations; the defaults are for small greyscale images.

    Args:
        patch_size: side of a patch; images with other sizes are padded at the bottom and right, and cropped at the end.
            Halving it quadruples the number of tokens.
        channels: channels of a token.
        num_blocks: transformer blocks (attention and MLP).
        num_heads: attention heads; must divide ``channels``.
        mlp_ratio: hidden width of the MLP, in units of ``channels``.
        conditioning: ``adaln``: time and class set scale, shift and gate of each block (DiT's adaLN-Zero), with
            cross-attention to a text; ``tokens``: time, class and text are additional tokens (U-ViT); ``joint``:
            adaLN-Zero with joint attention of image and text, which have separate weights (MMDiT).
        long_skips: skip connections from the first to the second half of the blocks, outermost to outermost (U-ViT).
        output_convolution: a 3 x 3 convolution over the output image (U-ViT).
        time_channels: width of the time features.
        norm_eps: epsilon of the layer norms.
        query_key_norm: root-mean-square norms of the queries and keys of all attention layers.
    Raises:
        UsageError: heads that do not divide the channels, or ``joint`` with long skips.
    """

    name: Literal["transformer"] = "transformer"
    time_features: TimeFeatures = "adm"
    patch_size: Positive = 4
    channels: Positive = 192
    num_blocks: Positive = 6
    num_heads: Positive = 3
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    conditioning: Literal["adaln", "tokens", "joint"] = "adaln"
    long_skips: bool = False
    output_convolution: bool = False
    time_channels: Positive = 256
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    query_key_norm: bool = False

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> TransformerConfig:
        if self.channels % self.num_heads:
            raise UsageError(f"num_heads={self.num_heads} does not divide channels={self.channels}")
        if self.conditioning == "joint" and self.long_skips:
            raise UsageError("long_skips=true is for conditioning=tokens or adaln, got 'joint'; leave it out")
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

        44.5M parameters instead of the paper's 44M: positions are fixed instead of learned, the time embedding has an
        MLP, and query, key and value have biases.
        """
        options = {"num_blocks": 13, "channels": 512, "num_heads": 8, "conditioning": "tokens"}
        return cls._preset({**options, "long_skips": True, "output_convolution": True}, overrides)

    @classmethod
    def _preset(cls, options: dict[str, Any], overrides: dict[str, Any]) -> TransformerConfig:
        return validate(cls, {"patch_size": 2, **options, **overrides}, "network 'transformer'")


class MLPConfig(EmbeddedConfig):
    """A residual MLP for 2D points and other vectors.

    Args:
        width: hidden channels.
        num_blocks: number of residual blocks with two layers each.
    """

    name: Literal["mlp"] = "mlp"
    width: Positive = 256
    num_blocks: Positive = 4
