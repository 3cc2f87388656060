"""What all tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist, and the programs that tests start, find compiled what one of them has compiled."""
    if getattr(config.option, "numprocesses", None):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # images of containers often set it, which costs minutes here


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: ``UNDIFFUSE_TEST_DATA``, or ``shared/data`` next to the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNDIFFUSE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}; set UNDIFFUSE_TEST_DATA to a folder with mnist/, fashion-mnist/, flowers/"
        )
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds what an earlier run left in the user's cache, nor leaves anything there."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    # a list of this machine's fonts, which takes seconds to make, is the same for all who run tests here
    os.environ.setdefault("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp().parent / "matplotlib"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Workers of pytest-xdist share the cores, and many threads on few cores are slower by an order of magnitude."""
    torch.set_num_threads(1)
    os.environ["UNDIFFUSE_PROGRESS"] = "off"  # a test may take long on a busy machine, and looks at what is printed
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(autouse=True, scope="session")
def few_rows() -> Iterator[None]:
    """Batches of 8 for the bundled models, of which tests draw a few images: 64 would be padded for nothing."""
    from torch import nn

    from undiffuse.models import denoising

    rows_by_size = denoising.fixed_batch_size

    def rows(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
        small = sum(parameter.numel() for parameter in network.parameters()) < 1e6
        return rows_by_size(network, shape, device) if small else 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "fixed_batch_size", rows)
        yield


@pytest.fixture(scope="session")
def zoo_tool() -> ModuleType:
    """``tools/make_zoo_model.py``, which is no part of the package."""
    path = Path(__file__).resolve().parents[1] / "tools" / "make_zoo_model.py"
    spec = importlib.util.spec_from_file_location("make_zoo_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
