"""The model that evaluates samples: a contrastive model of images and texts, or a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK
from undiffuse.evaluation.context import EvaluationContext
from undiffuse.models.base import GenerativeModel
from undiffuse.models.classifier import ClassifierModel
from undiffuse.models.guides.contrastive import ContrastiveModel


def contrastive_evaluator(context: EvaluationContext, metric: str) -> ContrastiveModel:
    """The evaluator of the evaluation.

    Raises:
        UsageError: there is none, another kind of model, or one of other images.
    """
    evaluator = _module(context)
    if not isinstance(evaluator, ContrastiveModel):
        got = "none" if evaluator is None else f"a {type(evaluator).__name__}"
        raise UsageError(
            f"metric {metric!r} needs a contrastive model as the evaluator, got {got}; train one with "
            "contrastive-scenes and give its folder with --evaluator"
        )
    check_shape(evaluator, context)
    return evaluator


def check_shape(evaluator: GenerativeModel, context: EvaluationContext) -> None:
    """Check that an evaluator knows images of the size of the samples.

    Raises:
        UsageError: if it does not.
    """
    if evaluator.shape != context.model.module.shape:
        raise UsageError(
            f"the evaluator is for images of shape {evaluator.shape}, the samples have {context.model.module.shape}; "
            "give one that was trained on images of this shape with --evaluator"
        )


def embedded(evaluator: ContrastiveModel, images: Tensor) -> Tensor:
    """Unit vectors (N, D) of uint8 images (N, C, H, W), on the CPU in float64."""
    parts = [evaluator.encode_images(part.float() / 127.5 - 1) for part in torch.split(images, CHUNK)]
    return torch.cat(parts).double().cpu()


@torch.no_grad()
def predicted_classes(
    evaluator: ClassifierModel | ContrastiveModel, images: Tensor, names: Sequence[str], template: str
) -> Tensor:
    """The most probable class of each image, (N,) int64 indices into ``names``, by evaluations of a fixed size.

    Args:
        evaluator: a classifier, or a contrastive model, which compares images with texts of the classes (zero-shot).
        images: (N, C, H, W) uint8.
        names: class names; those of a classifier in any order.
        template: text of a class, with ``{}`` for its name.
    Source: zero-shot: Radford et al. 2021, arXiv:2103.00020, sec. 3.1.
    """
    if isinstance(evaluator, ContrastiveModel):
        texts = evaluator.encode_texts([template.replace("{}", name) for name in names]).double().cpu()
        return (embedded(evaluator, images) @ texts.T).argmax(1)
    order = torch.tensor([evaluator.class_names.index(name) for name in names])
    size, found = evaluator.batch_size, []
    for part in torch.split(images, size):
        padded = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        x_0 = (padded.float() / 127.5 - 1).to(evaluator.device)
        # at the least noise of training; the labels of this call are not used
        found.append(_clean_logits(evaluator, x_0)[: len(part)].cpu()[:, order].argmax(1))
    return torch.cat(found)


def about_evaluator(context: EvaluationContext) -> dict[str, Any]:
    """A result's protocol entries about the evaluator: which one, its data, and whether it guided the samples."""
    evaluator, guide = context.evaluator, context.model.classifier
    assert evaluator is not None
    data = evaluator.config["data"]
    return {
        "evaluator": evaluator.path.resolve().name,
        "evaluator_sha256": evaluator.weights_sha256,
        "evaluator_recipe": evaluator.config["config"].get("recipe"),
        "evaluator_seed": evaluator.config["config"].get("seed"),
        "evaluator_data_fingerprint": data.get("fingerprint"),
        "evaluator_guided_the_samples": guide is not None and guide.weights_sha256 == evaluator.weights_sha256,
    }


def _module(context: EvaluationContext) -> GenerativeModel | None:
    return None if context.evaluator is None else context.evaluator.module


def _clean_logits(evaluator: ClassifierModel, x_0: Tensor) -> Tensor:
    high = evaluator.log_snr_range[1]
    level = torch.tensor(min(high, 30.0), dtype=torch.float64)
    t = evaluator.process.time_of_log_snr(level).expand(len(x_0)).to(x_0.device)
    return evaluator.logits(x_0, t)
