"""How far images of computed scenes agree with the captions that they were sampled for.

A share over N images is a mean of values in [0, 1], whose variance is at most that of a yes-or-no answer with the same
mean, so the interval of a binomial proportion covers it at least as often as stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.agreement import AGREEMENTS, Agreement, score
from undiffuse.annotators.scenes.reading import FoundThing, read_scene
from undiffuse.annotators.scenes.spec import parse
from undiffuse.annotators.scenes.vocabulary import Vocabulary
from undiffuse.errors import UsageError

__all__ = [
    "Share",
    "agreements",
    "by_groups",
    "read_scene",
    "scores",
    "shares",
    "to_details",
    "wilson_interval",
]

#: Standard deviations of the intervals: 95 %.
_NORMAL = 1.959964
_DIGITS = 6


@dataclass(frozen=True)
class Share:
    """A mean share with its uncertainty.

    Args:
        value: the mean, in [0, 1].
        low, high: 95 % interval.
        num: number of images.
    """

    value: float
    low: float
    high: float
    num: int

    @property
    def error(self) -> float:
        """Binomial standard error."""
        return math.sqrt(self.value * (1 - self.value) / self.num)


def agreements(images: npt.NDArray[np.uint8], captions: Sequence[str], vocabulary: Vocabulary) -> list[Agreement]:
    """Agreement of each image with its caption.

    Args:
        images: (N, 3, size, size) uint8.
        captions: N captions of scenes.
        vocabulary: of the scenes that the model was trained on.

    Raises:
        UsageError: if the numbers differ, a text is not a caption, or the images have another size.
    """
    if len(images) != len(captions):
        raise UsageError(f"{len(images)} images for {len(captions)} captions; give one for each")
    return scores([read_scene(image, vocabulary) for image in images], captions)


def scores(readings: Sequence[Sequence[FoundThing]], captions: Sequence[str]) -> list[Agreement]:
    """Agreement of the things found in each image with its caption.

    Args:
        readings: things found in N images.
        captions: N captions of scenes.

    Raises:
        UsageError: if a text is not a caption.
    """
    specs = {caption: parse(caption) for caption in dict.fromkeys(captions)}
    return [score(specs[caption], found) for found, caption in zip(readings, captions, strict=True)]


def shares(found: Sequence[Agreement]) -> dict[str, Share]:
    """The mean of each share of agreement.

    Args:
        found: agreements of at least one image.
    """
    columns = {name: [getattr(one, name) for one in found] for name in AGREEMENTS}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    return {name: Share(mean, *wilson_interval(mean, len(found)), len(found)) for name, mean in means.items()}


def wilson_interval(share: float, num: int, normal: float = _NORMAL) -> tuple[float, float]:
    """Interval of a binomial proportion.

    Args:
        share: of ``num`` trials, in [0, 1].
        num: number of trials, at least 1.
        normal: half of the width in standard deviations.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    scale = 1 + normal**2 / num
    centre = (share + normal**2 / (2 * num)) / scale
    half = normal / scale * math.sqrt(share * (1 - share) / num + normal**2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def by_groups(found: Sequence[Agreement], captions: Sequence[str]) -> dict[int, dict[str, Share]]:
    """The shares by the number of groups in the caption.

    Args:
        found: agreements of N images.
        captions: N captions.
    """
    counts = [len(parse(caption).groups) for caption in captions]
    return {
        number: shares([one for one, count in zip(found, counts, strict=True) if count == number])
        for number in sorted(set(counts))
    }


def to_details(found: Mapping[str, Share]) -> dict[str, Any]:
    """Shares and intervals as plain values.

    Args:
        found: shares by name.
    """
    return {
        "shares": {name: round(share.value, _DIGITS) for name, share in found.items()},
        "intervals": {name: [round(share.low, _DIGITS), round(share.high, _DIGITS)] for name, share in found.items()},
    }
