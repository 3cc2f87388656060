"""Checks for duplicate images, within a set or across two sets, and for contradictory labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.dataset import Hashes
from undiffuse.diagnostics.data_context import DataContext, as_items
from undiffuse.diagnostics.duplicates import groups_of, near_pairs, thumbnails
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.wording import count_noun, format_names

_NONE = -1  # the label of an item without one
_LISTED = 500  # groups or pairs in the details
_MANY = 0.01  # fraction of a set above which duplicates are a warning


def exact(context: DataContext) -> Iterable[Finding]:
    """Items of equal content, regardless of their names."""
    groups = _exact_groups(context)
    extra = sum(len(group) - 1 for group in groups)
    if not groups:
        yield Finding("ok", "no exact duplicates", f"all {count_noun(len(context.hashes), 'item')} by hash of content")
        return
    yield Finding(
        "warning" if extra > _MANY * len(context.hashes) else "note",
        "exact duplicates",
        f"{count_noun(extra, 'item')} ({percent(extra / len(context.hashes))}) repeat another, in "
        f"{count_noun(len(groups), 'group')}; the largest: {format_names(context.names(groups[0]))}",
        "keep one of each group: repeated images are memorised first",
        {"groups": [context.names(group) for group in groups[:_LISTED]], "num_groups": len(groups), "extra": extra},
    )


def near(context: DataContext) -> Iterable[Finding]:
    """Images that are nearly the same."""
    pairs = context.pairs
    groups = groups_of(pairs.first.tolist(), pairs.second.tolist())
    extra = sum(len(group) - 1 for group in groups)
    protocol = f"d <= {context.near:g} on thumbnails"
    if not groups:
        yield Finding("ok", "no near-duplicates", f"{count_noun(len(context.rows))}, all pairs, {protocol}")
        return
    closest = [
        {"first": a, "second": b, "distance": round(float(d), 4), "mirrored": bool(m)}
        for a, b, d, m in _named_pairs(context, context, pairs)
    ]
    mirrored = int(pairs.mirrored.sum())
    yield Finding(
        "warning" if extra > _MANY * len(context.rows) else "note",
        "near-duplicates",
        f"{count_noun(extra)} ({percent(extra / len(context.rows))}) are nearly the same as another ({protocol}), in "
        f"{count_noun(len(groups), 'group')}, {mirrored} of {count_noun(len(pairs), 'pair')} mirrored; the nearest: "
        f"{closest[0]['first']} and {closest[0]['second']}",
        "look at the pairs in the JSON (--json FILE); keep one of each group, or lower --near if they differ",
        {
            "groups": [context.names(group) for group in groups[:_LISTED]],
            "num_groups": len(groups),
            "extra": extra,
            "pairs": closest,
            "near": context.near,
            "signature_limit": pairs.limit,
        },
    )


def labels(context: DataContext) -> Iterable[Finding]:
    """The same image in two classes."""
    numbers, names = context.labels, context.class_names
    if numbers is None:
        return
    groups = _exact_groups(context)
    contradictory = [
        _with_classes(context, group) for group in groups if len({numbers[row] for row in group} - {_NONE}) > 1
    ]
    if contradictory:
        yield Finding(
            "problem",
            "one image in several classes",
            f"{count_noun(len(contradictory), 'group')} of equal images: {format_names(contradictory)}",
            "decide on one class and delete the others",
            {"groups": contradictory[:_LISTED]},
        )
    if not context.has_images:
        return
    unlike = [
        _with_classes(context, pair)
        for pair in _rows_of(context.pairs)
        if len({numbers[row] for row in pair} - {_NONE}) > 1
    ]
    if unlike:
        yield Finding(
            "warning",
            "nearly the same image in several classes",
            f"{count_noun(len(unlike), 'pair')}: {format_names(unlike)}",
            "look at them; one of the two labels is probably wrong",
            {"pairs": unlike[:_LISTED]},
        )
    if not contradictory and not unlike:
        yield Finding("ok", "no contradicting labels", count_noun(len(names), "class"))


def split(context: DataContext) -> Iterable[Finding]:
    """Near-duplicates across the training/validation split; exact duplicates are always on the same side."""
    held_out = context.held_out
    num_held_out = int(held_out.sum())
    leaked = {a if held_out[a] else b for a, b in _rows_of(context.pairs) if held_out[a] != held_out[b]}
    if not leaked:
        text = f"no near-duplicate of the {count_noun(num_held_out)} held out is trained on"
        yield Finding("ok", "no leak between training and held-out part", text)
        return
    named = context.names(sorted(leaked))
    share = len(leaked) / max(num_held_out, 1)
    yield Finding(
        "warning" if share > _MANY else "note",
        "near-duplicates across the split",
        f"{len(leaked)} of {num_held_out:,} held-out images ({percent(share)}) are nearly the same as a training "
        f"image: {format_names(named)}",
        "delete the near-duplicates: they bias validation losses and copying measures",
        {"held_out": named[:_LISTED], "share": share},
    )


def against(context: DataContext) -> Iterable[Finding]:
    """Images that two sets share."""
    other = context.against
    if other is None:
        return
    same = _shared(context.hashes, other.hashes)
    if same:
        yield Finding(
            "problem",
            f"images shared with {other.name}",
            f"{len(same)} of the {len(other.hashes):,} there ({percent(len(same) / len(other.hashes))}) are in "
            f"{context.name} too, by content: {format_names(other.names(same))}",
            "delete them from one of the two: training images cannot be used for testing",
            {"items": other.names(same)[:_LISTED], "count": len(same)},
        )
    if context.dataset.shape[0] != other.dataset.shape[0]:
        yield Finding(
            "note",
            f"one set is grey, {other.name} is compared in grey",
            f"{_colours(context)} and {_colours(other)}; near-duplicates are searched by brightness alone",
        )
    leaks = _near_leaks(context, other, known=set(same))
    if leaks:
        named = [f"{there} is nearly {here}" for here, there, _, _ in leaks]
        yield Finding(
            "warning",
            f"near-duplicates of images in {other.name}",
            f"{count_noun(len({there for _, there, _, _ in leaks}))} there: {format_names(named, 2)}",
            "look at the pairs in the JSON (--json FILE); delete them from one of the two",
            {
                "pairs": [
                    {"here": here, "there": there, "distance": round(float(d), 4), "mirrored": bool(m)}
                    for here, there, d, m in leaks[:_LISTED]
                ]
            },
        )
    if not same and not leaks:
        yield Finding(
            "ok",
            f"nothing shared with {other.name}",
            f"{count_noun(len(other.hashes))} there, by content and appearance",
        )


def _colours(context: DataContext) -> str:
    return f"{context.name} is {'grey' if context.dataset.shape[0] == 1 else 'coloured'}"


def _near_leaks(context: DataContext, other: DataContext, known: set[int]) -> list[tuple[str, str, Any, Any]]:
    """(name here, name there, d, mirrored) of near-duplicates across two sets, nearest first, without ``known``."""
    places = [place for place, item in enumerate(other.rows.tolist()) if item not in known]
    here, there = context.small, other.small[places]
    if here.shape[1] != there.shape[1]:
        here, there = _grey(here), _grey(there)
    sides = (min(here.shape[-2], there.shape[-2]), min(here.shape[-1], there.shape[-1]))
    joined: Tensor = torch.cat([thumbnails(here, sides), thumbnails(there, sides)])
    pairs = near_pairs(joined, context.near, boundary=len(here))
    names = context.names(context.rows[row] for row in pairs.first.tolist())
    other_names = other.names(other.rows[places[row - len(here)]] for row in pairs.second.tolist())
    return list(zip(names, other_names, pairs.distance, pairs.mirrored, strict=True))


def _grey(thumbnails: Tensor) -> Tensor:
    """uint8 (N, 1, h, w): luma (ITU-R BT.601), the same conversion as for data."""
    if thumbnails.shape[1] == 1:
        return thumbnails
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (thumbnails * weights).sum(1, keepdim=True).round().to(torch.uint8)


def _shared(hashes: Hashes, other: Hashes) -> list[int]:
    known = {item.tobytes() for item in hashes}
    return [row for row, item in enumerate(other) if item.tobytes() in known]


def _exact_groups(context: DataContext) -> list[list[int]]:
    """Indices of items of equal content, largest group first."""
    items = as_items(context.hashes)
    _, kind, times = np.unique(items, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(times[kind] > 1)
    order = repeated[np.argsort(kind[repeated], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(kind[order])) + 1) if len(order) else []
    return sorted((group.tolist() for group in groups), key=lambda group: (-len(group), group))


def _rows_of(pairs: Any) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def _named_pairs(context: DataContext, other: DataContext, pairs: Any) -> list[tuple[str, str, Any, Any]]:
    first, second = context.names(pairs.first[:_LISTED].tolist()), other.names(pairs.second[:_LISTED].tolist())
    return list(zip(first, second, pairs.distance[:_LISTED], pairs.mirrored[:_LISTED], strict=True))


def _with_classes(context: DataContext, rows: Sequence[int]) -> str:
    numbers, classes = context.labels, ("no class", *context.class_names)
    assert numbers is not None
    return " = ".join(
        f"{name} [{classes[numbers[row] + 1]}]" for name, row in zip(context.names(rows), rows, strict=True)
    )
