"""What a shell completes, and that a key press waits for nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from undiffuse.cli.checks import completion
from undiffuse.cli.checks.names import REGISTRIES
from undiffuse.recipes import RECIPES
from undiffuse.samplers import SAMPLERS

PROGRAM = """
import sys
sys.argv = ["undiffuse"]
from undiffuse.cli.main import main
try:
    main()
finally:
    heavy = [name for name in ("torch", "numpy", "PIL", "scipy", "rich") if name in sys.modules]
    print("heavy:", heavy, file=sys.stderr)
"""


def test_names_are_completed_in_whatever_case() -> None:
    assert completion.recipes("") == list(RECIPES)
    assert completion.recipes("PHOTOS-") == [name for name in RECIPES if name.startswith("photos-")]
    assert completion.rows(REGISTRIES["sampler"])("") == list(SAMPLERS)
    assert completion.several(REGISTRIES["metric"])("frechet,prec") == ["frechet,precision_recall"]
    assert "mnist" in completion.models("mn") and "digits" in completion.data("di")
    assert completion.devices("c") == ["cpu", "cuda"] and completion.weights("") == ["ema", "raw"]


def test_paths_are_completed_as_they_were_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / "set.zip").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.models("runs/") == ["runs/one/"] and "runs/" in completion.models("")
    assert completion.data("runs/") == ["runs/one/", "runs/set.zip"]
    assert completion.data("zip:runs/s") == ["zip:runs/set.zip"]
    assert completion.data(f"{tmp_path}/r") == [f"{tmp_path}/runs/"] and completion.models("no/such/") == []


def test_classes_are_those_of_the_model_on_the_line(trained: Path) -> None:
    class Context:
        def __init__(self, model: Path) -> None:
            self.params = {"model": str(model)}

    assert completion.classes(Context(trained), "") == [str(digit) for digit in range(10)]  # type: ignore[arg-type]
    assert completion.classes(Context(trained), "3") == ["3"]  # type: ignore[arg-type]
    assert completion.classes(Context(trained / "nothing"), "") == []  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["sample flowers --class d", "sample flowers --seed 1 --class d"])
def test_a_shell_is_given_classes(line: str) -> None:
    words = {
        "COMP_WORDS": f"undiffuse {line}",
        "COMP_CWORD": str(len(line.split())),
        "_UNDIFFUSE_COMPLETE": "complete_bash",
    }
    program = "import sys; sys.argv = ['undiffuse']; from undiffuse.cli.main import app; app(prog_name='undiffuse')"
    requested = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **words}, capture_output=True, text=True
    )
    assert requested.stdout.split() == ["daisy", "dandelion"]


def test_a_shell_is_answered_without_torch() -> None:
    line = {"COMP_WORDS": "undiffuse sample mnist --sampler dd", "COMP_CWORD": "4"}
    requested = {"_UNDIFFUSE_COMPLETE": "complete_bash", **line}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, **requested}, check=False
    )
    assert ran.stdout.split() == ["ddim"] and "heavy: []" in ran.stderr, ran.stderr
