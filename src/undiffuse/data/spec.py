"""What ``--data SRC`` on the command line means. Imports neither torch nor Pillow."""

from __future__ import annotations

from pathlib import Path

from undiffuse.config import validate
from undiffuse.data.config import SOURCES, FolderConfig, IdxConfig, SourceConfig
from undiffuse.data.formats.idx_files import has_idx_files, looks_like_idx
from undiffuse.errors import UsageError
from undiffuse.registry import nearest


def source_config_for(spec: str) -> SourceConfig:
    """The configuration that a short text stands for.

    Args:
        spec: a registry name that needs no path (``digits``), ``name:path`` (``folder:pictures``), a folder with IDX
            files or one such file, or any other folder (of pictures). A name wins over a folder of that name; write
            ``./digits`` for the folder.

    Raises:
        UsageError: nothing of the kind is there; the message says what would do.
    """
    name, colon, path = spec.partition(":")
    if name in SOURCES and (not colon or path):
        return _named(name, path)
    location = Path(spec).expanduser()
    if spec and location.is_dir():
        return IdxConfig(path=spec) if has_idx_files(location) else FolderConfig(path=spec)
    if spec and location.is_file():
        return _single_file(spec, location)
    raise UsageError(
        f"no data source {spec!r}: neither a source by that name ({nearest(spec, SOURCES)}) nor an existing folder of "
        "pictures or IDX files; check the path"
    )


def _named(name: str, path: str) -> SourceConfig:
    model = SOURCES[name]
    needs_path = "path" in model.model_fields
    if needs_path and not path:
        raise UsageError(f"the source {name!r} needs a path; write {name}:PATH, or just PATH")
    if path and not needs_path:
        raise UsageError(f"the source {name!r} takes no path, got {path!r}; write {name}")
    return validate(model, {"name": name, **({"path": path} if path else {})}, f"data source {name!r}")


def _single_file(spec: str, location: Path) -> SourceConfig:
    if looks_like_idx(location):
        return IdxConfig(path=spec)
    hint = (
        "unpack it and name the folder"
        if location.suffix.lower() in {".zip", ".tar", ".gz", ".tgz"}
        else "name its folder"
    )
    raise UsageError(f"{spec} is a file but not an IDX (MNIST-format) file; expected a folder of pictures: {hint}")
