"""Code, messages and pages speak the field's words: nothing that ``tools/language.py`` looks for is left."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def language() -> ModuleType:
    spec = importlib.util.spec_from_file_location("language", ROOT / "tools" / "language.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_words_are_the_fields(language: ModuleType) -> None:
    found = [str(one) for path in language.files(language.FOLDERS) for one in language.findings(path)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def load_pictures(folder): ...\n", ["pictures"]),
        ('raise ValueError("the network is told the time")\n', ["told"]),
        ("x = 1  # one step a row, beside the others\n", ["beside", "step a row"]),
        ("class Watch: ...\n", ["Watch"]),
        ('key = "pictures"\nold = load_pictures  # data\n', []),
        ("image = load_image(path)  # per sample\n", []),
    ],
)
def test_a_word_that_is_not_is_found(
    language: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    monkeypatch.setattr(language, "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(text)
    assert [one.word for one in language.findings(tmp_path / "module.py")] == words
