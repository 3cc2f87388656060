"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: ``UNDIFFUSE_TEST_DATA``, or ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNDIFFUSE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}; set UNDIFFUSE_TEST_DATA to a folder with mnist/, fashion-mnist/, flowers/"
        )
    return folder
