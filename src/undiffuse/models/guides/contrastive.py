"""Contrastive models of images and texts: both are mapped to unit vectors, whose cosine says how well they match.

They evaluate samples and guide the sampling of other models; they generate nothing themselves.

Source: Radford et al. 2021, "Learning transferable visual models from natural language supervision" (CLIP),
    arXiv:2103.00020; noise-aware: Nichol et al. 2022, "GLIDE", arXiv:2112.10741, sec. 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.threaded_batch import threaded
from undiffuse.conditioning.text import (
    TEXT_ENCODER_CONFIGS,
    LearnedTextConfig,
    TextConfig,
    build_text_encoder,
)
from undiffuse.conditioning.text.fitting import completed_text, fitted_text
from undiffuse.conditioning.texts import TextConditioner
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.denoiser import matched_level
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.models.base import Batching
from undiffuse.models.config import ModelConfig
from undiffuse.models.guides.noise_aware import GuidingModel
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.parts import set_text_part
from undiffuse.models.rules import check_augment_condition, not_a_generator
from undiffuse.networks import NETWORK_CONFIGS, UNetConfig
from undiffuse.networks.classifier import FeatureHead
from undiffuse.networks.cross_attention import separate_initialization
from undiffuse.samplers.plan import Plan

#: The row of ``PARAMETERIZATIONS`` whose c_in and c_noise the network gets: x_t of unit variance, and 1000 t.
_INPUTS = "eps_unit"
#: Largest scale of the cosines, and the initial (scale, bias) of each loss, from the papers.
LARGEST_SCALE = 100.0
_INITIAL = {"infonce": (1 / 0.07, 0.0), "sigmoid": (10.0, -10.0)}


class ContrastivePartsConfig(ComponentConfig):
    """Options shared by contrastive models and the objective that trains them.

    Args:
        process: an entry of ``PROCESSES`` with its options; it may differ from that of the guided models.
        network: architecture of the image network; of a U-Net the encoder half and the middle are used.
        precision: precision of the image network's arithmetic.
        text: text encoder, of which the pooled vector is used.
        dim: size of the joint space.
        noise: the image network knows noisy images x_t at the times of ``time_density``, for guidance through x_t;
            false for clean images only.
        loss: ``infonce`` (CLIP), or ``sigmoid`` (SigLIP), which has a learned bias as well.
    """

    process: Annotated[ComponentConfig, Component(PROCESSES, "process")] = default_of("flow", FlowProcess)
    network: Annotated[ComponentConfig, Component(NETWORK_CONFIGS, "network")] = UNetConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    text: Annotated[ComponentConfig, Component(TEXT_ENCODER_CONFIGS, "text encoder")] = LearnedTextConfig()
    dim: Annotated[int, Field(ge=1, le=4096)] = 128
    noise: bool = True
    loss: Literal["infonce", "sigmoid"] = "infonce"

    def finalized(self, class_names: Sequence[str], captions: Sequence[str] | None = None) -> Self:
        """This configuration with the options of the text encoder resolved.

        Args:
            class_names: class names of the data, which a contrastive model does not need.
            captions: training captions, if the data has them.
        Raises:
            UsageError: if the text encoder needs captions and there are none.
        """
        instead = "train on other data with --data"
        text = fitted_text(self.text, captions, instead)
        return self if text is self.text else self.model_copy(update={"text": text})

    def completed_from(self, earlier: object) -> Self:
        """This configuration with the options of the text encoder that an earlier run resolved from its captions.

        Args:
            earlier: configuration of the run.
        """
        text = completed_text(self.text, earlier)
        return self if text is self.text else self.model_copy(update={"text": text})


class ContrastiveModelConfig(ContrastivePartsConfig, ModelConfig):
    """Configuration of a contrastive model, see ``ContrastivePartsConfig``.

    Args:
        trained_density: distribution of the training times, outside of which it is not evaluated; None for all times.
    """

    name: Literal["contrastive"] = "contrastive"
    trained_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] | None = None

    def build(
        self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> ContrastiveModel:
        check_augment_condition(num_augment_labels, "contrastive models")
        return ContrastiveModel(self, shape)


class ContrastiveModel(GuidingModel):
    """An image network and a text encoder with projections to a joint space; sampling from it raises UsageError.

    Args:
        config: process, network and text encoder, whose options are resolved.
        shape: shape of one example, (C, H, W) or (D,).
    Attributes:
        log_scale: log of the factor of the cosines (the inverse temperature), ().
        bias: added to the scaled cosines by the loss ``sigmoid``, ().
    """

    class_names = ()
    bias: Tensor

    def __init__(self, config: ContrastiveModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert isinstance(config.text, TextConfig)
        self.config, self.space = config, Space.of_data(shape)
        self.process: Process = build(PROCESSES, config.process)
        self.network = FeatureHead(config.network, self.shape, config.dim, zero=False)
        with separate_initialization():
            encoder = build_text_encoder(config.text)
            self.text_norm = nn.LayerNorm(config.text.width)
            self.text_head = nn.Linear(config.text.width, config.dim)
        set_text_part(self, config.text)
        self.conditioner: TextConditioner = TextConditioner(ConditionSpec(text=config.text.spec), encoder)
        scale, bias = _INITIAL[config.loss]
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        if config.loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor(bias))
        else:
            self.register_buffer("bias", torch.tensor(bias))
        self._inputs = Parameterization(_INPUTS, self.process)
        self.set_trained_density(config.trained_density)

    @property
    def noise_aware(self) -> bool:
        """Whether it knows noisy images, so that it can guide through x_t."""
        return self.config.noise

    @property
    def scale(self) -> Tensor:
        """Factor of the cosines, (); the inverse of the temperature."""
        return self.log_scale.exp()

    def image_embeddings(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Unit vectors (B, dim) of noisy images, float32 or higher.

        Args:
            x_t: (B, *shape) noisy data under this model's process.
            t: (B,) times in [0, 1]; 0 for clean data.
        """
        scaled, c_noise = self._inputs.network_input(x_t, t)
        autocast = compute_dtype(self.config.precision, self.device)
        with torch.autocast(x_t.device.type, dtype=autocast, enabled=autocast is not None):
            projected: Tensor = threaded(self.network)(scaled, c_noise, Condition())
        return F.normalize(projected, dim=1)

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, dim) of texts, differentiable; equal texts are encoded once.

        Args:
            texts: B texts.
        """
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        projected = self._projected(self.conditioner.encoder.encode(list(rows)).pooled)
        return projected[torch.tensor([rows[text] for text in texts], device=projected.device)]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, dim) of texts, bitwise independent of the other texts.

        Args:
            texts: B texts.
        """
        pooled = self.conditioner.encoder.encode_in_blocks(texts).pooled
        return torch.cat([self._projected(row[None]) for row in pooled]) if len(pooled) else self._projected(pooled)

    @torch.no_grad()
    def encode_images(self, x_0: Tensor) -> Tensor:
        """Unit vectors (B, dim) of clean images, independent of the other images.

        Args:
            x_0: (B, *shape), images in [-1, 1].
        """
        parts = []
        for start in range(0, len(x_0), self.batch_size):
            part = x_0[start : start + self.batch_size].to(self.device)
            padded = torch.cat([part, part[-1:].expand(self.batch_size - len(part), *part.shape[1:])])
            t = torch.full((len(padded),), self._clean_time, dtype=torch.float64, device=self.device)
            parts.append(self.image_embeddings(padded, t)[: len(part)])
        return torch.cat(parts) if parts else torch.empty(0, self.config.dim, device=self.device)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """scale <image, text> + bias of all pairs, (N, M).

        Args:
            images: (N, dim) unit vectors.
            texts: (M, dim) unit vectors.
        """
        return self.scale * images @ texts.T + self.bias

    def log_prob(self, x_t: Tensor, t: Tensor, targets: Tensor, process: Process) -> Tensor:
        """scale <f(x_t), target>, (B,): the log-density ratio log p(text | x_t) - log p(text) up to a constant.

        Outside of the log-SNR range of training, at the nearest log-SNR within it; a model of clean images takes x_t as
        clean.

        Args:
            x_t: (B, *shape) noisy data under ``process``.
            t: (B,) times of ``process``.
            targets: (B, dim) unit vectors of texts.
            process: the process of x_t, which may differ from that of training.
        Source: Nichol et al. 2022, arXiv:2112.10741, sec. 2.4, eq. 4; as InfoNCE's optimum: van den Oord et al. 2018.
        """
        if self.noise_aware:
            ratio, own_t = matched_level(self.process, process, t, self.log_snr_range)
            images = self.image_embeddings(per_row(ratio, x_t) * x_t, own_t)
        else:
            images = self.image_embeddings(x_t, torch.zeros_like(t))
        return self.scale * (images * targets.to(images)).sum(1)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        """Always raises UsageError, since a contrastive model generates no samples."""
        raise not_a_generator("contrastive model")

    @property
    def _clean_time(self) -> float:
        """The time of training with the least noise."""
        if not self.noise_aware or self._density is None:
            return 0.0
        return float(self._density(self.process, torch.zeros(1, dtype=torch.float64)))

    def _projected(self, pooled: Tensor) -> Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            projected: Tensor = self.text_head(self.text_norm(pooled))
            return F.normalize(projected, dim=1)
