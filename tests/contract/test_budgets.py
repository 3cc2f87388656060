"""What git tracks and what the wheel holds stays within the bytes of ``tools/budgets.toml``."""

from __future__ import annotations

import subprocess
import tomllib
import zlib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from undiffuse.zoo.card import ALL_BYTES, MODEL_BYTES

ROOT = Path(__file__).resolve().parents[2]
BUDGETS: dict[str, dict[str, int]] = tomllib.loads((ROOT / "tools" / "budgets.toml").read_text(encoding="utf-8"))
#: Of a file's name and place in an archive, at most: what a zip needs per member next to its bytes.
MEMBER_BYTES = 300


def tracked(folder: str = ".") -> dict[str, int]:
    """Bytes of the files that git tracks below ``folder``, or would after ``git add``."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return {str(path.relative_to(ROOT)): path.stat().st_size for path in paths if path.is_file()}


def megabytes(number: int) -> str:
    return f"{number / 1e6:.1f}".removesuffix(".0")


def test_everything_that_git_tracks() -> None:
    sizes = tracked()
    assert sum(sizes.values()) < BUDGETS["all"]["tracked"], sorted(sizes, key=sizes.__getitem__)[-10:]


def test_the_wheel() -> None:
    """Packed file by file, as the wheel packs them; building it takes longer."""
    total = 0
    for file in WheelBuilder(str(ROOT)).recurse_included_files():
        total += len(zlib.compress(Path(file.path).read_bytes())) + MEMBER_BYTES
    assert total <= BUDGETS["all"]["wheel"]


def test_no_rounds_of_benchmarks() -> None:
    """Their pages are summaries; every round lies next to them and is ignored."""
    assert not [name for name in tracked("benchmarks") if name.endswith(".json")]


def test_the_budgets_fit_into_that_of_all() -> None:
    """With what is to come in place of what it replaces."""
    assert sum((BUDGETS["weights"] | BUDGETS["to-come"]).values()) <= BUDGETS["all"]["zoo"]


def test_every_bundled_model_has_one() -> None:
    models = {path.parent.name for path in (ROOT / "src" / "undiffuse" / "zoo").glob("*/config.json")}
    assert models == set(BUDGETS["weights"])


def test_contributing_shows_them() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    everything = BUDGETS["all"]
    rows = [f"| `{name}` | {megabytes(size)} MB |" for name, size in BUDGETS["weights"].items()]
    rows += [f"| `{name}`, to come | {megabytes(size)} MB |" for name, size in BUDGETS["to-come"].items()]
    rows += [f"| {name} | {megabytes(size)} MB |" for name, size in named(everything).items()]
    assert "\n".join(["| what | at most |", "|---|---|", *rows]) in text, "\n".join(rows)


def named(everything: dict[str, int]) -> dict[str, int]:
    """The budgets of ``[all]`` by what they are of."""
    words = {"zoo": "all bundled models, cards and samples included", "wheel": "the wheel", "tracked": "all of git"}
    return {words[key]: size for key, size in everything.items()}


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in (ROOT / "src/undiffuse/zoo").glob("*/config.json"))
)
def test_the_weights_of_a_bundled_model(name: str) -> None:
    sizes = tracked(f"src/undiffuse/zoo/{name}")
    assert sum(size for path, size in sizes.items() if path.endswith(".safetensors")) <= BUDGETS["weights"][name]


def test_all_bundled_models() -> None:
    assert sum(tracked("src/undiffuse/zoo").values()) <= BUDGETS["all"]["zoo"]


def test_the_package_knows_the_same_bytes() -> None:
    assert max((BUDGETS["weights"] | BUDGETS["to-come"]).values()) == MODEL_BYTES
    assert BUDGETS["all"]["zoo"] == ALL_BYTES
