"""``undiffuse data get``: download of public data sets."""

from __future__ import annotations

from pathlib import Path

from undiffuse.api.datasets.downloading import SETS, DownloadResult, PublicSet, Remote, fetch, public_set
from undiffuse.api.outputs import check_out
from undiffuse.cli.terminal import print_line, size_in_bytes
from undiffuse.errors import RunError, UsageError
from undiffuse.wording import command, count_noun, quoted


def list_sets() -> None:
    """Print the sets with their size and licence."""
    width = max(map(len, SETS))
    for name, public in SETS.items():
        print_line(f"{name:<{width}}  {public.about}; {_size_of(public)}; licence: {public.licence}")
    print_line("next: undiffuse data get NAME")


def get_set(name: str, out: Path | None) -> None:
    """Download a set and print the value for ``--data``, or instructions for a manual download.

    Raises:
        UsageError: an unknown name, or a set that needs a manual download and is missing.
        RunError: the publisher cannot be reached.
    """
    public = public_set(name)
    folder = out or Path("data") / name
    check_out(folder)
    print_line(f"{public.about}; licence: {public.licence}")
    found = fetch(public, folder)
    if found.missing:
        _report_missing(name, public, folder, found)
    what = f"fetched {count_noun(len(found.fetched), 'file')}" if found.fetched else "all files were there"
    print_line(
        f"{what} and checked; next: {command('data', 'info', found.data)}, or train with --data {quoted(found.data)}"
    )
    if public.hint:
        print_line(f"note: {public.hint}")


def _report_missing(name: str, public: PublicSet, folder: Path, found: DownloadResult) -> None:
    """Print the missing files, one per line, and raise an error with the reason and the next step."""
    print_line(f"to be put into {folder}:")
    for file in found.missing:
        print_line(f"  {_line(file)}")
    retry = command("data", "get", name, "--out", folder)
    advice = f"put the {count_noun(len(found.missing), 'file')} above into {folder} and run again: {retry}"
    if found.reason:
        raise RunError(f"cannot fetch {name}: {found.reason}; try later, or {advice}")
    raise UsageError(f"{name} has to be fetched by hand ({public.licence}): {advice}")


def _line(file: Remote) -> str:
    size = "size not known" if file.size is None else f"{file.size} bytes"
    return (
        f"{file.name}  {size}, {file.checksum or 'no checksum known'}, from {file.urls[0] if file.urls else file.page}"
    )


def _size_of(public: PublicSet) -> str:
    size = size_in_bytes(public.size) if public.size else "size not known"
    return f"{size}, by hand" if public.manual else size
