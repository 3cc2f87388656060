"""Findings about pictures that come more than once, in one set or across two, and about labels that contradict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from undiffuse.doctor.duplicates import groups_of, near_pairs, thumbnails
from undiffuse.doctor.findings import Finding, counted, percent, some
from undiffuse.doctor.pictures import DataSubject
from undiffuse.errors import UsageError

_LISTED = 500  # groups or pairs in the details
_MANY = 0.01  # share of a set from which duplicates are worth a warning


def exact(subject: DataSubject) -> Iterable[Finding]:
    """Items of equal content, whatever their files are called."""
    groups = _exact_groups(subject)
    extra = sum(len(group) - 1 for group in groups)
    if not groups:
        yield Finding("ok", "no exact duplicates", f"{counted(len(subject.hashes), 'item')} by hash of content")
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
        yield Finding("ok", "no near-duplicates", f"{counted(len(subject.hashes))}, all pairs, {protocol}")
        return
    closest = [
        {"first": a, "second": b, "distance": round(float(d), 4), "mirrored": bool(m)}
        for a, b, d, m in _named_pairs(subject, subject, pairs)
    ]
    mirrored = int(pairs.mirrored.sum())
    yield Finding(
        "warning" if extra > _MANY * len(subject.hashes) else "note",
        "near-duplicates",
        f"{counted(extra)} ({percent(extra / len(subject.hashes))}) are all but the same as another ({protocol}), in "
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
    numbers, names = subject.labels, subject.dataset.class_names
    if numbers is None:
        return
    groups = _exact_groups(subject)
    torn = [_with_classes(subject, group) for group in groups if len({numbers[row] for row in group}) > 1]
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
    unlike = [_with_classes(subject, pair) for pair in _rows_of(subject.pairs) if numbers[pair[0]] != numbers[pair[1]]]
    if unlike:
        yield Finding(
            "warning",
            "nearly the same picture in several classes",
            f"{counted(len(unlike), 'pair')}: {some(unlike)}",
            "look at them; one of the two labels is probably wrong",
            {"pairs": unlike[:_LISTED]},
        )
    if not torn and not unlike:
        yield Finding("ok", "no contradicting labels", f"{counted(len(names), 'class').replace('classs', 'classes')}")


def split(subject: DataSubject) -> Iterable[Finding]:
    """Pictures that the project's own split puts on both sides; exact duplicates never are."""
    held_out = subject.held_out
    num_held_out = sum(held_out)
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
    known = set(same)
    rest = [row for row in range(len(other.hashes)) if row not in known]
    leaks = _near_leaks(subject, other, rest)
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
            "ok", f"nothing shared with {other.name}", f"{len(other.hashes):,} pictures there, by content and look"
        )


def _near_leaks(subject: DataSubject, other: DataSubject, rest: list[int]) -> list[tuple[str, str, Any, Any]]:
    """(name here, name there, d, mirrored) of near-duplicates across two sets, the nearest first."""
    here, there = subject.small, other.small[rest]
    if here.shape[1] != there.shape[1]:
        raise UsageError(
            f"{subject.name} has {here.shape[1]} channels and {other.name} {there.shape[1]}: compared by content alone"
        )
    sides = (min(here.shape[-2], there.shape[-2]), min(here.shape[-1], there.shape[-1]))
    joined: Tensor = torch.cat([thumbnails(here, sides), thumbnails(there, sides)])
    pairs = near_pairs(joined, subject.near, boundary=len(here))
    names = subject.names(pairs.first.tolist())
    theirs = other.names([rest[row - len(here)] for row in pairs.second.tolist()])
    return list(zip(names, theirs, pairs.distance, pairs.mirrored, strict=True))


def _shared(mine: Sequence[bytes], theirs: Sequence[bytes]) -> list[int]:
    known = set(mine)
    return [row for row, item in enumerate(theirs) if item in known]


def _exact_groups(subject: DataSubject) -> list[list[int]]:
    rows: dict[bytes, list[int]] = {}
    for row, item in enumerate(subject.hashes):
        rows.setdefault(item, []).append(row)
    return sorted((group for group in rows.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _rows_of(pairs: Any) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def _named_pairs(subject: DataSubject, other: DataSubject, pairs: Any) -> list[tuple[str, str, Any, Any]]:
    first, second = subject.names(pairs.first[:_LISTED].tolist()), other.names(pairs.second[:_LISTED].tolist())
    return list(zip(first, second, pairs.distance[:_LISTED], pairs.mirrored[:_LISTED], strict=True))


def _with_classes(subject: DataSubject, rows: Sequence[int]) -> str:
    numbers, names = subject.labels or [], subject.dataset.class_names
    return " = ".join(
        f"{name} [{names[numbers[row]]}]" for name, row in zip(subject.names(list(rows)), rows, strict=True)
    )
