"""Public data sets downloaded from their publishers: their URLs and a resumable downloader."""

from undiffuse.data.download.get import DownloadResult, get
from undiffuse.data.download.sets import SETS, PublicSet, Remote

__all__ = ["SETS", "DownloadResult", "PublicSet", "Remote", "get"]
