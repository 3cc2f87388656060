"""What is taken for a published set unasked, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import png, write_tar, write_tree, write_zip
from published_sets import PUBLISHED, celeba, emoji_files

from undiffuse.data import load_dataset, source_config_for
from undiffuse.errors import UsageError


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_set_is_known_without_its_name(tmp_path: Path, name: str) -> None:
    path = PUBLISHED[name](tmp_path)
    config = source_config_for(str(path))
    assert config.name == name and source_config_for(f"{name}:{path}") == config
    assert len(load_dataset(config)) >= 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_source_reports_what_is_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / "nothing"
    with pytest.raises(UsageError, match=r"no such file|no LMDB database") as caught:
        load_dataset(source_config_for(f"{name}:{path}"))
    assert str(caught.value).startswith(str(path)) and "expected" in str(caught.value)
    with pytest.raises(UsageError, match="needs a path"):
        source_config_for(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_source_rejects_a_file_and_a_folder_of_another_kind(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "folder", {"notes.md": "nothing"})
    for path in (tmp_path / "folder" / "notes.md", tmp_path / "folder"):
        with pytest.raises(UsageError) as caught:
            load_dataset(source_config_for(f"{name}:{path}"))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_plain_images_are_taken_for_nothing_else(tmp_path: Path) -> None:
    files = {f"{kind}/{number:05}.png": png(number) for number in range(9) for kind in ("cat", "dog")}
    folder = write_tree(tmp_path / "images", {**files, "train/meta.txt": "x", "test_images.txt": "x"})
    assert source_config_for(str(folder)).name == "folder"
    assert source_config_for(str(write_zip(tmp_path / "images.zip", files))).name == "zip"
    for ending in ("tar", "tar.gz"):
        assert source_config_for(str(write_tar(tmp_path / f"images.{ending}", files))).name == "tar"


@pytest.mark.parametrize("content", [b"\xff" * 3073, bytes(3000), b"", np.arange(5000, dtype=np.uint8).tobytes()])
def test_other_binary_files_are_not_cifar(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is a file but not"):
        source_config_for(str(path))


def test_a_damaged_archive_is_left_to_its_reader(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "emoji.zip", emoji_files())
    path.write_bytes(path.read_bytes()[:-200])
    config = source_config_for(str(path))
    with pytest.raises(UsageError, match=r"emoji\.zip: .*(cut short|damaged)"):
        load_dataset(config)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    expected = load_dataset(source_config_for(str(celeba(tmp_path)))).fingerprint
    (tmp_path / "img_align_celeba" / "again").symlink_to(tmp_path)
    assert load_dataset(source_config_for(str(tmp_path))).fingerprint == expected
