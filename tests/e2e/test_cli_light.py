"""What needs no mathematics imports none: the command line answers before a person notices."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "scipy", "sklearn", "matplotlib")

PROGRAM = """
import contextlib, io, sys
arguments = {arguments!r}
if arguments is None:
    import undiffuse
    dir(undiffuse)
else:
    from undiffuse.app.cli import main
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as stop:
            assert not stop.code, stop.code
    assert out.getvalue().strip()
print([name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [None, ["--help"], ["--version"], ["train", "--help"], ["recipes"], ["data", "list"]], ids=str
)
def test_no_heavy_import(arguments: list[str] | None) -> None:
    program = PROGRAM.format(arguments=arguments, heavy=HEAVY)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", ran.stdout


def test_help_is_quick() -> None:
    """0.1 s on an idle machine; the bound is wide because test machines are not."""

    def seconds() -> float:
        started = time.perf_counter()
        program = "from undiffuse.app.cli import main; main(['--help'])"
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 2
