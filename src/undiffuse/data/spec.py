"""Parsing of ``--data SRC`` on the command line. Imports neither torch nor Pillow."""

from __future__ import annotations

from pathlib import Path

from undiffuse.config import validate
from undiffuse.data.config import FolderConfig, SourceConfig, TarConfig
from undiffuse.data.readers.text import readable
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.data.sources.layout.detection import FILES, FOLDERS
from undiffuse.data.sources.layout.naming import no_source
from undiffuse.data.sources.layout.tar_files import names_shards
from undiffuse.errors import UsageError


def source_config_for(spec: str) -> SourceConfig:
    """Create the configuration for a short data specification.

    Args:
        spec: a registry name that needs no path (``digits``), ``name:path`` (``folder:images``), a folder or file whose
            kind is detected from its content (a folder of no known kind is read as images), or a pattern of tar
            shards (``x-{000..009}.tar``). A registry name takes precedence over a folder of the same name; write
            ``./digits`` for the folder.

    Raises:
        UsageError: if nothing matches; the message lists what is expected.
    """
    if readable(spec) != spec:
        raise UsageError(
            f"{readable(spec)}: the path is not valid UTF-8 and cannot be stored in a configuration; rename it"
        )
    name, colon, path = spec.partition(":")
    if name in SOURCE_CONFIGS and (not colon or path):
        return _named(name, path)
    location = Path(spec).expanduser()
    if spec and location.is_dir():
        return _with_path(next((model for matches, model in FOLDERS if matches(location)), FolderConfig), spec)
    if spec and location.is_file():
        return _with_path(_kind_of_file(spec, location), spec)
    if names_shards(spec):
        return TarConfig(path=spec)
    raise no_source(spec, SOURCE_CONFIGS)


def _named(name: str, path: str) -> SourceConfig:
    model = SOURCE_CONFIGS[name]
    needs_path = "path" in model.model_fields
    if needs_path and not path:
        raise UsageError(f"the source {name!r} needs a path; write {name}:PATH, or just PATH")
    if path and not needs_path:
        raise UsageError(f"the source {name!r} takes no path, got {path!r}; write {name}")
    return validate(model, {"name": name, **({"path": path} if path else {})}, f"data source {name!r}")


def _kind_of_file(spec: str, location: Path) -> type[SourceConfig]:
    for matches, model in FILES:
        if matches(location):
            return model
    compressed = location.suffix.lower() in {".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
    hint = "unpack it and name the folder" if compressed else "name its folder"
    raise UsageError(f"{spec} is a file but not an IDX (MNIST-format), zip or tar file of images; {hint}")


def _with_path(model: type[SourceConfig], path: str) -> SourceConfig:
    return validate(model, {"path": path}, f"data source {path!r}")
