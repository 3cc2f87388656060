"""Checks for unusual pixel values: constant, low contrast, inverted, clipped, letterboxed, grey stored as colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.wording import count_noun, format_names

_LISTED = 1000  # images named in the details
_FAINT = 8.0  # standard deviation in grey levels
_CLIPPED = 0.1  # fraction of an image's values at 0 or 255
_SMALL = 32  # pixels: smaller images are icons, digits or clothes, not photographs
_BARS = 0.05  # fraction of the height or width


def plain(context: DataContext) -> Iterable[Finding]:
    """Constant images and images of very low contrast."""
    values = context.values
    constant = values.low == values.high
    if bool(constant.any()):
        named = _names(context, constant)
        black, white = int((values.high == 0).sum()), int((values.low == 255).sum())
        yield Finding(
            "warning",
            "images of a single value",
            f"{count_noun(len(named))}, {black} of them all black and {white} all white: {format_names(named)}",
            "delete them: the model learns to generate them with the same frequency",
            _listed(named, black=black, white=white),
        )
    faint = (values.contrast < _FAINT) & ~constant
    if bool(faint.any()):
        named = _names(context, faint)
        many = len(named) > 0.01 * len(faint)
        yield Finding(
            "warning" if many else "note",
            "images of little contrast",
            f"{count_noun(len(named))} with a standard deviation below {_FAINT:.0f} of 255: {format_names(named)}",
            "look at them; delete those that show nothing",
            _listed(named),
        )


def value_range(context: DataContext) -> Iterable[Finding]:
    """Whether the set uses the whole range 0..255, and whether it is inverted."""
    values = context.values
    low, high = int(values.low.min()), int(values.high.max())
    details = {"low": low, "high": high, "mean": float(values.mean.mean()), "contrast": float(values.contrast.mean())}
    if high <= 1:
        yield Finding(
            "problem",
            "only values of 0 and 1",
            f"no value of {count_noun(len(values.low))} is above {high}; expected 0..255",
            "multiply them by 255 and save the files again",
            details,
        )
    elif high - low < 200:
        yield Finding(
            "warning",
            "range of values not used",
            f"values run from {low} to {high} of 0..255",
            "stretch them to 0..255: the noise levels of training suit data of that range",
            details,
        )
    else:
        text = f"values from {low} to {high}, mean {details['mean']:.0f}, contrast {details['contrast']:.0f}"
        yield Finding("ok", "range of values", text, details=details)
    inverted = float((values.plain_border & (values.border > 200)).float().mean())
    if context.dataset.shape[0] == 1 and inverted > 0.9:
        yield Finding(
            "note",
            "dark on light",
            f"{percent(inverted)} of the images have a light border of one value; the classifiers behind "
            "--features handwriting and fashion expect light on dark",
            "measure with --features pixels, or invert the files",
            {"share": inverted},
        )


def clipped(context: DataContext) -> Iterable[Finding]:
    """Clipped shadows or highlights of photographs; drawings on a plain background are ignored."""
    values = context.values
    photographs = values.end_border < 0.3
    if float(photographs.float().mean()) < 0.5 or min(context.dataset.shape[1:]) < _SMALL:
        return
    is_clipped = photographs & ((values.black > _CLIPPED) | (values.white > _CLIPPED))
    share = float(is_clipped.float().mean())
    if share > 0.02:
        named = _names(context, is_clipped)
        yield Finding(
            "note",
            "clipped images",
            f"{count_noun(len(named))} ({percent(share)}) have over {percent(_CLIPPED)} of their values at 0 or 255: "
            f"{format_names(named)}",
            "expect the same of samples; if it comes from processing, go back to the originals",
            _listed(named, share=share),
        )


def borders(context: DataContext) -> Iterable[Finding]:
    """Images with uniform bars on two opposite sides (letterboxed)."""
    has_bars = context.values.bars > _BARS
    if not bool(has_bars.any()) or min(context.dataset.shape[1:]) < _SMALL:
        return
    named, share = _names(context, has_bars), float(has_bars.float().mean())
    transparent = context.survey is not None and context.survey.transparent > 0.5
    yield Finding(
        "warning" if share > 0.01 and not transparent else "note",
        "bars around images",
        f"{count_noun(len(named))} ({percent(share)}) have bars of one colour"
        f"{', perhaps the background of transparent pixels' if transparent else ''}: {format_names(named)}",
        "crop them unless they belong to the images: the model learns to generate them with the same frequency",
        _listed(named, share=share),
    )


def colour(context: DataContext) -> Iterable[Finding]:
    """Grey images in a set of three channels."""
    values, channels = context.values, context.dataset.shape[0]
    if channels == 1:
        yield Finding("ok", "grey images", "1 channel")
        return
    share = float(values.grey.float().mean())
    details = {"channels": channels, "grey_share": share, "grey": int(values.grey.sum())}
    if share == 1:
        yield Finding(
            "warning",
            "grey images stored as colour",
            f"all {count_noun(len(values.grey))} have three equal channels",
            "train with data.channels=1: a third of the values, and no colour casts in samples",
            details,
        )
    elif share > 0:
        named = _names(context, values.grey)
        text = f"{count_noun(len(named))} ({percent(share)}) have three equal channels: {format_names(named)}"
        yield Finding("note", "grey images among coloured ones", text, "expect as many grey samples", details)
    else:
        yield Finding("ok", "coloured images", "3 channels", details=details)


def _listed(named: list[str], **values: float) -> dict[str, Any]:
    """Details for the JSON: the first images, their number, and further values."""
    return {"items": named[:_LISTED], "count": len(named), **values}


def _names(context: DataContext, mask: Tensor) -> list[str]:
    return context.names(context.rows[place] for place in mask.nonzero()[:, 0].tolist())
