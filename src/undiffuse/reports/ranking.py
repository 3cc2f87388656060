"""Ranking of several runs by quality, diversity, speed and copying, with confidence intervals.

Two numbers v_1 and v_2 with standard errors e_1 and e_2 differ if |v_1 - v_2| > 1.96 sqrt(e_1^2 + e_2^2), the 95 %
interval of a normal difference; otherwise the page states that no difference was found, which does not mean that there
is none. The errors are over samples, not over training runs. Numbers without an error, or of different protocols, are
not ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from undiffuse.reports import metrics_table, wording
from undiffuse.reports.material import ReportMaterial

#: Metrics of each aspect, by prefixes of their names; copying is ranked by the fraction of near samples.
ASPECTS = {
    "quality": ("frechet", "fid", "sliced_wasserstein", "precision", "good_samples"),
    "diversity": ("recall", "coverage", "modes_found", "mode_kl", "lpips_diversity"),
}
SPEED, COPYING = "time to sample 1,000", "copying"
Z = 1.96
#: Times are measured once: within this ratio they do not differ.
NEAR_TIMES = 1.25
#: Training times beyond this ratio are not equal.
EQUAL_SECONDS = 1.10
NO_DIFFERENCE = "no difference found"


class Measurement(NamedTuple):
    """A number of one run as a loss (lower is better), its error, and its formatted text."""

    loss: float
    error: float | None
    text: str


class RankedMetric(NamedTuple):
    """One metric over all runs.

    Attributes:
        aspect: a key of ``ASPECTS``, ``SPEED`` or ``COPYING``.
        name: of the metric.
        cells: the formatted numbers.
        best: indices of the runs that no other run is better than: one for a clear winner, all for no difference; empty
            if the metric is not compared.
        outcome: which runs are better, or why they are not compared.
    """

    aspect: str
    name: str
    cells: list[str]
    best: tuple[int, ...]
    outcome: str


def rank_runs(materials: Sequence[ReportMaterial]) -> list[RankedMetric]:
    """Every metric that at least two runs have, with the best runs; empty for runs of different data or shapes."""
    for key in ("data.fingerprint", "model.shape"):
        if len({str(wording.dig(material.record, key)) for material in materials}) > 1:
            return []
    names = [material.title for material in materials]
    tables = [
        {str(row.get("metric")): row for row in (material.evaluation or {}).get("results", [])}
        for material in materials
    ]
    lines = [
        _metric(aspect, name, [table.get(name) for table in tables], names)
        for aspect, prefixes in ASPECTS.items()
        for name in dict.fromkeys(name for table in tables for name in table if name.startswith(prefixes))
    ]
    copying = [_copying(table.get("neighbour_ratio")) for table in tables]
    lines.append(_ranked(COPYING, "samples nearer to a training image than 99 % of unseen ones", copying, names))
    times = [_seconds(material) for material in materials]
    lines.append(_ranked(SPEED, "seconds, taken once", times, names))
    return [line for line in lines if sum(cell != "–" for cell in line.cells) >= 2]


def summary(lines: Sequence[RankedMetric], names: Sequence[str]) -> list[str]:
    """A sentence for each aspect: which runs are better."""
    sentences = []
    for aspect in dict.fromkeys(line.aspect for line in lines):
        aspect_lines = [line for line in lines if line.aspect == aspect]
        sentences.append(f"{aspect[:1].upper()}{aspect[1:]}: {_aspect_outcome(aspect_lines, names)}.")
    return sentences


def unequal_training(materials: Sequence[ReportMaterial]) -> str:
    """A note if the runs' training times are unknown or differ by more than 10 %; else ""."""
    known = [wording.progress_of(material.record, material.metrics_log).seconds for material in materials]
    seconds = [value for value in known if value]
    if len(seconds) < len(materials):
        return "The training time of some of these runs is not known, so their times may be unequal."
    ratio = max(seconds) / min(seconds)
    if ratio <= EQUAL_SECONDS:
        return ""
    times = ", ".join(
        f"{material.title} {wording.duration(value)}" for material, value in zip(materials, seconds, strict=True)
    )
    return (
        f"These runs did not train for equal seconds ({times}; the longest took {ratio:.3g} times the shortest): a run "
        "may be better only because of the time. Train again with --stop-after."
    )


def _aspect_outcome(lines: Sequence[RankedMetric], names: Sequence[str]) -> str:
    decided = [line for line in lines if line.best and len(line.best) < len(names)]
    if not decided:
        return NO_DIFFERENCE if any(line.best for line in lines) else "not compared: errors or protocols are missing"
    winners = {line.best for line in decided}
    if len(winners) == 1:
        (best,) = winners
        by = ", ".join(line.name for line in decided)
        return f"{_listed([names[place] for place in best])} {'are' if len(best) > 1 else 'is'} better ({by})"
    return "it depends: " + "; ".join(
        f"{_listed([names[place] for place in line.best])} by {line.name}" for line in decided
    )


