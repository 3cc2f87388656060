"""How many there are: of all, of each class, and for validation."""

from __future__ import annotations

from collections.abc import Iterable

from undiffuse.data.audit import class_counts
from undiffuse.doctor.findings import Finding, counted, some
from undiffuse.doctor.pictures import MOST, DataSubject

#: Below the first, recipes of this project have been seen to repeat their pictures; below the second, watch for it.
FEW, SOME = 1_000, 10_000
_FEW_OF_A_CLASS = 20
_UNEVEN = 5.0


def amount(subject: DataSubject) -> Iterable[Finding]:
    """Whether there are enough pictures for a model to learn from rather than by heart."""
    total, held_out = len(subject.dataset), sum(subject.held_out)
    details = {"items": total, "held_out": held_out}
    if total > MOST:
        text = f"{MOST:,} of {total:,}, evenly spread; what two of the others share is not seen"
        yield Finding("note", "not all were looked at", text, "examine parts of the set one by one", details)
    if not subject.has_pictures:
        yield Finding("ok", "amount", counted(total, "point"), details=details)
        return
    if total < FEW:
        yield Finding(
            "warning",
            "very few pictures",
            f"{counted(total)}; with fewer than {FEW:,} a model soon knows them by heart and repeats them",
            "gather more, train a small model for few images (num_images), add random_flip=true where pictures may be "
            "mirrored, and look for copies with: undiffuse doctor RUN",
            details,
        )
    elif total < SOME:
        yield Finding(
            "note",
            "rather few pictures",
            f"{counted(total)}; with fewer than {SOME:,} a large model trained for long repeats some",
            "look for copies after training with: undiffuse doctor RUN",
            details,
        )
    else:
        yield Finding("ok", "amount", counted(total), details=details)
    if held_out < 100 and subject.config.validation_fraction > 0:
        yield Finding(
            "note",
            "few held-out pictures",
            f"{held_out} at data.validation_fraction={subject.config.validation_fraction:g}; copying and overfitting "
            "are measured on them",
            "raise data.validation_fraction",
            details,
        )


def classes(subject: DataSubject) -> Iterable[Finding]:
    """Empty classes, tiny ones, uneven ones."""
    counts = class_counts(subject.dataset)
    if not counts:
        yield Finding("ok", "no classes", "pictures without labels")
        return
    empty = [name for name, count in counts.items() if count == 0]
    tiny = [f"{name} ({count})" for name, count in counts.items() if 0 < count < _FEW_OF_A_CLASS]
    present = [count for count in counts.values() if count]
    ratio = max(present) / min(present)
    details = {"counts": counts, "ratio": ratio}
    if empty:
        yield Finding(
            "warning",
            "empty classes",
            f"{len(empty)} of {len(counts)}: {some(empty)}",
            "fill or remove them: a model can be asked for a class that it never saw",
            details,
        )
    if tiny:
        yield Finding(
            "warning",
            "tiny classes",
            f"{len(tiny)} of {len(counts)} have fewer than {_FEW_OF_A_CLASS} pictures: {some(tiny)}",
            "gather more, join them, or train without classes (system.class_conditional=false)",
            details,
        )
    if ratio > _UNEVEN:
        largest, smallest = (
            max(counts, key=counts.__getitem__),
            min((n for n in counts if counts[n]), key=counts.__getitem__),
        )
        yield Finding(
            "warning" if ratio > 2 * _UNEVEN else "note",
            "uneven classes",
            f"{largest} has {counts[largest]:,} pictures and {smallest} {counts[smallest]:,}, {ratio:.1f} times fewer",
            "expect worse samples of the small ones; draw them by name with --class",
            details,
        )
    elif not empty and not tiny:
        text = f"{len(counts)} classes of {min(present):,} to {max(present):,} items"
        yield Finding("ok", "classes are even", text, details=details)
