"""The configuration of a training run: frozen, complete, with all durations in images. Does not import torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

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
    """Adam, AdamW or Muon, with a learning rate schedule in images.

    Args:
        name: ``adam``, ``adamw`` or ``muon`` (orthogonalised momentum for matrices, Adam for other parameters).
        learning_rate: learning rate after warm-up.
        phase_learning_rates: different learning rates of single phases, such as ``{"discriminator": 4e-4}``.
        rates: factors of the learning rate by parameter pattern, see ``training.selection``; the last match counts.
        warmup_images: length of the linear warm-up from 0, in images.
        decay: schedule after warm-up: ``constant``, ``cosine`` or ``linear`` decay to ``final_fraction`` at the last
            image of the run, or ``inverse_sqrt``, 1 / sqrt(images / warmup_images).
        clip_norm: maximum norm of the gradient; ``null`` to disable clipping.
    """

    name: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    phase_learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    warmup_images: NotNegative = 0
    decay: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "constant"
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    renamed_keys: ClassVar = {"phase_rates": "phase_learning_rates"}  # data


class PosthocConfig(FrozenModel):
    """Post-hoc EMA (Karras et al. 2024): averages whose length is chosen after training with ``undiffuse ema``.

    Args:
        sigma_rel: relative widths of the two averages that are tracked.
        snapshot_every_images: interval between snapshots of both; twenty snapshots per run reconstruct widths from
            0.03 to 0.25 with an error of a hundredth of the distance that the weights move, ten those from 0.05 to
            0.25.
    """

    sigma_rel: tuple[Annotated[float, Field(gt=0, le=0.288)], Annotated[float, Field(gt=0, le=0.288)]] = (0.05, 0.10)
    snapshot_every_images: Positive = 10_000


class EMAConfig(FrozenModel):
    """Exponential moving average of the weights.

    Args:
        halflife_images: half-life of the average, in images.
        rampup: the half-life is at most this fraction of the images seen so far (Karras et al. 2022); ``null`` to
            disable.
        posthoc: write snapshots for choosing another length of average after training; ``null`` for none.
    """

    halflife_images: Positive = 50_000
    rampup: Annotated[float, Field(gt=0, le=1)] | None = 0.05
    posthoc: PosthocConfig | None = None


class StartConfig(FrozenModel):
    """The model that a run is fine-tuned from. Its weights are read before the first step only.

    Args:
        name: its name.
        path: its folder.
        sha256: SHA-256 of its weights file; empty to skip the check.
        weights: ``ema`` for its averaged weights, ``raw`` for the weights without averaging.
        classes: names of its classes.
        num_words: number of words in its vocabulary.
        like: known class or word whose embedding a new one starts from, by the new name; the mean of all by default.
        keep_classes: keep the classes of the start model that the data do not have, after those of the data.
    """

    name: str
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    weights: Literal["ema", "raw"] = "ema"
    classes: tuple[str, ...] = ()
    num_words: NotNegative = 0
    like: dict[str, str] = Field(default_factory=dict)
    keep_classes: bool = False


def _text(value: object) -> object:
    """A class named by a number, as on the command line, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class PriorConfig(FrozenModel):
    """Prior preservation: the loss of samples of the start model is added to that of the data (Ruiz et al. 2022).

    Args:
        prompt: caption of the samples, for a start model with text.
        class_name: class of the samples, for a start model with classes; unconditional samples by default.
        num: number of samples, drawn once before the first step.
        share: share of each batch.
        weight: weight of their loss; that of the data has 1.
    """

    prompt: Annotated[str | None, BeforeValidator(_text)] = None
    class_name: Annotated[str | None, BeforeValidator(_text)] = None
    num: Positive = 200
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    weight: Annotated[float, Field(ge=0)] = 1.0


