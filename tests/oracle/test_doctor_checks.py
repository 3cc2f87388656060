"""The doctor's checks on arrays: planted defects are found, and what is sound is not blamed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.process import Process
from undiffuse.core.processes import DiscreteVP, EDMProcess, FlowProcess
from undiffuse.diagnostics.data_context import bars_of, values_of
from undiffuse.diagnostics.duplicates import groups_of, near_pairs, signature, softened, thumbnails
from undiffuse.diagnostics.findings import Finding, examine
from undiffuse.diagnostics.memorisation import assess_memorisation
from undiffuse.diagnostics.metrics_log import assess_losses, assess_validation, epochs
from undiffuse.diagnostics.noise_levels import LevelErrors, assess_levels, assess_prior, prior_mismatch, trivial_error
from undiffuse.diagnostics.samples import (
    assess_classes,
    assess_colours,
    assess_saturation,
    assess_steps,
    assess_variety,
)
from undiffuse.diagnostics.weights import assess_ema, assess_ema_loss, assess_weights
from undiffuse.errors import UsageError
from undiffuse.losses.levels import loss_by_level
from undiffuse.metrics.classification import ClassAccumulator
from undiffuse.metrics.neighbours import copying_summary
from undiffuse.samplers.noise import SeededNoise
from undiffuse.wording import format_names


def smooth(count: int, side: int = 32, channels: int = 1, seed: int = 0) -> Tensor:
    """uint8 images of smooth random shapes, no two alike."""
    coarse = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8)


def recompressed(images: Tensor, quality: int) -> Tensor:
    found = []
    for image in images.numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[0]).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer))[None])
    return torch.from_numpy(np.stack(found))


def severities(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.title: finding.severity for finding in findings}


# near-duplicates


@pytest.mark.parametrize("change", ["same", "mirrored", "compressed", "moved", "resized", "mirrored and compressed"])
def test_changed_copies_are_found_and_nothing_else(change: str) -> None:
    originals = smooth(40)
    changed = {
        "same": lambda x: x.clone(),
        "mirrored": lambda x: x.flip(-1),
        "compressed": lambda x: recompressed(x, 75),
        "moved": lambda x: torch.roll(x, (1, -1), (2, 3)),
        "resized": lambda x: thumbnails(
            torch.nn.functional.interpolate(x.float(), scale_factor=2, mode="bilinear").round().to(torch.uint8)
        ),
        "mirrored and compressed": lambda x: recompressed(x.flip(-1), 75),
    }[change](originals[:7])
    pairs = near_pairs(torch.cat([originals, changed]))
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(i, 40 + i) for i in range(7)]
    assert pairs.mirrored.all() == ("mirrored" in change)
    assert (pairs.distance.diff() >= 0).all()


def test_only_pairs_across_the_boundary_are_compared() -> None:
    images = smooth(10)
    doubled = torch.cat([images, images[:3], images[:2]])  # rows 10, 11, 12 and 13, 14
    pairs = near_pairs(doubled, boundary=13)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (0, 13),
        (1, 14),
        (10, 13),
        (11, 14),
    ]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 20, 28), (1, 9, 8), (1, 27, 17)])
def test_a_signature_never_lies_further_apart_than_the_pixels(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(0, 256, (50, *shape), generator=generator, dtype=torch.uint8)
    b = (a.float() + 20 * torch.randn(a.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    apart = (signature(a) - signature(b)).square().sum(1).sqrt()
    pixels = (a.float() - b.float()).flatten(1).square().mean(1).sqrt()
    assert (apart <= pixels * (1 + 1e-5)).all()
    assert apart.max() > 0.1 * pixels.max()  # and says something
    for same in (a.flip(-1), torch.roll(a, (3, -2), (2, 3))):
        torch.testing.assert_close(signature(same), signature(a), rtol=1e-4, atol=1e-3)


def test_plain_images_have_no_near_duplicates_and_nothing_is_found_in_nothing() -> None:
    assert len(near_pairs(torch.full((5, 1, 16, 16), 7, dtype=torch.uint8))) == 0
    assert len(near_pairs(torch.zeros(0, 1, 16, 16, dtype=torch.uint8))) == 0


def test_softening_keeps_a_plain_image_and_the_mean_of_a_point() -> None:
    plain = torch.full((1, 1, 5, 5), 9.0)
    torch.testing.assert_close(softened(plain), plain)
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 16
    assert softened(point)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_groups_are_what_pairs_connect() -> None:
    assert groups_of([1, 5, 2, 8], [2, 6, 3, 9]) == [[1, 2, 3], [5, 6], [8, 9]]
    assert groups_of([], []) == []


# values of images


def test_bars_are_distinguished_from_margins() -> None:
    image = smooth(1, 32)[0].clamp(40, 255)
    boxed, sunk, drawing, low = image.clone(), image.clone(), torch.zeros_like(image), image.clone()
    boxed[:, :6], boxed[:, -6:] = 0, 0
    drawing[:, 10:22, 10:22] = 200  # on a black ground
    low[:, :6] = 0  # at the top alone
    found = bars_of(torch.stack([image, boxed, drawing, low, sunk]))
    assert found.tolist() == [0, pytest.approx(12 / 32), 0, 0, 0]
    sideways = values_of(boxed.transpose(1, 2)[None])
    assert float(sideways.bars) == pytest.approx(12 / 32)


def test_values_of_known_images() -> None:
    black, white, half = torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255.0), torch.zeros(3, 4, 4)
    half[:, :, 2:], half[2] = 200, 0
    values = values_of(torch.stack([black, white, half]).to(torch.uint8))
    assert values.low.tolist() == [0, 255, 0] and values.high.tolist() == [0, 255, 200]
    assert values.black.tolist() == pytest.approx([1, 0, 2 / 3]) and values.white.tolist() == [0, 1, 0]
    assert values.grey.tolist() == [True, True, False] and values.plain_border.tolist() == [True, True, False]
    assert float(values.contrast[2]) == pytest.approx(200 * math.sqrt(2 / 9))  # a third of the values at 200


# the noise end and the error by level


def test_a_schedule_of_200_steps_leaves_what_the_documents_report() -> None:
    process = DiscreteVP.linear(200, 1e-4, 0.02)
    signal, bits = prior_mismatch(process)
    alpha_bar = math.prod(1 - (1e-4 + i * 1e-4) for i in range(200))
    assert signal == pytest.approx(math.sqrt(alpha_bar), rel=1e-9) == pytest.approx(0.3636, abs=1e-4)
    assert bits == pytest.approx(-0.5 * math.log2(1 - alpha_bar), rel=1e-9) == pytest.approx(0.1023, abs=1e-4)
    finding = assess_prior(process)
    assert finding.severity == "problem" and "36 %" in finding.evidence and "0.1 bits" in finding.evidence


def test_the_mismatch_of_a_process_that_keeps_its_signal() -> None:
    """sigma_max = 3: x_1 = x_0 + 3 eps against N(0, 9), so L_T = 1 / 18 nats."""
    signal, bits = prior_mismatch(EDMProcess(3.0))
    assert signal == pytest.approx(1 / math.sqrt(10)) and bits == pytest.approx(1 / 18 / math.log(2))
    assert assess_prior(EDMProcess(3.0)).severity == "problem"
    assert [assess_prior(EDMProcess(10.0), dims).severity for dims in (2, 784)] == ["ok", "warning"]


@pytest.mark.parametrize("process", [DiscreteVP.linear(1000), FlowProcess(), EDMProcess(80.0)])
def test_processes_that_end_in_noise_are_left_alone(process: Process) -> None:
    assert assess_prior(process).severity == "ok"


class Linear(Denoiser):
    """The exact denoiser of independent N(0, v), its x_0-hat multiplied by ``factor``."""

    def __init__(self, process: Process, variance: float, factor: float = 1.0) -> None:
        super().__init__()
        self.process, self.variance, self.factor = process, variance, factor

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        alpha, sigma = (value.reshape(-1, 1) for value in (self.process.alpha(t), self.process.sigma(t)))
        return Denoised(self.factor * alpha * self.variance / (alpha**2 * self.variance + sigma**2) * x_t)

    def denoiser(self, precision: str | None = None) -> Denoiser:
        return self


@pytest.mark.parametrize("process", [FlowProcess(), EDMProcess(80.0), DiscreteVP.linear(1000)])
def test_the_error_of_the_exact_denoiser_is_its_closed_form(process: Process) -> None:
    variance, levels = 0.3, torch.tensor([-4.0, 0.0, 3.0], dtype=torch.float64)
    x_0 = math.sqrt(variance) * torch.randn(200, 500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = loss_by_level(Linear(process, variance), x_0, levels, SeededNoise(range(200)))
    expected = trivial_error(torch.full((7,), variance), levels)
    torch.testing.assert_close(expected, variance * levels.exp() / (1 + variance * levels.exp()))
    assert found.shape == (3, 200)
    error = found.std(1) / math.sqrt(200)
    assert ((found.mean(1) - expected).abs() < 5 * error).all()


def level_errors(factor: float = 1.0, gap: float = 1.0) -> LevelErrors:
    levels = torch.linspace(-6, 6, 9, dtype=torch.float64)
    trivial = trivial_error(torch.full((4,), 0.3), levels)
    spread = 1 + 0.05 * torch.randn(9, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    training = 0.6 * factor * trivial[:, None] * spread
    return LevelErrors(levels, training, training * gap, trivial)


def test_levels_out_of_line() -> None:
    assert severities(assess_levels(level_errors())) == {"error by noise level": "ok"}
    assert "worse than a guess at some noise levels" in severities(assess_levels(level_errors(factor=2.0)))
    assert severities(assess_levels(level_errors(gap=1.5)))["training images are memorised"] == "warning"
    assert severities(assess_levels(level_errors(gap=3.0)))["training images are memorised"] == "problem"
    rising = level_errors()
    rising.training[6] *= 8  # in place: held-out errors are their own tensor
    rising.held_out[6] *= 8  # type: ignore[index]
    assert severities(assess_levels(rising))["error of x_0 rises where noise falls"] == "warning"


# the metrics log


def rows(values: Iterable[float], **others: float) -> list[dict[str, Any]]:
    return [{"images": 1000 * i, "loss": v, "grad_norm": 1.0, **others} for i, v in enumerate(values)]


def falling(count: int = 60) -> list[float]:
    return [0.1 + math.exp(-i / 6) for i in range(count)]


def test_a_intact_metrics_log_has_no_findings() -> None:
    assert severities(assess_losses(rows(falling()))) == {"loss has levelled off": "ok"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_named(bad: float) -> None:
    (first, *_) = assess_losses(rows([*falling(), bad]))
    assert first.severity == "problem" and "60,000 images" in first.evidence and first.details["images"] == [60_000]


def test_divergence_spikes_and_a_loss_that_still_falls() -> None:
    assert severities(assess_losses(rows([*falling(), *[0.5] * 12])))["training diverged"] == "problem"
    spiky = falling()
    spiky[40] = 3.0
    assert severities(assess_losses(rows(spiky)))["spikes of the loss"] == "note"
    assert severities(assess_losses(rows(1 / (1 + i) for i in range(60))))["loss still falling"] == "note"


def test_a_validation_loss_that_rises_again() -> None:
    assert severities(assess_validation(rows([3, 2, 1.5, 1.51]))) == {"validation loss": "ok"}
    (found,) = assess_validation(rows([3, 2, 1.5, 1.7]))
    assert (found.severity, found.details["lowest_at_images"]) == ("warning", 2000)
    assert [f.severity for f in assess_validation(rows([3, 1, 2]))] == ["problem"]
    with pytest.raises(UsageError, match="validate_every_images"):
        list(assess_validation(rows([3])))


def test_many_passes_are_a_hint_of_learning_by_heart() -> None:
    assert epochs(80_000, 64).severity == "warning" and epochs(210_000, 58_797).severity == "ok"


# weights


def test_an_average_that_still_holds_the_first_weights_is_immature() -> None:
    young = assess_ema(50_000, 50_000, None)
    assert young.severity == "problem" and young.details["first_weights_left"] == pytest.approx(0.5)
    assert assess_ema(300_000, 50_000, None).severity == "warning"  # 0.5^6 = 1.6 %
    assert assess_ema(500_000, 50_000, None).severity == "ok"
    assert assess_ema(50_000, 50_000, 0.05).severity == "ok"  # ramped up: 2,500 images
    assert assess_ema(100_000, 50_000, 0.5).severity == "note"  # half a run within one half-life


def test_an_average_worse_than_the_weights() -> None:
    assert [assess_ema_loss(loss, 1.0).severity for loss in (0.99, 1.01, 1.1, 1.5, math.nan)] == [
        *("ok", "ok", "warning", "problem", "problem"),
    ]


def test_weights_that_are_not_finite_are_named() -> None:
    valid = {"a": torch.ones(4), "b": torch.zeros(2)}
    (found,) = assess_weights(valid, {"a": torch.full((4,), 2.0), "b": torch.zeros(2)})
    assert found.severity == "ok" and found.details["relative_distance"] == pytest.approx(0.5)
    (found,) = assess_weights(valid, {"a": torch.tensor([1.0, math.nan]), "b": torch.zeros(2)})
    assert found.severity == "problem" and found.details["tensors"] == ["a (raw)"]


# samples


def test_samples_like_the_data_are_left_alone() -> None:
    samples, real = smooth(64, 16), smooth(256, 16, seed=1)
    findings = [assess_saturation(samples, real), *assess_colours(samples, real), *assess_variety(samples, real[:64])]
    assert {finding.severity for finding in findings} == {"ok"}


def test_saturated_washed_out_and_shifted_samples() -> None:
    samples, real = smooth(64, 16), smooth(256, 16, seed=1)
    pressed = ((samples.float() - 128) * 3 + 128).clamp(0, 255).to(torch.uint8)
    assert assess_saturation(pressed, real).severity == "warning"
    assert severities(assess_colours(pressed, real))["contrast of samples is off"] == "warning"
    faint = ((samples.float() - 128) * 0.5 + 128).to(torch.uint8)
    assert severities(assess_colours(faint, real))["contrast of samples is off"] == "warning"
    dark = (samples.float() - 40).clamp(0, 255).to(torch.uint8)
    assert severities(assess_colours(dark, real))["samples drift in brightness or colour"] == "warning"
    noisy = torch.where(samples < 128, 0, 200)
    real_ground = torch.where(real < 128, 0, 200).to(torch.uint8)
    assert assess_saturation((noisy + 9).to(torch.uint8), real_ground).title == "residual noise on plain backgrounds"


def test_collapsed_samples() -> None:
    real = smooth(64, 16)
    few = smooth(3, 16, seed=5).repeat_interleave(22, 0)[:64]
    assert severities(assess_variety(few, real))["samples repeat each other"] == "problem"
    alike = (real.float() * 0.4 + 0.6 * real.float().mean(0)).round().to(torch.uint8)
    assert severities(assess_variety(alike, real)) == {"samples vary too little": "problem"}


def test_missing_and_uneven_classes() -> None:
    def tally(counts: list[int]) -> ClassAccumulator:
        labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
        return ClassAccumulator.of(torch.eye(10)[labels])

    true = tally([100] * 10)
    assert assess_classes(tally([25] * 10), true).severity == "ok"
    missing = assess_classes(tally([25] * 9 + [0]), true)
    assert missing.severity == "problem" and missing.details["missing"] == [9]
    assert assess_classes(tally([200, 20, 3, 3, 3, 3, 3, 3, 3, 3]), true).severity == "warning"


def test_steps_that_change_the_images() -> None:
    fine = smooth(8)
    assert assess_steps(fine, fine, 10).severity == "ok"
    assert assess_steps(smooth(8, seed=9), fine, 10).severity == "warning"


def test_copies_are_a_problem_and_new_images_are_not() -> None:
    training, held_out, fresh = smooth(300, 16), smooth(100, 16, seed=1), smooth(100, 16, seed=2)
    copied = (training[:100].float() + 3 * torch.randn(100, 1, 16, 16)).clamp(0, 255).to(torch.uint8)
    pairs = [{"seed": 3, "training_item": "item 3"}]
    found = assess_memorisation(copying_summary(copied, held_out, training), "held-out images", pairs)
    assert found.severity == "problem" and "seed 3 = item 3" in found.evidence
    assert assess_memorisation(copying_summary(fresh, held_out, training), "held-out images", pairs).severity == "ok"
    some_copies = torch.cat([copied[:10], fresh[:90]])
    found = assess_memorisation(copying_summary(some_copies, held_out, training), "held-out images", pairs)
    assert found.severity == "warning"


# the examination itself


def test_a_check_that_fails_stops_no_other_and_one_reason_makes_one_note() -> None:
    def rejected(subject: str) -> list[Finding]:
        raise UsageError(f"no images in {subject}")

    def slipped(subject: str) -> list[Finding]:
        raise KeyError("slip")

    def valid(subject: str) -> list[Finding]:
        return [Finding("ok", "fine", "1"), Finding("problem", "bad", "2", "mend it")]

    found = examine({"a": rejected, "b": valid, "c": rejected, "d": slipped}, "x")
    assert [f.severity for f in found.findings] == ["problem", "note", "note", "ok"]
    assert [f.title for f in found.findings][1] == "could not be checked: a, c"
    assert found.findings[1].evidence == "no images in x" and "KeyError" in found.findings[2].evidence
    assert found.findings[0].check == "b" and not found.is_well and found.checked == ["a", "b", "c", "d"]
    assert found.not_run == ["a", "c", "d"]


def test_what_a_check_found_before_it_broke_off_is_kept() -> None:
    def half(subject: str) -> Iterable[Finding]:
        yield Finding("problem", "bad", "2", "mend it")
        raise UsageError("and no further")

    found = examine({"a": half}, "x")
    assert [finding.title for finding in found.findings] == ["bad", "could not be checked: a"] and not found.is_well


def test_long_lists_are_cut() -> None:
    assert format_names("abcde") == "a, b, c and 2 more" and format_names(["x"]) == "x" and format_names([]) == ""
