"""Retrieval of captions by images and of images by captions: of a contrastive model, and of samples by an evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undiffuse.captions import alternatives_of
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Result
from undiffuse.evaluation.caption_agreement import draw_for_captions
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.evaluators.evaluator import about_evaluator, contrastive_evaluator, embedded
from undiffuse.metrics.alignment.retrieval import chance, ranks, recalls
from undiffuse.metrics.caption_agreement import Share
from undiffuse.models.guides.contrastive import ContrastiveModel

RETRIEVAL, TEXT_RETRIEVAL = "retrieval", "text_retrieval"
_DIGITS = 6
#: Largest training set whose captions are compared with the held-out ones.
_MOST_COMPARED = 200_000


class Gallery(NamedTuple):
    """Distinct captions, and the index of an item with each."""

    captions: list[str]
    rows: list[int]


def check_contrastive(context: EvaluationContext, metric: str = RETRIEVAL) -> ContrastiveModel:
    """The contrastive model under evaluation.

    Raises:
        UsageError: another model, or no held-out items with captions.
    """
    model = context.model.module
    if not isinstance(model, ContrastiveModel):
        raise UsageError(
            f"metric {metric!r} is for contrastive models, got a {type(model).__name__}; train one with "
            "contrastive-scenes"
        )
    need_held_out(context, metric, 2)
    return model


def check_retrieval(context: EvaluationContext) -> None:
    """Check that the model is contrastive and the held-out items have captions.

    Raises:
        UsageError: if not.
    """
    check_contrastive(context)
    _gallery(context.held_out, 2, 0, RETRIEVAL)


def check_text_retrieval(context: EvaluationContext) -> None:
    """Check that there is an evaluator of the samples' size, and that samples are drawn for captions.

    Raises:
        UsageError: if not.
    """
    need_images(context, TEXT_RETRIEVAL)
    contrastive_evaluator(context, TEXT_RETRIEVAL)
    guided = isinstance(context.model.noisy_classifier, ContrastiveModel)
    if not context.model.has_text and not guided:
        raise UsageError(
            f"metric {TEXT_RETRIEVAL!r} needs samples of captions, this model was trained without text; use a model "
            "with system.text, or guide it with --classifier and a contrastive model"
        )


@torch.no_grad()
def retrieval(context: EvaluationContext) -> list[Result]:
    """R@1 of held-out captions by their images and of images by their captions; R@5 and R@10 in ``details``."""
    model = check_contrastive(context)
    gallery = _gallery(context.held_out, context.protocol.gallery, context.protocol.seed, RETRIEVAL)
    images = embedded(model, context.held_out.fetch(np.array(gallery.rows)).items)
    texts = model.encode_texts(gallery.captions).double().cpu()
    own = torch.arange(len(gallery.captions))
    cosine = images @ texts.T
    entries = {**_about(gallery, context.held_out, "held-out items"), "seed": context.protocol.seed}
    similarity = {"image_to_text": cosine, "text_to_image": cosine.T}
    return [
        _result(f"{RETRIEVAL}_{name}", recalls(ranks(table, own)), len(own), entries, _cosines(cosine, own))
        for name, table in similarity.items()
    ]


@torch.no_grad()
def text_retrieval(context: EvaluationContext) -> list[Result]:
    """R@1 of the captions that samples were drawn for, by an evaluator, for seen and held-out captions.

    The evaluator's R@k on real images with the same captions is in ``details``.
    """
    check_text_retrieval(context)
    sets = {"seen": context.train, **({"held_out": context.held_out} if len(context.held_out) else {})}
    return [_of_samples(context, kind, dataset) for kind, dataset in sets.items()]


def _of_samples(context: EvaluationContext, kind: str, dataset: Dataset) -> Result:
    evaluator, protocol = contrastive_evaluator(context, TEXT_RETRIEVAL), context.protocol
    gallery = _gallery(dataset, protocol.gallery, protocol.seed, TEXT_RETRIEVAL)
    size = len(gallery.captions)
    own = torch.arange(protocol.num) % size
    samples = torch.from_numpy(draw_for_captions(context, [gallery.captions[row] for row in own.tolist()]))
    texts = evaluator.encode_texts(gallery.captions).double().cpu()
    cosine, real = (
        embedded(evaluator, images) @ texts.T for images in (samples, dataset.fetch(np.array(gallery.rows)).items)
    )
    real_own = torch.arange(size)
    details = {
        **_cosines(cosine, own),
        "real_images": {**_shares(recalls(ranks(real, real_own))), **_cosines(real, real_own)},
    }
    entries = {
        **_about(gallery, dataset, f"{'training' if kind == 'seen' else 'held-out'} items"),
        **about_evaluator(context),
        "samples": context.sampling(),
        "captions": kind,
        "captions_also_in_training": _also_in_training(context, gallery) if kind == "held_out" else size,
    }
    return _result(f"{TEXT_RETRIEVAL}_{kind}", recalls(ranks(cosine, own), own), size, entries, details)


def _gallery(dataset: Dataset, size: int, seed: int, metric: str) -> Gallery:
    """Up to ``size`` distinct first captions of items in random order.

    Raises:
        UsageError: no captions, or fewer than 2 distinct ones.
    """
    captions = dataset.captions
    if captions is None:
        raise UsageError(f"metric {metric!r} needs data with captions, this data has none; give others with --data")
    found: dict[str, int] = {}
    for row in np.random.default_rng(seed).permutation(len(captions)).tolist():
        if text := alternatives_of(captions[row])[0]:
            found.setdefault(text, row)
        if len(found) >= size:
            break
    if len(found) < 2:
        raise UsageError(f"metric {metric!r} needs at least 2 different captions, got {len(found)}; give more data")
    return Gallery(list(found), list(found.values()))


def _about(gallery: Gallery, dataset: Dataset, what: str) -> dict[str, Any]:
    return {
        "gallery": len(gallery.captions),
        "gallery_of": f"distinct captions of {what}, the first alternative of each",
        "chance": {f"R@{k}": round(value, _DIGITS) for k, value in chance(len(gallery.captions)).items()},
        "data_fingerprint": dataset.fingerprint,
        "uncertainty_of": "binomial, of the distinct captions; intervals are Wilson's at 95 %",
    }


def _also_in_training(context: EvaluationContext, gallery: Gallery) -> int | str:
    """Number of held-out captions that training images have as well; large sets are not searched."""
    known = context.train.captions
    if known is None or len(known) > _MOST_COMPARED:
        return "not counted"
    of_training = {text for caption in known for text in alternatives_of(caption)}
    return sum(caption in of_training for caption in gallery.captions)


def _cosines(cosine: Tensor, own: Tensor) -> dict[str, Any]:
    """Mean cosine with the own caption, with its standard error, and with the other captions."""
    right = cosine.gather(1, own[:, None])[:, 0]
    others = (cosine.sum(1) - right) / (cosine.shape[1] - 1)
    error = float(right.std() / len(right) ** 0.5) if len(right) > 1 else None
    return {
        "cosine": round(float(right.mean()), _DIGITS),
        "cosine_error": None if error is None else round(error, _DIGITS),
        "cosine_of_other_captions": round(float(others.mean()), _DIGITS),
    }


def _shares(found: Mapping[int, Share]) -> dict[str, Any]:
    return {
        "recall": {f"R@{k}": round(share.value, _DIGITS) for k, share in found.items()},
        "intervals": {f"R@{k}": [round(share.low, _DIGITS), round(share.high, _DIGITS)] for k, share in found.items()},
    }


def _result(
    name: str, found: Mapping[int, Share], gallery: int, entries: Mapping[str, Any], details: Mapping[str, Any]
) -> Result:
    unit = f"R@1 in a gallery of {gallery}"
    return Result(name, found[1].value, unit, found[1].error, "higher", dict(entries), {**_shares(found), **details})
