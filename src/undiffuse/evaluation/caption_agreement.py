"""Metric ``caption_agreement``: the share of samples that show what their caption states, for models of scenes.

A sample of each caption is read back by the checker of scenes. Captions are of three kinds: of training scenes, held
out by the split, and with a pair of colour and shape that no training scene has. The checker's own results on as many
real scenes, with their captions and with those of other scenes, are in ``details``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.conditioning.prompt import Prompt
from undiffuse.config import validate
from undiffuse.data.config import ScenesConfig
from undiffuse.data.load import load_dataset
from undiffuse.data.sources.scenes.prompts import PromptKind, available_kinds, some_prompts
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Result
from undiffuse.evaluation.context import EvaluationContext
from undiffuse.evaluation.modes import source_of
from undiffuse.metrics.caption_agreement import agreements, by_groups, read_scene, scores, shares, to_details
from undiffuse.models.base import GenerativeModel, to_uint8
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import check_seeds

Images = npt.NDArray[np.uint8]

CAPTION_AGREEMENT = "caption_agreement"
#: Captions of the measurement during training.
TRAINING_CAPTIONS = 64
_BATCH = 256


def check_scenes(context: EvaluationContext) -> ScenesConfig:
    """The options of the scenes that the model was trained on.

    Raises:
        UsageError: a model without text, or one trained on other data.
    """
    source = source_of(context.model.config)
    takes_text = context.model.module.conditioner.spec.text is not None
    if not takes_text or not isinstance(source, ScenesConfig):
        got = f"one trained on {source.name!r}" if takes_text else "a model without text"
        raise UsageError(
            f"metric {CAPTION_AGREEMENT!r} is for models with text trained on the source 'scenes', got {got}; choose "
            "others with --metrics"
        )
    return source


def has_scenes(context: EvaluationContext) -> bool:
    """Whether the model is conditioned on the captions of scenes."""
    try:
        check_scenes(context)
    except UsageError:
        return False
    return True


def caption_agreement(context: EvaluationContext) -> list[Result]:
    """Share of samples that show exactly the scene of their caption, for each kind of caption."""
    config = check_scenes(context)
    return [_result(context, config, kind) for kind in available_kinds(config)]


def training_agreement(
    model: GenerativeModel, config: ScenesConfig, num: int = TRAINING_CAPTIONS, options: SamplingOptions = NO_OPTIONS
) -> dict[str, Any]:
    """The shares for a few held-out captions, or training captions if none are held out; samples have seeds 0, 1, ...

    Args:
        model: a model with text.
        config: options of the scenes that it is trained on.
        num: number of captions.
        options: sampling options.
    """
    kind: PromptKind = "held_out" if config.validation_fraction > 0 else "seen"
    captions = _captions(config, kind, num, 0)
    request = SampleRequest(range(num), options, prompts=_prompts(captions), batch_size=_BATCH)
    images = to_uint8(model.sample(request).x).cpu().numpy()
    found = agreements(images, captions, config.vocabulary)
    return {"metric": f"{CAPTION_AGREEMENT}_{kind}", "captions": num, **to_details(shares(found))["shares"]}


def _result(context: EvaluationContext, config: ScenesConfig, kind: PromptKind) -> Result:
    protocol = context.protocol
    captions = _captions(config, kind, protocol.num, protocol.seed)
    found = agreements(draw_for_captions(context, captions), captions, config.vocabulary)
    total = shares(found)
    details = {
        **to_details(total),
        "by_groups": {str(number): to_details(part) for number, part in by_groups(found, captions).items()},
        **_real_scenes(config, kind, protocol.num),
    }
    entries = {
        "samples": context.sampling(),
        "captions": kind,
        "distinct_captions": len(set(captions)),
        "uncertainty_of": "binomial, of the samples; intervals are Wilson's at 95 %",
    }
    unit = "share of samples that show exactly the scene of their caption"
    return Result(
        f"{CAPTION_AGREEMENT}_{kind}", total["all"].value, unit, total["all"].error, "higher", entries, details
    )


def _captions(config: ScenesConfig, kind: PromptKind, num: int, seed: int) -> list[str]:
    """``num`` captions; cyclic if there are fewer distinct ones."""
    pool = some_prompts(config, kind, num, seed)
    return [pool[index % len(pool)] for index in range(num)]


def draw_for_captions(context: EvaluationContext, captions: Sequence[str]) -> Images:
    """One sample per caption, uint8 (N, C, H, W); sample i has the seed ``protocol.seed`` + i.

    Args:
        context: model and sampling options.
        captions: N texts.
    """
    protocol, parts = context.protocol, []
    seeds = check_seeds(protocol.seed, len(captions))
    for start in range(0, len(captions), protocol.batch_size):
        rows = slice(start, start + protocol.batch_size)
        request = SampleRequest(
            seeds[rows],
            protocol.options,
            prompts=_prompts(captions[rows]),
            batch_size=protocol.batch_size,
            classifier=context.model.noisy_classifier,
        )
        started = time.monotonic()
        sampled = context.model.module.sample(request)
        context.nfe = sampled.nfe
        context.seconds += time.monotonic() - started
        context.observer.progress(min(start + protocol.batch_size, len(captions)), len(captions))
        parts.append(context.model.finish(sampled.x).numpy())
    return np.concatenate(parts)


def _real_scenes(config: ScenesConfig, kind: PromptKind, num: int) -> dict[str, Any]:
    """The checker's shares on real scenes: with their own captions, and with those of other scenes (chance)."""
    pairs = "unseen" if kind == "unseen_pairs" else "seen"
    real = load_dataset(validate(ScenesConfig, {**config.model_dump(), "pairs": pairs, "num_scenes": num + 1}))
    batch, vocabulary = real.fetch(np.arange(num)), config.vocabulary
    captions, others = batch.captions, real.fetch(np.arange(1, num + 1)).captions
    readings = [read_scene(image, vocabulary) for image in batch.items.numpy()]
    return {
        "real_scenes": to_details(shares(scores(readings, captions))),
        "chance": to_details(shares(scores(readings, others)))["shares"],
    }


def _prompts(captions: Sequence[str]) -> list[Prompt]:
    return [Prompt(text=caption) for caption in captions]
