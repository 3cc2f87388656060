"""The table of metrics: each number with its significant digits and its protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from undiffuse.models.options import option_rows
from undiffuse.reports.wording import flattened, number

NAMES = {
    "nll": "Negative log-likelihood (ODE)",
    "continuous_bound": "Continuous-time bound",
    "continuous_bound_prior": "– its prior term",
    "continuous_bound_terms": "– its integral",
    "continuous_bound_decoder": "– its decoder term",
    "vlb_random": "Variational bound, random terms",
    "vlb_random_prior": "– its prior term",
    "vlb_random_terms": "– its denoising terms",
    "vlb_random_decoder": "– its decoder term",
    "vlb": "Variational bound",
    "vlb_prior": "– its prior term",
    "vlb_terms": "– its denoising terms",
    "vlb_decoder": "– its decoder term",
    "confident_share": "Confidently classified",
    "class_balance": "Class balance",
    "neighbour_ratio": "Nearest-neighbour ratio",
    "neighbour_ratio_features": "– the same in features",
    "training_gap": "Training against held-out loss",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "fid": "FID",
    "kid": "KID",
    "inception_score": "Inception score",
    "lpips_diversity": "LPIPS between pairs",
    "modes_found": "Modes found",
    "good_samples": "Samples of a mode",
    "mode_kl": "Evenness of the modes, KL",
    "classification_accuracy": "Classification accuracy score",
    "sliced_wasserstein": "Sliced Wasserstein distance",
}
FAMILIES = {"frechet": "Fréchet distance", "kernel": "Kernel distance", "score": "Class score"}  # over given features
ALWAYS_CAPITAL = ("Fréchet", "FID", "KID", "LPIPS")
KEY_ENTRIES = {  # entries of a protocol that are shown in its one-line summary, and their format
    "extractor": "{} features",
    "space": "{}",
    "distance": "{}",
    "images": "{} images",
    "split": "{}",
    "terms": "{} terms",
    "variance": "variance {}",
    "samples.num": "{} samples",
    **{f"samples.{row.key}": row.option.template for row in option_rows().values() if row.option.template},
    "samples.nfe": "{} NFE",
    "reference_images": "{} real images",
    "held_out_images": "{} held-out images",
    "directions": "{} directions",
    "reference_points": "{} held-out points",
}


class Metric(NamedTuple):
    """One formatted line of the table; ``part`` marks a summand of the line above."""

    name: str
    value: str
    uncertainty: str
    unit: str
    better: str
    short_protocol: str
    protocol: list[tuple[str, str]]
    part: bool

    def __str__(self) -> str:
        name = self.name if self.name.startswith(ALWAYS_CAPITAL) else self.name[:1].lower() + self.name[1:]
        return f"{name} {self.value}" + (f" ± {self.uncertainty}" if self.uncertainty else "")


def metrics_of(evaluation: Mapping[str, Any] | None) -> list[Metric]:
    """The lines of the table from the JSON of ``evaluate``; empty without an evaluation."""
    return [_line(row) for row in (evaluation or {}).get("results", [])]


class Conclusion(NamedTuple):
    """A conclusion of an evaluation: its subject, its text, whether it is bad, and its rule."""

    about: str
    text: str
    bad: bool
    rule: str


def conclusions_of(evaluation: Mapping[str, Any] | None) -> list[Conclusion]:
    """The conclusions in the details of results, without duplicates."""
    rows = [row.get("details") or {} for row in (evaluation or {}).get("results", [])]
    found = [
        Conclusion(
            str(row.get("about", "copying")),
            str(row["verdict"]),  # data
            bool(row.get("collapsed")) or str(row["verdict"]).startswith("likely"),  # data
            str(row.get("rule", "")),
        )
        for row in rows
        if row.get("verdict")  # data
    ]
    return list(dict.fromkeys(found))


def _line(row: Mapping[str, Any]) -> Metric:
    value, uncertainty = with_uncertainty(row.get("value"), row.get("uncertainty"))
    protocol = dict(flattened(row.get("protocol") or {}))
    everything = [*protocol.items(), *flattened(row.get("details") or {}, "details.")]
    key, better = str(row.get("metric", "unnamed")), row.get("better")
    part = NAMES.get(key, "").startswith("–")
    return Metric(
        name=name_of(key),
        value=value,
        uncertainty=uncertainty,
        unit=str(row.get("unit") or ""),
        better=f"{better} is better" if better and not part else "",
        short_protocol=_short_protocol(protocol),
        protocol=everything,
        part=part,
    )


def name_of(metric: str) -> str:
    """``frechet_pixels`` -> ``Fréchet distance (pixels)``; in unknown names underscores become spaces."""
    if metric in NAMES:
        return NAMES[metric]
    family, _, features = metric.partition("_")
    if family in FAMILIES:
        return f"{FAMILIES[family]}{f' ({features})' if features else ''}"
    return metric.replace("_", " ").capitalize()


def with_uncertainty(value: Any, uncertainty: Any) -> tuple[str, str]:
    """Both with the same number of decimals: two significant digits of the uncertainty."""
    if value is None:
        return "–", ""
    if not _finite(value) or not _finite(uncertainty) or uncertainty <= 0:
        return number(value), ""
    decimals = max(0, 1 - math.floor(math.log10(uncertainty)))
    if decimals > 6:
        return f"{value:.4g}", f"{uncertainty:.2g}"
    return f"{value:,.{decimals}f}", f"{uncertainty:,.{decimals}f}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short_protocol(protocol: Mapping[str, str]) -> str:
    """A protocol in one line: its key entries, or else its first short entries."""
    known = [_format_entry(text, protocol[key]) for key, text in KEY_ENTRIES.items() if key in protocol]
    short = [f"{key} {text}" for key, text in protocol.items() if "." not in key and len(text) <= 24]
    return " · ".join(known or short[:5])


def _format_entry(template: str, value: object) -> str:
    """An entry in its format of ``KEY_ENTRIES``; singular if the value is 1."""
    text = template.format(value)
    return re.sub(r"s(?= each$|$)", "", text) if str(value) == "1" and template.startswith("{} ") else text
