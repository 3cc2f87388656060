"""Findings about pictures that come more than once, in one set or across two, and about labels that contradict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.dataset import Hashes
from undiffuse.doctor.duplicates import groups_of, near_pairs, thumbnails
from undiffuse.doctor.findings import Finding, percent
from undiffuse.doctor.pictures import DataSubject, as_items
from undiffuse.wording import counted, some

_NONE = -1  # the label of an item without one
_LISTED = 500  # groups or pairs in the details
_MANY = 0.01  # share of a set from which duplicates are worth a warning


def exact(subject: DataSubject) -> Iterable[Finding]:
    """Items of equal content, whatever their files are called."""
    groups = _exact_groups(subject)
    extra = sum(len(group) - 1 for group in groups)
    if not groups:
        yield Finding("ok", "no exact duplicates", f"all {counted(len(subject.hashes), 'item')} by hash of content")
        return
    yield Finding(
        "warning" if extra > _MANY * len(subject.hashes) else "note",
        "exact duplicates",
        f"{counted(extra, 'item')} ({percent(extra / len(subject.hashes))}) repeat another, in "
        f"{counted(len(groups), 'group')}; the largest: {some(subject.names(groups[0]))}",
        "keep one of each group: what comes often is memorised first",
        {"groups": [subject.names(group) for group in groups[:_LISTED]], "num_groups": len(groups), "extra": extra},
    )


def near(subject: DataSubject) -> Iterable[Finding]:
    """Pictures that are all but the same."""
    pairs = subject.pairs
    groups = groups_of(pairs.first.tolist(), pairs.second.tolist())
    extra = sum(len(group) - 1 for group in groups)
    protocol = f"d <= {subject.near:g} on thumbnails"
    if not groups:
        yield Finding("ok", "no near-duplicates", f"{counted(len(subject.rows))}, all pairs, {protocol}")
        return
    closest = [
        {"first": a, "second": b, "distance": round(float(d), 4), "mirrored": bool(m)}
        for a, b, d, m in _named_pairs(subject, subject, pairs)
    ]
    mirrored = int(pairs.mirrored.sum())
    yield Finding(
        "warning" if extra > _MANY * len(subject.rows) else "note",
        "near-duplicates",
        f"{counted(extra)} ({percent(extra / len(subject.rows))}) are all but the same as another ({protocol}), in "
        f"{counted(len(groups), 'group')}, {mirrored} of {counted(len(pairs), 'pair')} mirrored; the nearest: "
        f"{closest[0]['first']} and {closest[0]['second']}",
        "look at the pairs in the JSON (--json FILE); keep one of each group, or lower --near if they differ",
        {
            "groups": [subject.names(group) for group in groups[:_LISTED]],
            "num_groups": len(groups),
            "extra": extra,
            "pairs": closest,
            "near": subject.near,
            "signature_limit": pairs.limit,
        },
    )


def labels(subject: DataSubject) -> Iterable[Finding]:
    """The same picture in two classes."""
    numbers, names = subject.labels, subject.class_names
    if numbers is None:
        return
    groups = _exact_groups(subject)
    torn = [_with_classes(subject, group) for group in groups if len({numbers[row] for row in group} - {_NONE}) > 1]
    if torn:
        yield Finding(
            "problem",
            "one picture in several classes",
            f"{counted(len(torn), 'group')} of equal pictures: {some(torn)}",
            "decide on one class and delete the others",
            {"groups": torn[:_LISTED]},
        )
    if not subject.has_pictures:
        return
    unlike = [
        _with_classes(subject, pair)
        for pair in _rows_of(subject.pairs)
        if len({numbers[row] for row in pair} - {_NONE}) > 1
    ]
    if unlike:
        yield Finding(
            "warning",
            "nearly the same picture in several classes",
            f"{counted(len(unlike), 'pair')}: {some(unlike)}",
            "look at them; one of the two labels is probably wrong",
            {"pairs": unlike[:_LISTED]},
        )
    if not torn and not unlike:
        yield Finding("ok", "no contradicting labels", counted(len(names), "class"))


def split(subject: DataSubject) -> Iterable[Finding]:
    """Pictures that the project's own split puts on both sides; exact duplicates never are."""
    held_out = subject.held_out
    num_held_out = int(held_out.sum())
    leaked = {a if held_out[a] else b for a, b in _rows_of(subject.pairs) if held_out[a] != held_out[b]}
    if not leaked:
        text = f"no near-duplicate of the {counted(num_held_out)} held out is trained on"
        yield Finding("ok", "no leak between training and held-out part", text)
        return
    named = subject.names(sorted(leaked))
    share = len(leaked) / max(num_held_out, 1)
    yield Finding(
        "warning" if share > _MANY else "note",
        "near-duplicates across the split",
        f"{len(leaked)} of {num_held_out:,} held-out pictures ({percent(share)}) are all but the same as a training "
        f"picture: {some(named)}",
        "delete the near-duplicates: losses and copying on held-out pictures come out too well",
        {"held_out": named[:_LISTED], "share": share},
    )


