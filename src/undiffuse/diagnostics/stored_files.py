"""Checks of the files of a set: unreadable files, skipped files, image modes and sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from undiffuse.data.readers.decoding.image import FRAMES, default_side
from undiffuse.data.sources.layout.ignored_items import LEFT_OUT, PASSED_OVER
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.survey import Survey, kinds
from undiffuse.errors import UsageError
from undiffuse.wording import count_noun, format_names

#: Treatment of each kind of file, by Pillow's mode, with the key that changes it.
_TREATED = {
    "alpha": ("transparency", "composited on data.background, 255 (white) by default: set it, as in data.background=0"),
    "palette": ("a palette", "read as RGB; nothing to do"),
    "sixteen": ("16 bits per value", "divided by 257 to 8 bits; nothing to do unless the finer levels matter"),
    "float": ("floating-point values", "read as 0 (black) to 1 (white): check that this is intended"),
    "cmyk": ("CMYK (for print)", "without a colour profile their colours shift: convert such files to sRGB"),
    "lab": ("LAB colours", "converted to sRGB; nothing to do"),
    "bilevel": ("1 bit per pixel", "read as black and white; nothing to do"),
}
#: Training sizes, largest first; images below the last are too small for the networks of the recipes.
_REACHED = (256, 128, 96, 64, 48, 32, 28, 16, 8)
#: Provenance keys about items that are not read, and the titles of their findings.
_LEFT_OUT = {
    "splits": "parts of the set",
    "masks": "images and masks",
    LEFT_OUT: "files left out",
    PASSED_OVER: "other files",
    "classes_joined": "classes whose names look the same",
}


def broken(context: DataContext) -> Iterable[Finding]:
    """Files that cannot be read, each with its reason."""
    survey = None
    try:
        survey = context.survey  # raises for a folder without images
        context.dataset  # noqa: B018 (read here for the first time)
    except UsageError as error:
        yield Finding("problem", "the data cannot be read", str(error), "fix that first: little else can be checked")
    if survey is None:
        if "dataset" not in vars(context):
            return
        if left_out := context.dataset.provenance.get("skipped"):
            advice = "fetch them again or delete them; training skips them with data.on_error=skip"
            yield Finding("problem", "broken files", left_out, advice)
        return
    if not survey.broken:
        yield Finding("ok", "all files can be read", f"{count_noun(len(survey.entries))} decoded")
    else:
        named = [f"{name} ({reason})" for name, reason in survey.broken.items()]
        total = len(survey.entries) + len(survey.broken)
        yield Finding(
            "problem",
            "broken files",
            f"{len(named)} of {count_noun(total, 'file')} cannot be read: {format_names(named)}",
            "fetch them again or delete them; training skips them with data.on_error=skip",
            {"files": survey.broken},
        )
    if not survey.broken and (skipped := vars(context)["dataset"].provenance.get("skipped")):
        advice = "fix them; training skips them with data.on_error=skip"
        yield Finding("problem", "left out by the reader", skipped, advice)


def left_out(context: DataContext) -> Iterable[Finding]:
    """Content of the data that is not read: test splits, masks, unsupported image formats, other files."""
    if "dataset" not in vars(context):
        return
    about = context.dataset.provenance
    for key, title in _LEFT_OUT.items():
        if key in about:
            yield Finding("note", title, about[key], "nothing to do if that is intended", {key: about[key]})


def incomplete(context: DataContext) -> Iterable[Finding]:
    """Items without a label that other items have: examined here, but not used for training."""
    total = len(context.dataset)
    for key, names in context.lacking.items():
        yield Finding(
            "problem",
            f"missing {key}",
            f"{len(names):,} of {count_noun(total)} have none, though others have: "
            f"{format_names(map(context.short, names))}; training raises an error for this set",
            f"add them; train on all items without any by data.{key}=none, or skip these by data.on_error=skip",
            {"key": key, "items": list(map(context.short, names[:1000])), "count": len(names), "of": total},
        )


def modes(context: DataContext) -> Iterable[Finding]:
    """Modes of the stored files, and how they are converted."""
    survey = context.survey
    if survey is None:
        return
    found: dict[str, list[str]] = {}
    for entry in survey.entries:
        for kind in kinds(entry.mode):
            found.setdefault(kind, []).append(entry.name)
    for kind, names in found.items():
        what, advice = _TREATED[kind]
        yield _stored(what, names, len(survey.entries), advice, kind)
    turned = [entry.name for entry in survey.entries if entry.turned]
    if turned:
        advice = "rotated upright according to EXIF; nothing to do"
        yield _stored("an EXIF orientation", turned, len(survey.entries), advice, "turned")
    moving = [entry.name for entry in survey.entries if FRAMES in entry.notes]
    if moving:
        advice = "only the first frame is read; save the others as files to train on them"
        yield _stored("several frames", moving, len(survey.entries), advice, "frames")
    yield from _decoding_notes(survey)


def _decoding_notes(survey: Survey) -> Iterator[Finding]:
    """The other notes of the decoder."""
    files: dict[str, list[str]] = {}
    for entry in survey.entries:
        for note in entry.notes:
            if note != FRAMES:
                files.setdefault(note, []).append(entry.name)
    for note, names in sorted(files.items()):
        evidence = f"{len(names):,} of {count_noun(len(survey.entries))}: {format_names(names)}"
        details = {"kind": "decoding", "count": len(names), "files": names[:1000]}
        yield Finding("note", f"images {note}", evidence, "nothing to do, if they look right", details)


def _stored(what: str, names: list[str], total: int, advice: str, kind: str) -> Finding:
    details = {"kind": kind, "count": len(names), "files": names[:1000]}
    evidence = f"{len(names):,} of {count_noun(total)}: {format_names(names)}"
    return Finding("note", f"files with {what}", evidence, advice, details)


def sizes(context: DataContext) -> Iterable[Finding]:
    """Sizes of the original images, and the training size."""
    survey = context.survey
    if survey is None or not survey.entries:
        shape = "x".join(map(str, context.dataset.shape))
        yield Finding(
            "ok", "one size", f"{count_noun(len(context.dataset), 'item')} of {shape}", details={"shape": shape}
        )
        return
    counts = Counter((entry.height, entry.width) for entry in survey.entries)
    sides = sorted(min(size) for size in counts.elements())
    not_square = sum(count for (height, width), count in counts.items() if height != width)
    details = {
        "sizes": {f"{height}x{width}": count for (height, width), count in counts.most_common(20)},
        "shorter_side": {"smallest": sides[0], "median": sides[len(sides) // 2], "largest": sides[-1]},
        "not_square": not_square,
        "reaching": {str(side): sum(s >= side for s in sides) for side in (28, 32, 48, 64, 96, 128, 256)},
    }
    if len(counts) == 1:
        ((height, width),) = counts
        yield Finding("ok", "one size", f"{count_noun(len(sides))} of {height}x{width}", details=details)
    else:
        yield _mixed_sizes(survey, sides, details)
    if not_square:
        longest = max(max(size) / min(size) for size in counts)
        yield Finding(
            "note",
            "images that are not square",
            f"{not_square:,} of {count_noun(len(sides))}, with aspect ratios up to {longest:.2g}",
            "data.fit=crop crops the centre (default), data.fit=letterbox keeps the whole image between bars",
            {"not_square": not_square},
        )


def _mixed_sizes(survey: Survey, sides: list[int], details: dict[str, object]) -> Finding:
    side = default_side(np.array(sides))
    small = [entry.name for entry in survey.entries if min(entry.height, entry.width) < side]
    reach = next((size for size in _REACHED if sides[0] >= size), None)
    advice = f"set the size: all images reach data.size={reach}; or remove the small ones"
    return Finding(
        "warning" if len(small) > 0.05 * len(sides) else "note",
        "images of different sizes",
        f"shorter sides from {sides[0]} to {sides[-1]}, median {sides[len(sides) // 2]}; at the default size={side}, "
        f"{count_noun(len(small))} {'is' if len(small) == 1 else 'are'} enlarged and so blurred"
        f"{': ' + format_names(small) if small else ''}",
        advice if reach is not None else "remove the small ones: the size that all images reach is too small to train",
        details | {"chosen": side, "enlarged": len(small), "enlarged_files": small[:1000]},
    )
