"""Freed memory stays with the process where it is asked to, and nowhere else."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from undiffuse.compute.memory import keep_freed_memory

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        kept = [torch.ones(1_000_000) for _ in range(10)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = fresh_pages()
print(keep_freed_memory(), before, (fresh_pages(), fresh_pages())[1])
"""


REQUESTS = "from undiffuse.compute.memory import keep_freed_memory; print(keep_freed_memory())"


def answer(program: str, **environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    kept |= {"OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="says nothing to other C libraries than glibc")
def test_blocks_are_not_fetched_again() -> None:
    message, before, after = answer(FAULTS)
    assert message == "True"
    assert int(after) < int(before) / 10, (before, after)


@pytest.mark.parametrize(
    "environment", [{"UNDIFFUSE_COMPUTE": "memory=off"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["choice", "user"]
)
def test_whoever_reports_otherwise_is_received(environment: dict[str, str]) -> None:
    assert answer(REQUESTS, **environment)[0] == "False"