def against(subject: DataSubject) -> Iterable[Finding]:
    """Pictures that two sets share."""
    other = subject.against
    if other is None:
        return
    same = _shared(subject.hashes, other.hashes)
    if same:
        yield Finding(
            "problem",
            f"pictures shared with {other.name}",
            f"{len(same)} of the {len(other.hashes):,} there ({percent(len(same) / len(other.hashes))}) are in "
            f"{subject.name} too, by content: {some(other.names(same))}",
            "delete them from one of the two: what was trained on cannot test",
            {"items": other.names(same)[:_LISTED], "count": len(same)},
        )
    if subject.dataset.shape[0] != other.dataset.shape[0]:
        yield Finding(
            "note",
            f"one set is grey, {other.name} is compared in grey",
            f"{_colours(subject)} and {_colours(other)}; near-duplicates are looked for by brightness alone",
        )
    leaks = _near_leaks(subject, other, known=set(same))
    if leaks:
        told = [f"{there} is all but {here}" for here, there, _, _ in leaks]
        yield Finding(
            "warning",
            f"near-duplicates of pictures in {other.name}",
            f"{counted(len({there for _, there, _, _ in leaks}))} there: {some(told, 2)}",
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
            "ok", f"nothing shared with {other.name}", f"{counted(len(other.hashes))} there, by content and look"
        )


def _colours(subject: DataSubject) -> str:
    return f"{subject.name} is {'grey' if subject.dataset.shape[0] == 1 else 'coloured'}"


def _near_leaks(subject: DataSubject, other: DataSubject, known: set[int]) -> list[tuple[str, str, Any, Any]]:
    """(name here, name there, d, mirrored) of near-duplicates across two sets, the nearest first; ``known`` apart."""
    places = [place for place, item in enumerate(other.rows.tolist()) if item not in known]
    here, there = subject.small, other.small[places]
    if here.shape[1] != there.shape[1]:
        here, there = _grey(here), _grey(there)
    sides = (min(here.shape[-2], there.shape[-2]), min(here.shape[-1], there.shape[-1]))
    joined: Tensor = torch.cat([thumbnails(here, sides), thumbnails(there, sides)])
    pairs = near_pairs(joined, subject.near, boundary=len(here))
    names = subject.names(subject.rows[row] for row in pairs.first.tolist())
    theirs = other.names(other.rows[places[row - len(here)]] for row in pairs.second.tolist())
    return list(zip(names, theirs, pairs.distance, pairs.mirrored, strict=True))


def _grey(thumbnails: Tensor) -> Tensor:
    """uint8 (N, 1, h, w): their brightness, as data is turned grey (ITU-R 601)."""
    if thumbnails.shape[1] == 1:
        return thumbnails
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (thumbnails * weights).sum(1, keepdim=True).round().to(torch.uint8)


def _shared(mine: Hashes, theirs: Hashes) -> list[int]:
    known = {item.tobytes() for item in mine}
    return [row for row, item in enumerate(theirs) if item.tobytes() in known]


def _exact_groups(subject: DataSubject) -> list[list[int]]:
    """Numbers of all items of equal content, the largest group first."""
    items = as_items(subject.hashes)
    _, kind, times = np.unique(items, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(times[kind] > 1)
    order = repeated[np.argsort(kind[repeated], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(kind[order])) + 1) if len(order) else []
    return sorted((group.tolist() for group in groups), key=lambda group: (-len(group), group))


def _rows_of(pairs: Any) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def _named_pairs(subject: DataSubject, other: DataSubject, pairs: Any) -> list[tuple[str, str, Any, Any]]:
    first, second = subject.names(pairs.first[:_LISTED].tolist()), other.names(pairs.second[:_LISTED].tolist())
    return list(zip(first, second, pairs.distance[:_LISTED], pairs.mirrored[:_LISTED], strict=True))


def _with_classes(subject: DataSubject, rows: Sequence[int]) -> str:
    numbers, classes = subject.labels, ("no class", *subject.class_names)
    assert numbers is not None
    return " = ".join(
        f"{name} [{classes[numbers[row] + 1]}]" for name, row in zip(subject.names(rows), rows, strict=True)
    )
