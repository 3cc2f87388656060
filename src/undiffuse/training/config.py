"""The whole configuration of a training run: frozen, complete, and counted in images. Imports no torch by itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from undiffuse.augment.config import AUGMENTATIONS, AugmentConfig, NoAugmentConfig
from undiffuse.config import Component, ComponentConfig, FrozenModel
from undiffuse.data.config import DigitsConfig
from undiffuse.data.config.loader import LoaderConfig
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.objectives import OBJECTIVE_CONFIGS

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class OptimizerConfig(FrozenModel):
    """Adam, AdamW or Muon, with a schedule counted in images.

    Args:
        name: ``adam``, ``adamw`` or ``muon`` (orthogonalised momentum on matrices, Adam on the rest).
        learning_rate: after warm-up.
        phase_learning_rates: of single phases of a system that have another, such as ``{"discriminator": 4e-4}``.
        warmup_images: linear rise from 0 over so many images.
        decay: after warm-up: none, a half cosine or a line down to ``final_fraction`` at the run's last image, or
            ``inverse_sqrt``, 1 / sqrt(images / warmup_images).
        clip_norm: the gradient's norm is clipped to this; ``null`` for never.
    """

    name: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    phase_learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_images: NotNegative = 0
    decay: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "constant"
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    renamed_keys: ClassVar = {"phase_rates": "phase_learning_rates"}  # data


class PosthocConfig(FrozenModel):
    """Averages whose length is chosen after training (Karras et al. 2024); ``undiffuse ema`` chooses.

    Args:
        sigma_rel: relative widths of the two averages that are kept.
        snapshot_every_images: how often both are written; twenty over the run serve widths from 0.03 to 0.25 to within
            a hundredth of how far the weights move, ten those from 0.05 to 0.25.
    """

    sigma_rel: tuple[Annotated[float, Field(gt=0, le=0.288)], Annotated[float, Field(gt=0, le=0.288)]] = (0.05, 0.10)
    snapshot_every_images: Positive = 10_000


class EMAConfig(FrozenModel):
    """Exponential moving average of the weights.

    Args:
        halflife_images: images after which a weight's share has halved.
        rampup: the half-life is at most this share of the images seen so far (Karras et al. 2022); ``null`` for none.
        posthoc: keep what is needed to choose another length of average after training; ``null`` for nothing.
    """

    halflife_images: Positive = 50_000
    rampup: Annotated[float, Field(gt=0, le=1)] | None = 0.05
    posthoc: PosthocConfig | None = None


class RunConfig(FrozenModel):
    """A run is a function of this and nothing else.

    Args:
        recipe: the recipe it came from.
        seed: of weights, data order, noise and dropout.
        data: a data source with its options.
        system: what is trained.
        optimizer, ema: see there.
        num_images: training ends when so many have been seen.
        batch_images: images an optimizer step.
        micro_batch_images: images a forward pass; a divisor of ``batch_images``, all of it by default. Randomness
            is drawn by micro-batch, so this is part of the result.
        loader: how items get to the device; no part of the result, so it may differ when a run is resumed.
        compile: let torch compile the networks, where they are not faster without.
        random_flip: mirror half of the images left to right; the network is not conditioned on it.
        augment: transformations of the training images, a row of ``AUGMENTATIONS`` with its options.
        log_every_images, validate_every_images, preview_every_images: 0 for never.
        validation_images: how many held-out images the validation loss is taken of, with fixed noise.
        preview_samples: images in a preview.
        quality_every_images: samples are measured so often against the training data; 0 for never.
        quality_samples: how many are drawn for it, from the same seeds each time; more take longer and say more.
        quality_reference: what samples are measured against: the ``training`` data, or what was ``held_out`` of it,
            which a model that repeats its training images does not come near.
        train_items: train on so many items of the training part at most, chosen by content; ``null`` for all.
        checkpoint_every_images, checkpoint_every_seconds: 0 for never; there is always one at the end.
        keep_checkpoints: the newest k are kept.
        tensorboard: write TensorBoard's event files as well (extra ``tensorboard``).
    """

    recipe: str = "custom"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Annotated[ComponentConfig, Component(SOURCE_CONFIGS, "data source")] = DigitsConfig()
    system: Annotated[ComponentConfig, Component(OBJECTIVE_CONFIGS, "system")]
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    num_images: Positive = 100_000
    batch_images: Positive = 128
    micro_batch_images: Positive | None = None
    loader: LoaderConfig = LoaderConfig()
    compile: bool = False
    random_flip: bool = False
    augment: Annotated[AugmentConfig, Component(AUGMENTATIONS, "augmentation")] = NoAugmentConfig()
    log_every_images: NotNegative = 2_000
    validate_every_images: NotNegative = 20_000
    validation_images: NotNegative = 512
    preview_every_images: NotNegative = 50_000
    preview_samples: Positive = 16
    quality_every_images: NotNegative = 0
    quality_samples: Positive = 500
    quality_reference: Literal["training", "held_out"] = "training"
    train_items: Positive | None = None
    checkpoint_every_images: NotNegative = 100_000
    checkpoint_every_seconds: NotNegative = 300
    keep_checkpoints: Positive = 2
    tensorboard: bool = False

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.micro_batch_images is not None and self.batch_images % self.micro_batch_images:
            raise UsageError(
                f"micro_batch_images must divide batch_images, got {self.micro_batch_images} and {self.batch_images}"
            )
        return self

    @model_validator(mode="after")
    def _mirrored_once(self) -> Self:
        if self.random_flip and self.augment.flip > 0:
            raise UsageError(
                f"random_flip=true and augment.flip={self.augment.flip} both mirror images; say random_flip=false "
                "or augment.flip=0"
            )
        return self

    @property
    def num_micro_batches(self) -> int:
        """Forward passes an optimizer step."""
        return self.batch_images // (self.micro_batch_images or self.batch_images)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run; the last one may see a few images more than ``num_images``."""
        return -(-self.num_images // self.batch_images)


#: Keys of a run that decide what its weights are.
PART_OF_THE_RESULT = frozenset(
    {
        *("recipe", "seed", "system", "optimizer", "ema", "num_images", "batch_images", "micro_batch_images"),
        *("compile", "random_flip", "augment", "train_items"),
    }
)
#: Keys that decide how long it takes, what is seen and kept on the way; it may be resumed with others.
NO_PART_OF_THE_RESULT = frozenset(
    {
        *("loader", "log_every_images", "tensorboard"),
        *("validate_every_images", "validation_images", "preview_every_images", "preview_samples"),
        *("quality_every_images", "quality_samples", "quality_reference"),
        *("checkpoint_every_images", "checkpoint_every_seconds", "keep_checkpoints"),
    }
)
#: Keys that say where the data are and how they are read; the data's fingerprint decides whether they are the same.
DECIDED_BY_FINGERPRINT = frozenset({"data"})


def differences(old: dict[str, object], new: dict[str, object], prefix: str = "") -> list[str]:
    """``key: old -> new`` for every leaf that differs between two dumped configurations, where it matters."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        if prefix + key in NO_PART_OF_THE_RESULT | DECIDED_BY_FINGERPRINT:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