def _metric(aspect: str, metric: str, rows: Sequence[Mapping[str, Any] | None], names: Sequence[str]) -> RankedMetric:
    line = _ranked(aspect, metrics_table.name_of(metric), [_measured(row) for row in rows], names)
    if differs := differing([row.get("protocol") or {} for row in rows if row is not None]):
        return line._replace(best=(), outcome=f"not compared: protocols differ ({differs})")
    return line


def _measured(row: Mapping[str, Any] | None) -> Measurement | None:
    if row is None or not isinstance(row.get("value"), int | float):
        return None
    value, error = float(row["value"]), row.get("uncertainty")
    text, spread = metrics_table.with_uncertainty(value, error)
    target = _target(row)
    loss = {"lower": value, "higher": -value}.get(str(row.get("better")), abs(value - target))
    known = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
    return Measurement(loss, known, f"{text} ± {spread}" if spread else text)


def _target(row: Mapping[str, Any]) -> float:
    """The ideal value of a metric: 0, 1, or that of real images."""
    real = wording.dig(row, "details.real_pictures")
    return float(real) if isinstance(real, int | float) else {"near 0": 0.0}.get(str(row.get("better")), 1.0)


def _copying(row: Mapping[str, Any] | None) -> Measurement | None:
    share, num = (wording.dig(row, f"details.{key}") for key in ("share_below_first_percentile", "num_samples"))
    if not isinstance(share, int | float) or not isinstance(num, int) or num < 1:
        return None
    error = math.sqrt(max(share * (1 - share), 0.01 * 0.99) / num)  # 1 % is the expected value for held-out images
    return Measurement(float(share), error, f"{share:.1%} ± {error:.1%}")


def _seconds(material: ReportMaterial) -> Measurement | None:
    sampling = wording.dig(material.evaluation, "sampling") or {}
    seconds, num = sampling.get("seconds"), sampling.get("num")
    if not isinstance(seconds, int | float) or not isinstance(num, int) or not seconds > 0:
        return None
    thousand = 1000 * seconds / num
    error = math.log(NEAR_TIMES) / (Z * math.sqrt(2))  # so that two times differ if their ratio is larger
    return Measurement(math.log(thousand), error, wording.duration(thousand))


def _ranked(aspect: str, name: str, found: Sequence[Measurement | None], names: Sequence[str]) -> RankedMetric:
    cells = ["–" if measurement is None else measurement.text for measurement in found]
    known = {place: measurement for place, measurement in enumerate(found) if measurement is not None}
    if len(known) < len(found):
        return RankedMetric(aspect, name, cells, (), "not compared: not measured for all")
    if any(measurement.error is None for measurement in known.values()):
        return RankedMetric(aspect, name, cells, (), "not compared: an error is not known")
    first = min(known, key=lambda place: known[place].loss)
    best = tuple(place for place in known if place == first or not differ(known[first], known[place]))
    return RankedMetric(aspect, name, cells, best, _describe(best, names))


def differ(a: Measurement, b: Measurement) -> bool:
    """Whether the 95 % interval of the difference excludes 0."""
    return abs(a.loss - b.loss) > Z * math.hypot(a.error or 0.0, b.error or 0.0)


def _describe(best: Sequence[int], names: Sequence[str]) -> str:
    if len(best) == len(names):
        return NO_DIFFERENCE
    winners = _listed([names[place] for place in best])
    return f"{winners} is better" if len(best) == 1 else f"{winners} are better; {NO_DIFFERENCE} between them"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


#: Entries of a protocol that are specific to a run and may differ between comparable numbers.
RUN_SPECIFIC = ("estimate.", "details.", "model.", "software.", "samples.", "hardware")


def differing(protocols: Sequence[Mapping[str, Any]]) -> str:
    """Names of the entries in which protocols differ, except those that are specific to a run."""
    return differing_keys([dict(wording.flattened(protocol)) for protocol in protocols])


def differing_keys(tables: Sequence[Mapping[str, str]]) -> str:
    """``differing`` for flattened protocols; of the samples only their number is compared."""
    keys = dict.fromkeys(key for table in tables for key in table)
    found = [
        key
        for key in keys
        if (key == "samples.num" or not key.startswith(RUN_SPECIFIC))
        and len({_value(table, key) for table in tables}) > 1
    ]
    return ", ".join(key.replace("_", " ") for key in found[:3]) + (", …" if found[3:] else "")


def _value(table: Mapping[str, str], key: str) -> str | None:
    """An entry in the current terms: older evaluations contain "pictures"."""  # data
    value = table.get(key)
    return None if value is None else value.replace("picture", "image")  # data
