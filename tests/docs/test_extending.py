"""The patches of the guide on extending apply to the sources, are as small as it says, and do what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, Snippet, snippets

PAGE = ROOT / "docs" / "guides" / "extending.md"
BLOCKS = [snippet for snippet in snippets() if snippet.page == PAGE]
DIFFS = [block for block in BLOCKS if block.language == "diff"]
CODE = [block for block in BLOCKS if block.language == "python"]
#: Files that are new, and files that exist and get an entry or a use, of each in the order of the page.
FILES = {"sampler": (1, 1), "network": (1, 1), "data source": (2, 1), "option": (1, 2), "loss": (1, 1)}


def touched(diff: Snippet) -> tuple[int, int]:
    new = diff.text.count("--- /dev/null")
    return new, len(re.findall(r"^\+\+\+ ", diff.text, re.MULTILINE)) - new


def test_an_addition_touches_as_few_files_as_it_reports() -> None:
    assert [touched(diff) for diff in DIFFS] == list(FILES.values())


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with all patches on it; the bundled models are the originals."""
    if shutil.which("git") is None:
        pytest.skip("git, which applies the patches, is not there")
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignored)
    for weights in (ROOT / "src").rglob("*.safetensors"):
        (root / weights.relative_to(ROOT)).symlink_to(weights)
    (root / "tests" / "contract").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "contract" / "test_options.py", root / "tests" / "contract")
    for folder in ("tools", "docs/reference"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-p0", "-C1", "-"], cwd=root, input=diff.text, text=True, check=True)
    return root


def test_what_follows_each_patch_runs(patched: Path) -> None:
    program = "\n".join(block.text for block in CODE) + "\nprint('ran', undiffuse.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(patched / "src")}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=patched)
    assert ran.stdout.splitlines()[-1:] == [f"ran {patched / 'src' / 'undiffuse' / '__init__.py'}"], ran.stderr
    assert len(CODE) == len(FILES)


#: Of the tests of all options those of this one, and that commands have every flag.
PAGE_THEN_TESTS = """
import runpy, sys, pytest
runpy.run_path("tools/make_cli_reference.py", run_name="__main__")
tests = ["tests/contract/test_options.py", "tests/contract/test_truncation.py"]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "truncation or every_flag", *tests]))
"""


def test_an_option_passes_what_all_options_have_to_and_its_own_test(patched: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(patched / "src")}
    requested = [sys.executable, "-c", PAGE_THEN_TESTS]
    ran = subprocess.run(requested, cwd=patched, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 passed" in ran.stdout, ran.stdout
    assert "--truncation" in (patched / "docs" / "reference" / "cli.md").read_text()
