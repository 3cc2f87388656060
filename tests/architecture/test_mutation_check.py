"""The tables of mutations are well formed, and the tool that tries them says what is so."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "mutations"
FIELDS = {"name", "file", "function", "pattern", "replacement"}
#: A package of one function, its test and a table.
SOURCE = """\
def other(x):
    return x + 1


class Line:
    def at(self, x):
        return (
            x + 1
        )
"""
TEST = "from undiffuse.core.line import Line, other\n\n\ndef test_at():\n    assert Line().at(1) == 2\n"
ROW = {"name": "line: slope", "file": "core/line.py", "function": "Line.at", "pattern": "return (x + 1", "test": ""}


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import mutation_check

        patch.setattr(mutation_check, "PRELOADED", ["pytest", "hypothesis"])  # what the small tests need
        yield mutation_check


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout that holds what the constants above say."""
    files = {
        "src/undiffuse/__init__.py": "",
        "src/undiffuse/core/__init__.py": "",
        "src/undiffuse/core/line.py": SOURCE,
        "tests/test_line.py": TEST,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_tables_are_well_formed(tool: ModuleType) -> None:
    """A stale row is none of this test's business: ``tools/mutation_check.py --check`` tells of it."""
    names: list[str] = []
    for table in sorted(FOLDER.glob("*.toml")):
        for row in tomllib.loads(table.read_text(encoding="utf-8"))["mutation"]:
            assert set(row) - {"test", "tests"} == FIELDS and ("test" in row) != ("tests" in row), row
            assert row["file"].split("/")[0] == table.stem, row["name"]
            assert row["pattern"].split() != row["replacement"].split(), row["name"]
            names.append(row["name"])
    assert len(set(names)) == len(names) > 200
    assert {path.suffix for path in FOLDER.iterdir()} == {".toml"}


def test_every_test_of_the_tables_exists(tool: ModuleType) -> None:
    missing = {test for row in tool.read_rows(FOLDER) for test in row.tests if not tool.is_there(test, ROOT)}
    assert not missing


def row(tool: ModuleType, **changes: str) -> object:
    given = {**ROW, "replacement": "return (x - 1", "test": "tests/test_line.py::test_at", **changes}
    return tool.row_of("core", given)


def test_a_pattern_is_broken_in_its_function_alone_however_it_is_wrapped(tool: ModuleType, small: Path) -> None:
    text = tool.broken(row(tool), small / "src" / "undiffuse")
    assert text == SOURCE.replace("return (\n            x + 1", "return (x - 1")
    assert tool.broken(row(tool, pattern="x + 1", replacement="x"), small / "src" / "undiffuse").count("x + 1") == 1


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("file", "core/gone.py", "no file"),
        ("function", "Line.gone", "no Line.gone"),
        ("pattern", "x + 2", "stands 0 times"),
        ("pattern", "turn (x + 1", "stands 0 times"),
        ("pattern", "x", "stands 2 times"),
        ("replacement", "return", "not valid Python"),
        ("test", "tests/test_line.py::test_gone", "no test"),
    ],
)
def test_what_is_removed_is_reported_and_is_no_failure(
    tool: ModuleType, small: Path, capsys: pytest.CaptureFixture[str], field: str, value: str, reason: str
) -> None:
    count = tool.check([row(tool, **{field: value}), row(tool)], small)
    assert count == {"stale": 1, "fresh": 1}
    assert reason in capsys.readouterr().out


def test_a_c_function_is_found_by_its_braces(tool: ModuleType) -> None:
    text = "int f(int x) { return x; }\nint g(int x) {\n  if (x) { return f(x); }\n  return x;\n}\n"
    assert [text[place] for place in sys.modules["definitions"].places(text, ".cpp", "g")] == [
        text[text.index("int g") :]
    ]


def test_conclusions_and_exit_codes(tool: ModuleType, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, with tests that run in processes of their own."""
    rows = {
        "killed": {},
        "SURVIVED": {"file": "core/line.py", "function": "other", "pattern": "x + 1", "replacement": "x"},
        "stale": {"function": "Line.gone"},
        "UNSOUND": {"test": "tests/test_line.py::test_falls"},
        "skipped": {"test": "tests/test_line.py::test_skipped"},
    }
    more = (
        "\n\ndef test_falls():\n    assert False\n\n\ndef test_skipped():\n    import pytest\n\n    pytest.skip('no')\n"
    )
    (small / "tests" / "test_line.py").write_text(TEST + more, encoding="utf-8")
    tables = small / "tests" / "mutations"
    tables.mkdir()
    for conclusion, changes in rows.items():
        fields = {**ROW, "replacement": "return (x - 1", "test": "tests/test_line.py::test_at", **changes}
        fields["name"] = f"line: {conclusion}"
        lines = [f"{key} = '{value}'" for key, value in fields.items()]
        (tables / f"{conclusion}.toml").write_text("[[mutation]]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert tool.main([], small) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[:-1]) == sorted(rows)
    assert all(f"line: {line.split()[0]}" in line for line in lines[:-1])
    assert lines[-1] == "5 rows: 1 SURVIVED, 1 UNSOUND, 1 killed, 1 skipped, 1 stale"
    assert (small / "src" / "undiffuse" / "core" / "line.py").read_text(encoding="utf-8") == SOURCE
    assert tool.main(["--check", "line: killed", "stale"], small) == 0  # a name, and a room
    assert capsys.readouterr().out.splitlines()[-1] == "2 rows: 1 fresh, 1 stale"
    with pytest.raises(SystemExit) as exit_code:
        tool.main(["nonsense"], small)
    assert exit_code.value.code == 2


@pytest.mark.slow
def test_a_broken_formula_fells_its_test(tool: ModuleType) -> None:
    assert tool.main(["bridge: c_t not squared", "heun: whole for half", "term: half forgotten"]) == 0
