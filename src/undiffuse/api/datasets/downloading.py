"""Public data sets, downloaded from their publishers and verified."""

from __future__ import annotations

from pathlib import Path

from undiffuse.api.outputs import check_out
from undiffuse.data.download import SETS as SETS
from undiffuse.data.download import DownloadResult as DownloadResult
from undiffuse.data.download import PublicSet as PublicSet
from undiffuse.data.download import Remote as Remote
from undiffuse.data.download import get
from undiffuse.observer import stage
from undiffuse.registry import lookup


def public_set(name: str) -> PublicSet:
    """Look up a public data set by name.

    Raises:
        UsageError: there is none.
    """
    found: PublicSet = lookup(SETS, name, "public data set")
    return found


def fetch(public: PublicSet, folder: Path) -> DownloadResult:
    """Download the files of a set that are missing in a folder, and verify all of them.

    Args:
        public: the set.
        folder: that holds it.
    """
    check_out(folder)
    with stage("fetching", unit="bytes") as observer:
        return get(public, folder, observer)
