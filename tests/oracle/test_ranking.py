"""Which run is better at what: only where intervals, protocols and data allow it, in words that say which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from undiffuse.reports import ReportMaterial, render_comparison
from undiffuse.reports.ranking import NO_DIFFERENCE, RankedMetric, rank_runs, summary, unequal_training

RECORD = {"model": {"shape": [1, 8, 8]}, "data": {"fingerprint": "f", "train": 100}, "config": {"recipe": "r"}}


def row(metric: str, value: float, error: float | None, better: str = "lower", **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, "uncertainty": error, "better": better, "protocol": {}, **more}


def run(name: str, *rows: dict[str, Any], seconds: float = 600, sampling: float | None = None, **record: Any) -> Any:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    evaluation: dict[str, Any] = {"results": list(rows)}
    if sampling is not None:
        evaluation["sampling"] = {"seconds": sampling, "num": 500}
    metrics_log = [{"kind": "train", "images": 10, "loss": 1.0, "wall": {"seconds": seconds}}]
    return ReportMaterial({**RECORD, **record}, metrics_log, images, images, name=name, evaluation=evaluation)


def judged(*runs: Any) -> dict[str, RankedMetric]:
    return {line.name: line for line in rank_runs(runs)}


def test_the_better_number_wins_where_the_interval_leaves_zero_out() -> None:
    (line,) = rank_runs([run("gan", row("frechet_pixels", 9.0, 0.5)), run("flow", row("frechet_pixels", 4.0, 0.4))])
    assert (line.aspect, line.best, line.outcome) == ("quality", (1,), "flow is better")
    assert line.cells == ["9.00 ± 0.50", "4.00 ± 0.40"]


@pytest.mark.parametrize(("gap", "found"), [(1.9, False), (2.0, True)])
def test_the_limit_is_1_96_standard_errors_of_the_difference(gap: float, found: bool) -> None:
    error = 2**-0.5  # so that the difference has error 1
    (line,) = rank_runs([run("a", row("fid", 10.0, error)), run("b", row("fid", 10.0 + gap, error))])
    assert (line.outcome == "a is better") == found and (line.outcome == NO_DIFFERENCE) != found


@pytest.mark.parametrize(
    ("better", "values", "winner"), [("higher", (0.4, 0.7), 1), ("near 1", (1.5, 0.9), 1), ("near 0", (0.05, -0.4), 0)]
)
def test_better_is_what_the_metric_reports(better: str, values: tuple[float, float], winner: int) -> None:
    (line,) = rank_runs(
        [run(name, row("recall", value, 0.01, better)) for name, value in zip("ab", values, strict=True)]
    )
    assert line.best == (winner,) and line.aspect == "diversity"


def test_diversity_is_best_near_that_of_real_images() -> None:
    near = {"better": "near that of real images", "details": {"real_pictures": 0.3}}
    (line,) = rank_runs([run("a", row("lpips_diversity", 0.6, 0.01, **near)),
                       run("b", row("lpips_diversity", 0.25, 0.01, **near))])  # fmt: skip
    assert line.outcome == "b is better"


def test_three_runs_may_share_a_place() -> None:
    lines = judged(*(run(name, row("fid", value, 1.0)) for name, value in (("a", 5), ("b", 6), ("c", 20))))
    assert lines["FID"].best == (0, 1) and lines["FID"].outcome == f"a and b are better; {NO_DIFFERENCE} between them"
    assert summary(list(lines.values()), "abc") == ["Quality: a and b are better (FID)."]


def test_an_aspect_whose_metrics_disagree_depends() -> None:
    runs = [
        run("a", row("fid", 3.0, 0.1), row("precision", 0.6, 0.01, "higher")),
        run("b", row("fid", 5.0, 0.1), row("precision", 0.8, 0.01, "higher")),
    ]
    assert summary(rank_runs(runs), "ab") == ["Quality: it depends: a by FID; b by Precision."]


def test_what_cannot_be_judged_reports_why() -> None:
    lines = judged(run("a", row("fid", 3.0, None)), run("b", row("fid", 5.0, 0.1)))
    assert lines["FID"].outcome == "not compared: an error is not known" and lines["FID"].best == ()
    other = row("fid", 5.0, 0.1, protocol={"extractor": "x", "samples": {"num": 9, "sampler": "ddim"}})
    own = row("fid", 3.0, 0.1, protocol={"extractor": "y", "samples": {"num": 9, "sampler": "heun"}})
    assert judged(run("a", own), run("b", other))["FID"].outcome == "not compared: protocols differ (extractor)"
    assert rank_runs([run("a", row("fid", 3, 1)), run("b", row("fid", 9, 1), data={"fingerprint": "g"})]) == []
    assert rank_runs([run("a", row("fid", 3, 1)), run("b")]) == []


@pytest.mark.parametrize(("seconds", "words"), [(12.0, NO_DIFFERENCE), (40.0, "gan is better")])
def test_times_to_sample_a_thousand(seconds: float, words: str) -> None:
    (line,) = rank_runs([run("gan", sampling=10.0), run("flow", sampling=seconds)])
    assert line.cells[0] == "20 s" and line.outcome == words and line.aspect.startswith("time to sample")


def test_copying_is_judged_by_the_share_of_samples_that_are_too_near() -> None:
    def ratio(share: float, num: int) -> dict[str, Any]:
        return row("neighbour_ratio", 1.0, None, details={"share_below_first_percentile": share, "num_samples": num})

    assert rank_runs([run("a", ratio(0.01, 500)), run("b", ratio(0.3, 500))])[0].outcome == "a is better"
    assert rank_runs([run("a", ratio(0.01, 100)), run("b", ratio(0.03, 100))])[0].outcome == NO_DIFFERENCE


def test_unequal_training_is_reported_beyond_a_tenth() -> None:
    assert unequal_training([run("a", seconds=600), run("b", seconds=650)]) == ""
    message = unequal_training([run("a", seconds=600), run("b", seconds=720)])
    assert (
        "a 10 min 0 s, b 12 min 0 s; the longest took 1.2 times the shortest" in message and "--stop-after" in message
    )
    assert "not known" in unequal_training([run("a"), run("b", seconds=0)])


def test_the_page_reports_who_is_better_and_who_has_collapsed() -> None:
    fallen = {"about": "modes", "verdict": "collapsed: 2 of 10 modes", "collapsed": True, "rule": "a rule"}
    runs = [
        run("gan", row("fid", 9.0, 0.5), row("modes_found", 2.0, 0.0, "higher", details=fallen), seconds=100),
        run("flow", row("fid", 4.0, 0.4), row("modes_found", 10.0, 0.0, "higher")),
    ]
    html = render_comparison(runs)
    for text in ("Quality: flow is better (FID).", "Diversity: flow is better (Modes found).",
                 "gan has collapsed: 2 of 10 modes.", "did not train for equal seconds"):  # fmt: skip
        assert text in html
    assert "Nothing to compare" in render_comparison([run("a"), run("b")])
