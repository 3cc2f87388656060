"""Public data sets fetched from their publishers: what lies where, and getting it whole."""

from undiffuse.data.download.get import DownloadResult, get
from undiffuse.data.download.sets import SETS, PublicSet, Remote

__all__ = ["SETS", "DownloadResult", "PublicSet", "Remote", "get"]
