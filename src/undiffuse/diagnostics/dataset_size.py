"""Checks of the number of items: in total, per class, and for validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from undiffuse.diagnostics.data_context import MOST, DataContext
from undiffuse.diagnostics.findings import Finding
from undiffuse.wording import count_noun, format_names

#: Below the first limit the recipes have been observed to memorise their images; below the second it may happen.
FEW, SOME = 1_000, 10_000
_FEW_OF_A_CLASS = 20
_UNEVEN = 5.0


def amount(context: DataContext) -> Iterable[Finding]:
    """Whether there are enough images for a model to generalise from rather than to memorise."""
    total, held_out = len(context.dataset), int(context.held_out.sum())
    details = {"items": total, "held_out": held_out}
    if total > MOST:
        text = (
            f"the pixels of {MOST:,} of {total:,}, evenly spaced; exact duplicates were searched in all, "
            "near-duplicates and unusual values only among these"
        )
        yield Finding("note", "not all were examined", text, "examine parts of the set separately", details)
    if not context.has_images:
        yield Finding("ok", "amount", count_noun(total, "point"), details=details)
        return
    if total < FEW:
        yield Finding(
            "warning",
            "very few images",
            f"{count_noun(total)}; with fewer than {FEW:,} a model soon memorises them",
            "gather more, or train for few num_images with augment=document (augment.flip=0 where mirrored ones would "
            "be wrong), and look for copies with: undiffuse doctor RUN",
            details,
        )
    elif total < SOME:
        yield Finding(
            "note",
            "rather few images",
            f"{count_noun(total)}; with fewer than {SOME:,} a large model trained for long repeats some",
            "look for copies after training with: undiffuse doctor RUN",
            details,
        )
    else:
        yield Finding("ok", "amount", count_noun(total), details=details)
    if held_out < 100 and context.config.validation_fraction > 0:
        yield Finding(
            "note",
            "few held-out images",
            f"{held_out} at data.validation_fraction={context.config.validation_fraction:g}; copying and overfitting "
            "are measured on them",
            "raise data.validation_fraction",
            details,
        )


def classes(context: DataContext) -> Iterable[Finding]:
    """Empty, very small and unbalanced classes."""
    counts = context.class_counts
    if not counts:
        yield Finding("ok", "no classes", "images without labels")
        return
    present = [count for count in counts.values() if count]
    details = {"counts": counts, "ratio": max(present) / min(present)}
    text = f"{count_noun(len(counts), 'class')} of {min(present):,} to {max(present):,} items"
    found = [*_small(counts, details), *_uneven(counts, details)]
    yield from found or [Finding("ok", "classes are even", text, details=details)]


def _small(counts: Mapping[str, int], details: dict[str, Any]) -> Iterable[Finding]:
    """Empty and very small classes."""
    empty = [name for name, count in counts.items() if count == 0]
    tiny = [f"{name} ({count})" for name, count in counts.items() if 0 < count < _FEW_OF_A_CLASS]
    if empty:
        yield Finding(
            "warning",
            "empty classes",
            f"{len(empty)} of {len(counts)}: {format_names(empty)}",
            "fill or remove them: a model could be conditioned on a class that it never saw",
            details,
        )
    if tiny:
        yield Finding(
            "warning",
            "tiny classes",
            f"{len(tiny)} of {len(counts)} have fewer than {_FEW_OF_A_CLASS} images: {format_names(tiny)}",
            "gather more, join them, or train without classes (system.class_conditional=false)",
            details,
        )


def _uneven(counts: Mapping[str, int], details: dict[str, Any]) -> Iterable[Finding]:
    """The largest class compared with the smallest non-empty one."""
    present = [name for name, count in counts.items() if count]
    largest, smallest = max(present, key=counts.__getitem__), min(present, key=counts.__getitem__)
    many, few = counts[largest], counts[smallest]
    if many / few > _UNEVEN:
        yield Finding(
            "warning" if many / few > 2 * _UNEVEN else "note",
            "uneven classes",
            f"{largest} has {many:,} images and {smallest} {few:,}, {many / few:.1f} times fewer",
            "expect worse samples of the small ones; draw them by name with --class",
            details,
        )
