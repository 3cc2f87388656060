"""Printing of results by the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from undiffuse.cli.terminal import console, print_line, table
from undiffuse.cores import allowed_cores
from undiffuse.progress import duration
from undiffuse.wording import command, count_noun, quoted

if TYPE_CHECKING:
    from undiffuse.api.configuration.runs import RunConfig
    from undiffuse.api.examining import Diagnosis, Finding
    from undiffuse.api.planning import Cost

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}
_MAX_CLASSES = 20  # listed with their counts
_SOURCE_FIELDS = {
    "skipped": "left out by the reader",
    "left_out": "not read",
    "splits": "parts",
    "masks": "masks",
    "classes_joined": "classes joined",
}
_MAX_DROPPED = 5  # dropped images listed on the terminal


def results_table(evaluation: Mapping[str, Any], title: str | None = None) -> None:
    """Print the results of an evaluation as a table, and their conclusions as text."""
    rows = []
    for result in evaluation["results"]:
        error = "" if result["uncertainty"] is None else f" ± {result['uncertainty']:.3g}"
        value = "–" if result["value"] is None else f"{result['value']:.4g}"
        rows.append([result["metric"], f"{value}{error}", result["unit"], result["better"]])
    table(title or f"{evaluation['recipe']}", ["metric", "value", "unit", "better"], rows)
    details = [result["details"] for result in evaluation["results"] if "verdict" in result["details"]]  # data
    for about, text in sorted({(row.get("about", "copying"), row["verdict"]) for row in details}):  # data
        print_line(f"{about}: {text}")
    if cached := sum(bool(result.get("cached")) for result in evaluation["results"]):
        print_line(f"{cached} of {len(rows)} numbers are from the cache; --no-cache recomputes them")


def print_by_count(result: Mapping[str, Any]) -> None:
    """Print the same metrics for several numbers of images."""
    parts = [*result["by_count"], {"num": "all", "results": result["results"]}]
    names = [row["metric"] for row in result["results"] if row["value"] is not None]
    values = [{row["metric"]: row["value"] for row in part["results"]} for part in parts]
    rows = [[name, *[f"{found[name]:.4g}" if name in found else "–" for found in values]] for name in names]
    table("by the number of images on each side", ["metric", *[str(part["num"]) for part in parts]], rows)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the findings of an examination with advice."""
    console().print(Text(f"{diagnosis.subject}: {diagnosis.summary}", style="bold"), soft_wrap=True)
    for finding in diagnosis.findings:
        _print_finding(finding)


def _print_finding(finding: Finding) -> None:
    line = Text.assemble((f"{finding.severity:>7}", _COLOURS[finding.severity]), f"  {finding.title}")
    if finding.severity == "ok":
        console().print(line.append(f": {finding.evidence}", style="dim"), soft_wrap=True)
        return
    console().print(line, soft_wrap=True)
    console().print(Text(f"         {finding.evidence}"), soft_wrap=True)
    if finding.advice:
        console().print(Text(f"         do: {finding.advice}"), soft_wrap=True)


def show_plan(config: RunConfig, device: str) -> None:
    """Print the output of ``--dry-run``: the configuration of a run, its size and its measured cost."""
    from undiffuse.api.planning import plan_training

    plan = plan_training(config, device)
    config, cost = plan.config, plan.cost
    rows = [
        [
            "data",
            f"{plan.data}, {plan.num_training:,} training and "
            f"{count_noun(plan.num_held_out, 'held-out item')} of shape "
            f"{plan.shape}",
        ],
        ["classes", ", ".join(plan.class_names) or "none"],
        ["parameters", f"{plan.num_parameters:,}"],
        ["optimizer steps", f"{config.num_steps:,} of {config.batch_images} images"],
        ["cost of 1,000 images", f"{_seconds(cost, 1000)} on {plan.device}"],
        ["measured", cost.measured],
        ["whole run", f"{_durations(cost, config.num_images)}, without validation, samples and checkpoints"],
        *_busy(cost, config.num_images, plan.device),
    ]
    table(f"{config.recipe} (dry run: nothing is written)", ["", ""], rows)
    console().print_json(json.dumps(config.model_dump(mode="json")))


