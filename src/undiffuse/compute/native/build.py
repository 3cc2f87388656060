"""Compile this folder's C++ source to a shared library, once for each type of processor, and cache it.

It is loaded only from a folder and a file that no other user can write to.
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
from undiffuse.compute.private_folder import ensure_private, reason_not_owned

SOURCE = Path(__file__).with_name("norm.cpp")
#: All instructions of this processor, full vector width; errno and floating-point traps are not used.
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math")
_LINKED = ("-shared", "-fPIC", "-static-libstdc++", "-static-libgcc")
#: Timeout of the compiler in seconds; it takes about five.
_TIMEOUT = 120
_LOCK = threading.Lock()
_LOADED: list[ctypes.CDLL | None] = []  # the result of the first call, empty before
_CHECKSUM = hashlib.sha256
_CHECKSUM_BYTES = 32


def library() -> ctypes.CDLL | None:
    """The compiled library; None on systems other than Linux on x86, or without a working C++ compiler.

    ``CXX`` sets a compiler other than ``c++``. If compilation fails, a warning is issued.
    """
    if not _LOADED:
        with _LOCK:
            if not _LOADED:
                kernels, reason = _load()
                _LOADED.append(kernels)
                if reason:
                    _warn(reason)
    return _LOADED[0]


@cache
def compiler_name() -> str:
    """The first line of the compiler's ``--version``; "unknown" if it prints nothing."""
    try:
        output = subprocess.run([*_command(), "--version"], capture_output=True, timeout=_TIMEOUT, check=False).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):
        output = b""
    return (output.decode(errors="replace").splitlines() or ["unknown"])[0]


def _command() -> list[str]:
    return shlex.split(os.environ.get("CXX", "").strip() or "c++")


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library and "", or None and the reason of a failure; the reason is "" on unsupported systems."""
    try:
        command = _command()
        if platform.system() != "Linux" or platform.machine() != "x86_64" or shutil.which(command[0]) is None:
            return None, ""
        return _declared(ctypes.CDLL(str(_compiled(command)))), ""
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode(errors="replace").strip().splitlines()
        return None, output[0] if output else f"the compiler exits with code {error.returncode}"
    except (OSError, RuntimeError, ValueError, AttributeError, subprocess.TimeoutExpired) as error:
        return None, str(error)  # no home folder, a read-only folder, or an invalid library


def _warn(reason: str) -> None:
    warnings.warn(
        f"using torch's norms, because {SOURCE.name} could not be compiled and loaded ({reason}); "
        "UNDIFFUSE_COMPUTE=fused=off disables the attempt",
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
    """Path of the library, which is compiled unless an intact file exists."""
    path = ensure_private(cache_folder()) / f"norm-{_fingerprint(command)}.so"
    if _is_intact(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run(
            [*command, *_FLAGS, *_LINKED, "-o", str(built), str(SOURCE)],
            check=True,
            capture_output=True,
            timeout=_TIMEOUT,
        )
        content = built.read_bytes()
        built.write_bytes(content + _CHECKSUM(content).digest())
        built.chmod(0o700)
        built.replace(path)  # atomic, since another process may do the same
    return path


def _is_intact(path: Path) -> bool:
    """Whether the file is this user's and ends with its checksum; loading a truncated library crashes the process."""
    content = path.read_bytes() if path.is_file() and not reason_not_owned(path) else b""
    return content[-_CHECKSUM_BYTES:] == _CHECKSUM(content[:-_CHECKSUM_BYTES]).digest()


def _fingerprint(command: list[str]) -> str:
    """A hash of source, command, compiler and processor, since home folders may be shared between machines."""
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    features = sorted({line for line in processor if line.startswith(("model name", "flags"))})
    parts = [SOURCE.read_bytes(), repr([*command, *_FLAGS, *_LINKED, str(compiler), *features]).encode()]
    return _CHECKSUM(b"\0".join(parts)).hexdigest()[:16]
