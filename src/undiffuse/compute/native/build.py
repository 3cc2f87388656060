"""The library made of this folder's C++ source, compiled once for each kind of processor and kept.

It is loaded only from a folder and a file that nobody but this user could write to.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path

from undiffuse.compute.compiled import cache_folder
from undiffuse.compute.private_folder import private, why_not_own

SOURCE = Path(__file__).with_name("norm.cpp")
#: Every instruction of this processor, vectors of full width; errno and floating-point traps are nobody's business.
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math")
_LINKED = ("-shared", "-fPIC", "-static-libstdc++", "-static-libgcc")
#: Seconds that a compiler may take; it needs about five.
_PATIENCE = 120
_MAKING = threading.Lock()
_HELD: list[ctypes.CDLL | None] = []  # the outcome, when there is one
_CHECKSUM = hashlib.sha256
_CHECKSUM_BYTES = 32


def library() -> ctypes.CDLL | None:
    """The compiled library; None on another system than Linux on x86, or where there is no working C++ compiler.

    ``CXX`` names another compiler than ``c++``. Where it fails, a warning is given.
    """
    if not _HELD:
        with _MAKING:
            if not _HELD:
                kernels, why = _made()
                _HELD.append(kernels)
                if why:
                    _warn(why)
    return _HELD[0]


@cache
def compiler_name() -> str:
    """The first line of the compiler's ``--version``; "unknown" where it prints nothing."""
    try:
        said = subprocess.run([*_command(), "--version"], capture_output=True, timeout=_PATIENCE, check=False).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):
        said = b""
    return (said.decode(errors="replace").splitlines() or ["unknown"])[0]


def _command() -> list[str]:
    return shlex.split(os.environ.get("CXX", "").strip() or "c++")


def _made() -> tuple[ctypes.CDLL | None, str]:
    """The library or, with a reason where there should be one, None."""
    try:
        command = _command()
        if platform.system() != "Linux" or platform.machine() != "x86_64" or shutil.which(command[0]) is None:
            return None, ""
        return _declared(ctypes.CDLL(str(_compiled(command)))), ""
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return None, said[0] if said else f"the compiler exits {error.returncode}"
    except (OSError, RuntimeError, ValueError, AttributeError, subprocess.TimeoutExpired) as error:
        return None, str(error)  # no home, a folder that cannot be written to, not what was to be made


def _warn(why: str) -> None:
    warnings.warn(
        f"norms are torch's, for {SOURCE.name} could not be compiled and loaded ({why}); UNDIFFUSE_COMPUTE=fused=off "
        "does not try",
        RuntimeWarning,
        stacklevel=3,
    )


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernels.norm_forward.argtypes = [*[pointer] * 6, ctypes.c_float, integer, *[pointer] * 2]
    kernels.norm_backward.argtypes = [*[pointer] * 7, integer, *[pointer] * 5]
    kernels.norm_forward.restype = kernels.norm_backward.restype = None
    return kernels


def _compiled(command: list[str]) -> Path:
    """Path of the library, which is compiled unless it lies there whole."""
    path = private(cache_folder()) / f"norm-{_fingerprint(command)}.so"
    if _is_whole(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run(
            [*command, *_FLAGS, *_LINKED, "-o", str(made), str(SOURCE)],
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
        )
        content = made.read_bytes()
        made.write_bytes(content + _CHECKSUM(content).digest())
        made.chmod(0o700)
        made.replace(path)  # in one step: another process may be doing the same
    return path


def _is_whole(path: Path) -> bool:
    """Is it this user's, and does it end with the checksum of what stands before? One cut short kills who loads it."""
    content = path.read_bytes() if path.is_file() and not why_not_own(path) else b""
    return content[-_CHECKSUM_BYTES:] == _CHECKSUM(content[:-_CHECKSUM_BYTES]).digest()


def _fingerprint(command: list[str]) -> str:
    """Differs where source, command, compiler or processor do: homes are shared between machines."""
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    features = sorted({line for line in processor if line.startswith(("model name", "flags"))})
    parts = [SOURCE.read_bytes(), repr([*command, *_FLAGS, *_LINKED, str(compiler), *features]).encode()]
    return _CHECKSUM(b"\0".join(parts)).hexdigest()[:16]
