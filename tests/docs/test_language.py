"""The code and its pages speak as papers do: none of the words that ``tools/language.py`` knows better ones for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def language() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "language.py"))


def test_all_words_are_the_field_s(language: dict[str, Any]) -> None:
    found = [finding for path in language["files"](language["FOLDERS"]) for finding in language["findings"](path)]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("planted.py", "def load_pictures(): ...\n", "pictures"),  # data
        ("planted.py", "class LatentSystem: ...\n", "LatentSystem"),  # data
        ("planted.py", "value = _machine.name\n", "machine"),
        ("planted.py", "def choice(self): ...\n", "choice"),
        ("planted.py", '"""Not beside it."""\n', "beside"),  # data
        ("planted.md", "Samples that were\npassed over.\n", "passed over"),  # data
        ("test_bad_pictures.py", "", "pictures"),  # data
    ],
)
def test_a_word_that_is_not_is_found(name: str, text: str, word: str, language: dict[str, Any]) -> None:
    (found,) = language["findings"](ROOT / "src" / name, text)
    assert found.word == word and f"src/{name}:" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "def load_images(): ...\n",
        'row["pictures"]\n',  # data
        "self.told = 1  # data\n",  # data
        "rng.choice(3)\n",
        "platform.machine()\n",
        '"""A toolkit, gamescope and all."""\n',
    ],
)
def test_names_that_are_data_or_another_library_s_stay(text: str, language: dict[str, Any]) -> None:
    assert not list(language["findings"](ROOT / "src" / "planted.py", text))
