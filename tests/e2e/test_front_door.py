"""From Python: samples are a tensor that shows and saves itself, and a wrong keyword gets the nearest one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image

import undiffuse as package
from undiffuse.errors import UsageError


def test_samples_are_a_tensor_and_more(trained: Path) -> None:
    model = package.load(trained)
    samples = model.sample(5, steps=1, seed=3, class_name=[3, None])
    assert isinstance(samples, torch.Tensor) and samples.shape == (5, 1, 8, 8) and samples.dtype == torch.uint8
    assert samples.seeds == range(3, 8) and samples.classes == ["3", None, "3", None, "3"]
    assert [row["class"] for row in samples.record["images"]] == samples.classes
    plain = torch.from_numpy(samples.numpy().copy())
    assert torch.equal(samples, plain) and bool((samples == plain).all()) and len(samples) == 5
    for computed in (
        samples[0],
        samples[:, 0],
        samples[[1, 2]],
        samples[samples.sum((1, 2, 3)) < 0],
        samples.float() / 255,
        torch.cat([samples, plain]),
        next(iter(samples)),
    ):
        assert type(computed) is torch.Tensor
    assert [np.asarray(image).tolist() for image in samples.images] == plain[:, 0].tolist()
    with Image.open(io.BytesIO(samples._repr_png_() or b"")) as grid:
        assert grid.format == "PNG" and grid.size == (292, 195)
    for text in (repr(samples), repr(model)):
        assert "\n" not in text and "tiny" in text
    assert torch.equal(model.sample(1, steps=1, class_name=3), model.sample(1, steps=1, class_name="3"))


def test_a_slice_of_samples_is_samples_with_their_seeds(trained: Path, tmp_path: Path) -> None:
    samples = package.load(trained).sample(6, steps=1, seed=3, class_name=["3", "7"])
    part = samples[1:6:2]
    assert type(part) is package.Samples and torch.equal(part, torch.from_numpy(samples.numpy()[1:6:2]))
    assert list(part.seeds) == [4, 6, 8] and part.classes == ["7"] * 3 and len(part.images) == 3
    assert [row["seed"] for row in part.record["images"]] == [4, 6, 8] and "seeds 4 to 8 in steps of 2" in repr(part)
    written = json.loads((part.save(tmp_path / "part") / "samples.json").read_text())
    assert [row["seed"] for row in written["images"]] == [4, 6, 8]
    assert part[-1:].seeds == range(8, 9, 2) and repr(part[-1:]).endswith("seed 8>")
    empty = samples[6:]
    assert repr(empty).endswith("uint8>") and empty._repr_png_() is None
    with pytest.raises(UsageError, match="no samples to save"):
        empty.save(tmp_path / "none")


def test_saved_samples_are_those_of_the_command(
    trained: Path, trained_points: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    for number, folder in enumerate((trained, trained_points)):
        ours, theirs = tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
        samples = package.load(str(folder)).sample(4, steps=1)
        samples.save(str(ours))
        undiffuse.fine("sample", folder, "-n", 4, "--steps", 1, "--out", theirs)
        assert {path.name: path.read_bytes() for path in ours.iterdir()} == {
            path.name: path.read_bytes() for path in theirs.iterdir()
        }
        with pytest.raises(UsageError, match="save with overwrite=True"):
            samples.save(ours)
        assert samples.save(ours, overwrite=True) == ours
    with pytest.raises(UsageError, match="points in 2 dimensions"):
        _ = samples.images
    assert (samples._repr_png_() or b"").startswith(b"\x89PNG")


def test_a_wrong_keyword_gets_the_nearest(trained: Path) -> None:
    model = package.load(trained)
    with pytest.raises(TypeError, match=r"sample\(\) has no argument 'step'; did you mean 'steps'\?"):
        model.sample(1, step=2)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="did you mean 'weights'"):
        package.load(trained, weight="raw")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="did you mean 'options'"):
        package.study("denoising-trajectory", trained, option=[])  # type: ignore[call-arg]
