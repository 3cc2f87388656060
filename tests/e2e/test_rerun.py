"""A run's ``config.json`` trains the same run again; a model without a metrics log still says how much it saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import TINY, CommandLine, assert_same_run

import undiffuse as package
from undiffuse.api.configuration.runs import configure
from undiffuse.checksums import read_json
from undiffuse.cli.terminal import Terminal
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.errors import UsageError
from undiffuse.observer import observing
from undiffuse.reports.wording import headline, progress_of
from undiffuse.zoo import bundled_models

SHORT = (*TINY, "num_images=32", "validate_every_images=0")


def test_a_file_trains_the_same_run_again(undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("train", "ddpm-digits", *SHORT, "--out", tmp_path / "run")
    undiffuse.fine("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "again")
    assert_same_run(tmp_path / "run", tmp_path / "again")
    assert (tmp_path / "run" / "config.json").read_bytes() == (tmp_path / "again" / "config.json").read_bytes()
    undiffuse.fine("export", tmp_path / "run", "--out", tmp_path / "exported")
    record = read_json(tmp_path / "exported" / "config.json")
    assert headline(record, progress_of(record, []), []).find("It saw 32 images") > 0


def test_a_record_its_part_and_a_folder_report_the_same(trained: Path, tmp_path: Path) -> None:
    wanted = configure("ddpm-digits", [*TINY], None, None, False).model_copy(update={"preview_every_images": 0})
    part = tmp_path / "part.json"
    part.write_text(json.dumps(read_json(trained / "config.json")["config"]))
    for file in (trained / "config.json", trained, part):
        assert configure(None, [], None, None, False, file=file) == wanted
    changed = configure(None, ["optimizer.learning_rate=0.5", "seed=3"], None, None, False, file=part)
    assert (changed.optimizer.learning_rate, changed.seed) == (0.5, 3)
    assert changed.model_copy(update={"seed": 0, "optimizer": wanted.optimizer}) == wanted
    assert configure(None, [], "rings", None, False, file=part).data.name == "rings"


def test_an_edited_file_is_taken_and_reported(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text((trained / "config.json").read_text().replace('"seed": 0', '"seed": 7'))
    with observing(Terminal()):
        assert configure(None, [], None, None, False, file=file).seed == 7
    assert "was changed after it was written" in " ".join(capsys.readouterr().err.split())


REJECTED = {
    "nothing": (None, "cannot be read"),
    "no JSON": ("num_images: 5", "no JSON"),
    "a list": ("[]", "JSON object"),
    "a newer one": ('{"format_version": 99, "config": {}}', "upgrade"),
    "no part": ('{"format_version": 1}', "lacks its part config"),
    "too little": ('{"num_images": 5}', "key 'system'"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_what_is_no_configuration_is_rejected(what: str, tmp_path: Path) -> None:
    text, message = REJECTED[what]
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=message) as rejected:
        configure(None, [], None, None, False, file=tmp_path / "x.json")
    assert "x.json" in str(rejected.value)


def test_two_sources_of_a_configuration_are_rejected(trained: Path, undiffuse: CommandLine) -> None:
    file = trained / "config.json"
    assert "recipe 'flow-mnist'" in undiffuse.rejected("train", "flow-mnist", "--config", file)
    assert "--resume" in undiffuse.rejected("train", "--config", file, "--resume", "--out", trained)


def test_a_bundled_model_reports_how_much_it_saw() -> None:
    for name, folder in bundled_models().items():
        record = read_json(folder / "config.json")
        seen = f"{record['card']['images']:,}"
        assert f"It saw {seen} images" in headline(record, progress_of(record, []), []), name
        assert RunContext(folder, record, package.load).images_seen == record["card"]["images"]  # type: ignore[arg-type]
    del record["card"]
    assert "saw" not in headline(record, progress_of(record, []), [])