def _seconds(cost: Cost, images: int) -> str:
    low, high = cost.spread(images)
    spread = f" ({low:.2f} to {high:.2f})" if len(cost.seconds) > 1 else ""
    return f"{cost.of_images(images):.2f} s{spread}"


def _durations(cost: Cost, images: int) -> str:
    low, high = (duration(seconds) for seconds in cost.spread(images))
    middle = duration(cost.of_images(images))
    return middle if low == high else f"{middle} ({low} to {high})"


def _busy(cost: Cost, images: int, device: str) -> list[list[str]]:
    """A row with a warning if other processes used the CPU during the measurement."""
    if cost.load is None or not cost.load.shared or device != "cpu":
        return []
    cores = count_noun(allowed_cores(), "core")
    others = f"other processes kept {cost.load.others:.1f} of {cores} busy during the measurement"
    alone = f"on an idle machine the run takes at least {duration(cost.alone(images))}"
    return [["busy machine", f"{others}; {alone}"]]


def print_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    """Print what was written to an archive and what was left out."""
    from undiffuse.api.datasets.preparing import storage_notes

    images, dropped, source = manifest["pictures"], manifest["dropped"], manifest["source"]  # data
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped["reasons"].items()) or "none"
    size = out.stat().st_size
    settings = {key: value for key, value in manifest["settings"].items() if value not in ([], None)}
    rows = [
        ["source", f"{source['location'] or source['kind']}: {count_noun(source['num_pictures'], 'item')}"],  # data
        ["written", f"{images['num']} of {images['height']}x{images['width']}, {_colours(images)}"],
        ["classes", _classes(images["classes"])],
        ["captions", "yes" if images["captions"] else "none"],
        ["left out", reasons],
        *[["", _with_relative_paths(source["location"], entry["text"])] for entry in dropped["first"][:_MAX_DROPPED]],
        *[[title, source[key]] for key, title in _SOURCE_FIELDS.items() if key in source],
        *[[key.replace("_", " "), manifest[key]] for key in storage_notes(manifest)],
        ["size", f"{size / 2**20:.1f} MiB, {size / images['num']:.0f} bytes an image"],
        ["settings", json.dumps(settings)],
        ["hash of all", images["hash"]],
    ]
    table(str(out), ["", ""], rows)
    look = command("data", "info", out, "--grid", "grid.png")
    print_line(f"done: {out}; next: {look}, or train with --data {quoted(out)}")


def _colours(images: Mapping[str, Any]) -> str:
    return "grey" if images["channels"] == 1 else "RGB"


def _classes(counts: Mapping[str, int]) -> str:
    if len(counts) > _MAX_CLASSES:
        return f"{len(counts)} of {min(counts.values())} to {max(counts.values())} images"
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _with_relative_paths(location: str, text: str) -> str:
    """A text with the common location removed from the paths in it."""
    return text.replace(f"{location}!", "").replace(f"{location}/", "") if location else text


def print_theory(result: Mapping[str, Any]) -> None:
    """Print distances and divergences of a 2-D model from the exact distribution."""
    images = result["pictures"]  # data
    rows = [
        [row["sampler"], str(row["steps"]), str(row["nfe"] or "–"), _number(row["distance"]), row.get("note", "")]
        for row in images["samplers.png"]["rows"]
    ]
    floor = images["samplers.png"]["floor"]
    title = f"{result['subject']}: sliced Wasserstein distance from the truth; exact samples have {floor:.3g}"
    table(title, ["sampler", "steps", "evaluations", "distance", ""], rows)
    if "fisher.png" in images:
        levels = [
            [_number(row["ratio"]), _number(row["fisher"]), _number(row["denoising_loss"]), _number(row["loss_floor"])]
            for row in images["fisher.png"]["levels"]
        ]
        table("score against the truth", ["r = sigma / alpha", "Fisher divergence", "loss", "its floor"], levels)
    if (numbers := images.get("likelihood.png")) is not None:
        print_line(_likelihood_line(numbers))


def _likelihood_line(numbers: Mapping[str, Any]) -> str:
    return (
        f"log-likelihood at r = {numbers['ratio']:.2g}: model {numbers['nll_nats']:.4f} nats, truth "
        f"{numbers['entropy_nats']:.4f}, KL {numbers['kl_nats']:.4f} ± {numbers['kl_standard_error']:.4f}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