def _patterns(value: object) -> object:
    """A tuple of patterns, also from one text with commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class RunConfig(FrozenModel):
    """Configuration of a training run, which fully determines its result.

    Args:
        recipe: name of the recipe that the configuration is based on.
        seed: seed of weights, data order, noise and dropout.
        data: a data source with its options.
        system: objective and model to train.
        start: model whose weights the run starts from; ``null`` for new weights.
        prior: samples of the start model that are trained on too; ``null`` for none.
        freeze: parameters that are not trained, as patterns, see ``training.selection``; ``!`` excepts from earlier
            ones. Also written ``all,!attention``.
        optimizer, ema: see ``OptimizerConfig`` and ``EMAConfig``.
        num_images: total number of training images.
        batch_images: images per optimizer step.
        micro_batch_images: images per forward pass; a divisor of ``batch_images``, which is the default. Random
            numbers are drawn per micro-batch, so this affects the result.
        loader: data loading options; do not affect the result, so they may change when a run is resumed.
        compile: compile the networks with torch.compile, unless they are faster without.
        random_flip: flip half of the images horizontally; the network is not conditioned on it.
        augment: augmentation of the training images, an entry of ``AUGMENTATIONS`` with its options.
        log_every_images, validate_every_images, preview_every_images: 0 for never.
        validation_images: number of held-out images for the validation loss, computed with fixed noise.
        preview_samples: images in a preview.
        quality_every_images: interval at which samples are compared with the training data; 0 for never.
        quality_samples: number of samples for it, always from the same seeds; more take longer and are more precise.
        quality_reference: data that samples are compared with: the ``training`` data, or the ``held_out`` data, which
            penalizes models that memorise training images.
        train_items: maximum number of training items, selected by content; ``null`` for all.
        checkpoint_every_images, checkpoint_every_seconds: 0 for never; there is always one at the end.
        keep_checkpoints: number of newest checkpoints to keep.
        tensorboard: also write TensorBoard event files (extra ``tensorboard``).
    """

    recipe: str = "custom"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Annotated[ComponentConfig, Component(SOURCE_CONFIGS, "data source")] = DigitsConfig()
    system: Annotated[ComponentConfig, Component(OBJECTIVE_CONFIGS, "system")]
    start: StartConfig | None = None
    prior: PriorConfig | None = None
    freeze: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = ()
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
    def _check_micro_batches(self) -> Self:
        if self.micro_batch_images is not None and self.batch_images % self.micro_batch_images:
            raise UsageError(
                f"micro_batch_images must divide batch_images, got {self.micro_batch_images} and {self.batch_images}"
            )
        if getattr(self.system, "needs_whole_batch", False) and self.num_micro_batches > 1:
            raise UsageError(
                f"system.name={self.system.name} compares all images of a batch, which cannot be split; set "
                f"micro_batch_images={self.batch_images}, or a smaller batch_images"
            )
        return self

    @model_validator(mode="after")
    def _check_flips(self) -> Self:
        if self.random_flip and self.augment.flip > 0:
            raise UsageError(
                f"random_flip=true and augment.flip={self.augment.flip} both flip images; set random_flip=false "
                "or augment.flip=0"
            )
        return self

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if self.prior is not None and self.start is None:
            raise UsageError("prior images are samples of a start model; name one with --from, or set prior=null")
        if self.prior is not None and (self.micro_batch_images or self.batch_images) < 2:
            raise UsageError("prior images share a batch with the data; set batch_images to at least 2")
        return self

    @property
    def num_micro_batches(self) -> int:
        """Forward passes per optimizer step."""
        return self.batch_images // (self.micro_batch_images or self.batch_images)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run; the last one may exceed ``num_images`` by a few images."""
        return -(-self.num_images // self.batch_images)


#: Keys of a run that affect its weights.
PART_OF_THE_RESULT = frozenset(
    {
        *("recipe", "seed", "system", "optimizer", "ema", "num_images", "batch_images", "micro_batch_images"),
        *("compile", "random_flip", "augment", "train_items", "start", "prior", "freeze"),
    }
)
#: Keys that affect only duration, logging and checkpoints; they may change when a run is resumed.
NO_PART_OF_THE_RESULT = frozenset(
    {
        *("loader", "log_every_images", "tensorboard"),
        *("validate_every_images", "validation_images", "preview_every_images", "preview_samples"),
        *("quality_every_images", "quality_samples", "quality_reference"),
        *("checkpoint_every_images", "checkpoint_every_seconds", "keep_checkpoints"),
    }
)
#: Keys of the location and loading of the data and of a text encoder; their equality is decided by hashes.
DECIDED_BY_FINGERPRINT = frozenset({"data", "system.text.folder"})


def differences(old: dict[str, object], new: dict[str, object], prefix: str = "") -> list[str]:
    """``key: old -> new`` for every leaf that differs between two dumped configurations and affects the result."""
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
