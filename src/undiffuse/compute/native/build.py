"""The library made of this folder's C++ source, compiled once for each kind of processor and kept."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

from undiffuse.compute.compiled import cache_folder

SOURCE = Path(__file__).with_name("norm.cpp")
#: Every instruction of this processor, vectors of full width; errno and floating-point traps are nobody's business.
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math")
_LINKED = ("-shared", "-fPIC", "-pthread")
#: Seconds that a compiler may take; it needs about three.
_PATIENCE = 120
_MAKING = threading.Lock()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None on another system than Linux on x86, or where there is no working C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        with _MAKING:
            return _declared(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, subprocess.SubprocessError):  # no folder to write to, a flag that it does not know
        return None


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernels.norm_forward.argtypes = [*[pointer] * 6, ctypes.c_float, integer, pointer, pointer, integer]
    kernels.norm_backward.argtypes = [*[pointer] * 7, integer, *[pointer] * 5, integer]
    kernels.norm_forward.restype = kernels.norm_backward.restype = None
    return kernels


def _compiled(compiler: str) -> Path:
    """Path of the library, which is compiled unless it lies there."""
    path = cache_folder() / f"norm-{_fingerprint(compiler)}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *_FLAGS, *_LINKED, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE)
        made.replace(path)  # in one step: another process may be doing the same
    return path


def _fingerprint(compiler: str) -> str:
    """Differs where source, flags, compiler or processor do: homes are shared between machines."""
    parts = [SOURCE.read_bytes(), " ".join(_FLAGS).encode(), Path(compiler).resolve().as_posix().encode()]
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    told = {line for line in processor if line.startswith(("model name", "flags"))}
    return hashlib.sha256(b"\0".join([*parts, *(line.encode() for line in sorted(told))])).hexdigest()[:16]
