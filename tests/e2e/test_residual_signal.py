"""Chains too short to end in noise are said by train, dry-run and sampling, and what is advised is taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import TINY, CommandLine

import undiffuse as package
from undiffuse.api.configuration.runs import configure
from undiffuse.config import build
from undiffuse.core.processes import PROCESSES
from undiffuse.core.terminal_noise import terminal_noise
from undiffuse.errors import UsageWarning

SHORT = ("train", "ddpm-digits", *TINY, "num_images=16", "validate_every_images=0", "system.process.num_steps=10")


def of_the_chain(message: str) -> list[str]:
    """The notes on where the process ends; that so few images teach nothing is said as well."""
    return [line for line in message.splitlines() if "log-SNR" in line]


def test_a_short_chain_is_reported_wherever_it_is_met(undiffuse: CommandLine, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (message,) = of_the_chain(undiffuse.fine(*SHORT, "--out", run).err)
    assert "ends at log-SNR +2.24, where 95% of the amplitude is signal" in message
    ways = re.findall(r"system\.process\S*=\S+", message)
    assert ways == ["system.process.num_steps=400", "system.process.beta_end=0.61"]
    for way in ways:
        config = configure("ddpm-digits", [*SHORT[2:], way], None, None, False)
        assert terminal_noise(build(PROCESSES, config.system.process)).is_noise()  # type: ignore[attr-defined]
    assert of_the_chain(undiffuse.fine(*SHORT, "--dry-run").err) == [message]
    assert "+2.24" in undiffuse.fine("sample", run, "-n", 1, "--steps", 1, "--out", tmp_path / "a").complaint
    with pytest.warns(UsageWarning, match=r"\+2\.24"):
        package.load(run).sample(1, steps=1)


def test_a_process_of_sampling_that_begins_with_signal_is_reported(
    trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    common = ("sample", trained, "-n", 1, "--steps", 1)
    message = undiffuse.fine(*common, "--process", "ve:sigma_max=2", "--out", tmp_path / "a").complaint
    assert "log-SNR -1.39" in message and message.endswith("use process ve:sigma_max=7.4")
    assert not undiffuse.fine(*common, "--process", "ve:sigma_max=7.4", "--out", tmp_path / "b").err
