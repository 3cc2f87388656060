"""What needs no mathematics imports none: the command line answers before a person notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "scipy", "sklearn", "matplotlib")

#: What sampling has no use for, and what of this package it may use; modules that ``import torch`` brings do not count.
NEVER_FOR_SAMPLING = (
    *("scipy", "sklearn", "matplotlib", "jinja2", "rich", "sympy", "networkx", "pyarrow", "tensorboard"),
    *("torch._dynamo", "torch._inductor", "torch.distributed", "torch.utils.data", "torch.onnx", "torchvision"),
)
PACKAGES_FOR_SAMPLING = (
    *(
        "api",
        "cli",
        "compute",
        "conditioning",
        "core",
        "guidance",
        "losses",
        "models",
        "networks",
        "samplers",
        "zoo",
    ),
    *(
        "cancellation",
        "captions",
        "locking",
        "config",
        "cores",
        "errors",
        "files",
        "advice",
        "images",
        "leftovers",
        "limits",
        "observer",
        "progress",
        "registry",
        "checksums",
    ),
    *("user_cache", "version", "wording"),
    "studies",  # the names alone, see below
)
#: Of other rooms, what the command line is checked by before it is known which it needs: nothing heavy.
CHECKED_BY = {
    *("undiffuse.data", "undiffuse.data.prepare", "undiffuse.data.prepare.checks"),
    *("undiffuse.diagnostics", "undiffuse.diagnostics.findings", "undiffuse.diagnostics.limits", "undiffuse.recipes"),
    *("undiffuse.training", "undiffuse.training.widths"),
    *("undiffuse.studies.study_file", "undiffuse.studies.option_parsing"),
}

SAMPLING = """
import sys
import torch
before = set(sys.modules)
from undiffuse.cli.main import main
try:
    main(["sample", "mnist", "-n", "1", "--steps", "1"])
except SystemExit as stop:
    assert not stop.code, stop.code
print(*sorted(set(sys.modules) - before))
"""

PROGRAM = """
import contextlib, io, sys
arguments = {arguments!r}
if arguments is None:
    import undiffuse
    dir(undiffuse)
else:
    from undiffuse.cli.main import main
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as stop:
            assert not stop.code, stop.code
    assert out.getvalue().strip()
print([name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [None, ["--help"], ["--version"], ["train", "--help"], ["recipes"], ["data", "list"], ["models"]],
    ids=str,
)
def test_no_heavy_import(arguments: list[str] | None) -> None:
    program = PROGRAM.format(arguments=arguments, heavy=HEAVY)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", ran.stdout


def test_sampling_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SAMPLING], capture_output=True, text=True, check=True, cwd=tmp_path)
    names = ran.stdout.splitlines()[-1].split()
    assert "undiffuse.models.denoising" in names and "undiffuse.objectives" not in names
    assert [name for name in names if any(name == no or name.startswith(no + ".") for no in NEVER_FOR_SAMPLING)] == []
    packages = {name.split(".")[1] for name in set(names) - CHECKED_BY if name.startswith("undiffuse.")}
    assert packages - set(PACKAGES_FOR_SAMPLING) == set()
    assert [name for name in set(names) - CHECKED_BY if name.startswith("undiffuse.studies.")] == []


def test_help_is_quick() -> None:
    """0.1 s of the processor's time, which others on the machine do not take; the bound is wide all the same."""

    def seconds() -> float:
        before = os.times()
        program = "from undiffuse.cli.main import main; main(['--help'])"
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 2
