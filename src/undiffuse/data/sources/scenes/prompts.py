"""Captions to test a model of scenes with: seen in training, held out, and with pairs of words never seen together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.config import validate
from undiffuse.data.config.scenes import ScenesConfig
from undiffuse.data.sources.scenes.words import caption_hashes, draw_scenes, hashed
from undiffuse.data.split import held_out_rows
from undiffuse.errors import UsageError

PromptKind = Literal["seen", "held_out", "unseen_pairs"]
#: The kinds of prompts, in the order of reports.
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
_MEANING: Mapping[PromptKind, str] = MappingProxyType(
    {
        "seen": "captions of training scenes",
        "held_out": "captions that the split holds out",
        "unseen_pairs": "captions with a held-out pair of colour and shape",
    }
)
_BLOCK, _MOST_BLOCKS = 4096, 64
#: Scenes that prompts are taken from, unless they must be in the training set.
_MANY = 2**48


def prompts(
    config: ScenesConfig, kind: PromptKind, num: int, seed: int = 0, objects: Literal[2, 3] | None = None
) -> list[str]:
    """Draw distinct captions.

    Args:
        config: options of the set that the model is trained on.
        kind: ``seen``: captions of scenes in the training set; ``held_out``: held out by the split, with pairs of
            colour and shape that training scenes have; ``unseen_pairs``: with a pair that no training scene has.
        num: number of captions; the first ones do not depend on it.
        seed: in [0, 2**64).
        objects: number of groups in each; any by default.

    Raises:
        UsageError: if there are too few such captions.
    """
    found = some_prompts(config, kind, num, seed, objects)
    if len(found) < num:
        raise UsageError(
            f"expected {num} {_described(kind, objects)}, found {len(found)}; request fewer, or change the options of "
            "the data"
        )
    return found


def some_prompts(
    config: ScenesConfig, kind: PromptKind, most: int, seed: int = 0, objects: Literal[2, 3] | None = None
) -> list[str]:
    """Draw distinct captions, fewer than ``most`` if there are not as many; see ``prompts``.

    Args:
        config, kind, seed, objects: as of ``prompts``.
        most: largest number of captions.

    Raises:
        UsageError: if there are none.
    """
    if kind == "unseen_pairs":
        config = validate(ScenesConfig, {**config.model_dump(), "pairs": "unseen"})
    found: dict[str, None] = {}
    for block in range(_MOST_BLOCKS):
        scenes = _block(config, kind, seed, block)
        rows = np.flatnonzero(_chosen(config, kind, scenes, objects))
        found.update(dict.fromkeys(scenes.select(rows).captions()))
        if len(found) >= most:
            break
    if not found:
        raise UsageError(f"there are no {_described(kind, objects)}; change the options of the data")
    return list(found)[:most]


def _described(kind: PromptKind, objects: int | None) -> str:
    return _MEANING[kind] + ("" if objects is None else f" with {objects} groups")


def available_kinds(config: ScenesConfig) -> list[PromptKind]:
    """The kinds of prompts that exist for a set: the split or the pairs may hold out nothing."""
    holds_out = {"seen": True, "held_out": config.validation_fraction > 0, "unseen_pairs": bool(config.unseen_pairs)}
    return [kind for kind in PROMPT_KINDS if holds_out[kind]]


def _block(config: ScenesConfig, kind: PromptKind, seed: int, block: int) -> SceneArrays:
    draws = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    limit = config.num_scenes if kind == "seen" else _MANY
    numbers: Numbers = (hashed(seed, draws, (0,))[:, 0] % np.uint64(limit)).astype(np.int64)
    return draw_scenes(config, numbers)


def _chosen(config: ScenesConfig, kind: PromptKind, scenes: SceneArrays, objects: int | None) -> Any:
    chosen = np.ones(len(scenes), dtype=bool) if objects is None else scenes.num_groups == objects
    if kind == "unseen_pairs":
        return chosen
    hashes = caption_hashes(scenes.caption_numbers())
    return chosen & (held_out_rows(hashes, config.validation_fraction) == (kind == "held_out"))
