"""``undiffuse ema``: another length of average after training, as a model like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import TINY, CommandLine

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run
from undiffuse.models import saved
from undiffuse.models.files import weights
from undiffuse.training.posthoc import snapshots_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("posthoc") / "run"
    options = [*TINY, 'ema.posthoc={"snapshot_every_images": 32}', "optimizer.learning_rate=0.01"]
    assert train_run(configure("ddpm-digits", options, None, out, False), out, device="cpu")
    return out


def test_a_held_width_comes_back_as_it_was_and_another_differs(
    run: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    assert list(snapshots_of(run)) == list(range(32, 257, 32))
    held = weights.read_weights(snapshots_of(run)[256])
    for width in ("0.05", "0.15"):
        outcome = undiffuse.fine("ema", run, "--sigma-rel", width, "--out", tmp_path / width)
        assert "of the target profile is missing" in outcome.out + outcome.err
    narrow, wide = (saved.load(tmp_path / width) for width in ("0.05", "0.15"))
    for name, value in narrow.module.named_parameters():
        assert torch.allclose(value, held[f"0.{name}"], atol=1e-6), name
    differences = [
        float((a - b).detach().abs().max())
        for a, b in zip(narrow.module.parameters(), wide.module.parameters(), strict=True)
    ]
    assert max(differences) > 1e-3
    assert wide.sample(2, steps=2).shape == (2, 1, 8, 8)
    assert "sigma_rel 0.15, at 256 images" in (tmp_path / "0.15" / "model_card.md").read_text()
    assert wide.config["averaging"]["sigma_rel"] == 0.15


def test_what_cannot_be_averaged_is_rejected(run: Path, trained: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    out = ("--out", tmp_path / "model")
    assert "kept no snapshots" in undiffuse.rejected("ema", trained, "--sigma-rel", "0.1", *out)
    assert "at most 0.2887, got 0.5" in undiffuse.rejected("ema", run, "--sigma-rel", "0.5", *out)
    assert "no run at" in undiffuse.rejected("ema", tmp_path, "--sigma-rel", "0.1", *out)
    assert not (tmp_path / "model").exists()
