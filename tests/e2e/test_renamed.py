"""Earlier names on the command line: understood, with a line that says the new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine

from undiffuse.cli import renamed as table
from undiffuse.cli.checks.lines import _table
from undiffuse.cli.checks.names import check_overrides
from undiffuse.cli.renamed import renamed
from undiffuse.errors import UsageError


def test_an_earlier_command_does_the_same_and_reports_its_new_name(
    undiffuse: CommandLine, trained: Path, tmp_path: Path
) -> None:
    arguments = (trained, "digits", "-n", "2", "--sampler", "heun", "--steps", "2", "--out")
    old, new = (
        undiffuse.fine("encode", *arguments, tmp_path / "old"),
        undiffuse.fine("invert", *arguments, tmp_path / "new"),
    )
    assert "'encode' was renamed to 'invert'" in old.err and "was renamed" not in new.err
    for name in ("latents.npy", "roundtrip.png"):
        assert (tmp_path / "old" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
    assert json.loads((tmp_path / "old" / "encode.json").read_text())["nfe"] == 4


@pytest.mark.parametrize("option", ["--sheet {}", "--sheet={}"])
def test_an_earlier_option_does_the_same(undiffuse: CommandLine, tmp_path: Path, option: str) -> None:
    message = undiffuse.fine("data", "info", "digits", *option.format(tmp_path / "grid.png").split())
    assert "'--sheet' was renamed to '--grid'" in message.err and (tmp_path / "grid.png").is_file()


def test_what_follows_two_dashes_is_no_option() -> None:
    assert renamed(["data", "info", "--", "--sheet"]) == (["data", "info", "--", "--sheet"], [])
    assert renamed(["sample", "encode"]) == (["sample", "encode"], [])


def test_every_new_name_is_there_and_no_earlier_one_is() -> None:
    known = _table()
    for old, new in table.COMMANDS.items():
        assert " ".join(new) in known and " ".join(old) not in known
    for command, options in table.OPTIONS.items():
        names = set(known[" ".join(command)]["options"])
        assert set(options.values()) <= names and not set(options) & names


@pytest.mark.parametrize("recipe", ["dcgan-mnist", None])
def test_an_earlier_key_is_known_on_the_command_line(recipe: str | None) -> None:
    check_overrides(["optimizer.phase_rates.generator=1e-2"], recipe)
    with pytest.raises(UsageError, match="has no section 'phase_rate'"):
        check_overrides(["optimizer.phase_rate.generator=1e-2"], None)
