"""Images whose values are odd: plain, faint, inverted, clipped, between bars, grey stored as colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.wording import counted, format_names

_LISTED = 1000  # images named in the details
_FAINT = 8.0  # grey levels of standard deviation
_CLIPPED = 0.1  # of an image's values at 0 or 255
_SMALL = 32  # pixels: smaller images are icons, digits or clothes, not photographs
_BARS = 0.05  # of its height or width


def plain(context: DataContext) -> Iterable[Finding]:
    """Images of one value, and such as can hardly be seen."""
    values = context.values
    constant = values.low == values.high
    if bool(constant.any()):
        named = _names(context, constant)
        black, white = int((values.high == 0).sum()), int((values.low == 255).sum())
        yield Finding(
            "warning",
            "images of a single value",
            f"{counted(len(named))}, {black} of them all black and {white} all white: {format_names(named)}",
            "delete them: a model learns to draw them as often as they come",
            _listed(named, black=black, white=white),
        )
    faint = (values.contrast < _FAINT) & ~constant
    if bool(faint.any()):
        named = _names(context, faint)
        many = len(named) > 0.01 * len(faint)
        yield Finding(
            "warning" if many else "note",
            "images of little contrast",
            f"{counted(len(named))} with a standard deviation below {_FAINT:.0f} of 255: {format_names(named)}",
            "look at them; delete what shows nothing",
            _listed(named),
        )


def value_range(context: DataContext) -> Iterable[Finding]:
    """Whether the set as a whole uses the range 0..255, and which way round."""
    values = context.values
    low, high = int(values.low.min()), int(values.high.max())
    details = {"low": low, "high": high, "mean": float(values.mean.mean()), "contrast": float(values.contrast.mean())}
    if high <= 1:
        yield Finding(
            "problem",
            "values of 0 and 1 alone",
            f"no value of {counted(len(values.low))} is above {high}; expected 0..255",
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
    """Photographs whose darkest or lightest parts are cut off; drawings on a plain ground are none."""
    values = context.values
    photographs = values.end_border < 0.3
    if float(photographs.float().mean()) < 0.5 or min(context.dataset.shape[1:]) < _SMALL:
        return
    clipped_ones = photographs & ((values.black > _CLIPPED) | (values.white > _CLIPPED))
    share = float(clipped_ones.float().mean())
    if share > 0.02:
        named = _names(context, clipped_ones)
        yield Finding(
            "note",
            "clipped images",
            f"{counted(len(named))} ({percent(share)}) have over {percent(_CLIPPED)} of their values at 0 or 255: "
            f"{format_names(named)}",
            "expect the same of samples; if it comes from processing, go back to the originals",
            _listed(named, share=share),
        )


def borders(context: DataContext) -> Iterable[Finding]:
    """Bars of one colour on two opposite sides of an image that fills the rest."""
    barred = context.values.bars > _BARS
    if not bool(barred.any()) or min(context.dataset.shape[1:]) < _SMALL:
        return
    named, share = _names(context, barred), float(barred.float().mean())
    transparent = context.survey is not None and context.survey.transparent > 0.5
    yield Finding(
        "warning" if share > 0.01 and not transparent else "note",
        "bars around images",
        f"{counted(len(named))} ({percent(share)}) lie between bars of one colour"
        f"{', perhaps the ground under their transparency' if transparent else ''}: {format_names(named)}",
        "remove them if they are no part of it: a model draws them as often as they come",
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
            f"all {counted(len(values.grey))} have three equal channels",
            "train with data.channels=1: a third of the values, and no colour casts in samples",
            details,
        )
    elif share > 0:
        named = _names(context, values.grey)
        text = f"{counted(len(named))} ({percent(share)}) have three equal channels: {format_names(named)}"
        yield Finding("note", "grey images among coloured ones", text, "expect as many grey samples", details)
    else:
        yield Finding("ok", "coloured images", "3 channels", details=details)


def _listed(named: list[str], **values: float) -> dict[str, Any]:
    """For the JSON: the first of the images, how many there are, and what else is known of them."""
    return {"items": named[:_LISTED], "count": len(named), **values}


def _names(context: DataContext, mask: Tensor) -> list[str]:
    return context.names(context.rows[place] for place in mask.nonzero()[:, 0].tolist())
