"""``data get`` against a server of our own: cut transfers, wrong files, absent ones, no ranges, no network."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from undiffuse.data.download import SETS, PublicSet, Remote, fetch, get
from undiffuse.errors import RunError, UsageError
from undiffuse.observer import OnProgress

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``faults`` of a name are taken one a request: cut:BYTES, status:CODE, whole (no ranges),
    endless:MEBIBYTES (of zeros, without a length)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requested: list[tuple[str, str | None]] = []
        self.sent = 0  # bytes of endless answers

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers.get("Range")
        self.server.requested.append((name, wanted))
        fault, _, value = self._fault(name).partition(":")
        if name not in self.server.files:
            fault, value = "status", "404"
        if fault == "status":
            self.send_error(int(value))
            return
        if fault == "endless":
            self._send_without_length(int(value))
            return
        content = self.server.files[name]
        start = 0 if fault == "whole" else int(re.fullmatch(r"bytes=(\d+)-", wanted or "bytes=0-")[1])  # type: ignore[index]
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and fault != "whole" else 200)
        if wanted and fault != "whole":
            shift = 1 if fault == "shifted" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(content[start : start + int(value)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _send_without_length(self, mebibytes: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            for _ in range(mebibytes):
                self.wfile.write(bytes(2**20))
                self.server.sent += 2**20

    def _fault(self, name: str) -> str:
        faults = self.server.faults.get(name, [])
        return faults.pop(0) if faults else ""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0, 0.0))


def remote(server: Server, name: str = "a.bin", content: bytes = CONTENT, **options: Any) -> Remote:
    server.files.setdefault(name, content)
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    return Remote(**{"urls": (server.url(name),), "name": name, "size": len(content), "checksum": checksum, **options})


def a_set(*files: Remote, **options: Any) -> PublicSet:
    return PublicSet("a set", "free", files, **options)


def test_files_come_whole_and_are_not_fetched_again(server: Server, tmp_path: Path) -> None:
    public = a_set(remote(server), remote(server, "b.bin", b"other"), data="a.bin")
    reported: list[tuple[float, float, str]] = []
    found = get(public, tmp_path / "x" / "y", OnProgress(lambda *row: reported.append(row)))
    assert (tmp_path / "x/y/a.bin").read_bytes() == CONTENT and (tmp_path / "x/y/b.bin").read_bytes() == b"other"
    assert found.fetched == ("a.bin", "b.bin") and found.data == str(tmp_path / "x/y/a.bin") and not found.missing
    assert reported[-1] == (5, 5, "b.bin") and (len(CONTENT), len(CONTENT), "a.bin") in reported
    assert get(public, tmp_path / "x" / "y").fetched == () and len(server.requested) == 2


@pytest.mark.parametrize("checksum", ["md5", "sha1", "sha256", "sha512"])
def test_every_kind_of_checksum(server: Server, tmp_path: Path, checksum: str) -> None:
    digest = hashlib.new(checksum, CONTENT).hexdigest()
    assert get(a_set(remote(server, checksum=f"{checksum}:{digest}")), tmp_path).fetched
    (tmp_path / "a.bin").unlink()
    with pytest.raises(RunError, match=f"its {checksum} is"):
        get(a_set(remote(server, checksum=f"{checksum}:{digest[::-1]}")), tmp_path)


def test_a_cut_transfer_is_resumed(server: Server, tmp_path: Path) -> None:
    """As often as need be, where each try brings something."""
    server.faults["a.bin"] = ["cut:300000", "cut:5", "cut:200000", *["cut:10"] * 5]
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    requested = [ranges for _, ranges in server.requested]
    assert requested[:4] == [None, "bytes=300000-", "bytes=300005-", "bytes=500005-"] and len(requested) == 9


def test_a_run_goes_on_where_an_earlier_one_was_killed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:777_777])
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.requested == [("a.bin", "bytes=777777-")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_whole_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.requested == []


@pytest.mark.parametrize("size", [None, len(CONTENT)], ids=["size unknown", "size known"])
@pytest.mark.parametrize("there", [len(CONTENT), len(CONTENT) + 10])
def test_a_part_that_has_all_or_more(server: Server, tmp_path: Path, size: int | None, there: int) -> None:
    (tmp_path / "a.bin.part").write_bytes((CONTENT + b"0123456789")[:there])
    get(a_set(remote(server, size=size)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.faults["a.bin"] = ["cut:300000", "whole", "whole"]
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.requested) == 2


def test_a_server_that_sends_another_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.faults["a.bin"] = ["cut:300000", "shifted", ""]
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.requested) == 3


def test_a_busy_server_is_requested_again_and_not_for_ever(server: Server, tmp_path: Path) -> None:
    server.faults["a.bin"] = ["status:503", "status:429", ""]
    get(a_set(remote(server)), tmp_path)
    (tmp_path / "a.bin").unlink()
    server.faults["a.bin"] = ["status:503"] * 10
    found = get(a_set(remote(server)), tmp_path)
    assert [file.name for file in found.missing] == ["a.bin"]
    assert found.reason.endswith("the server answered 503 (Service Unavailable), 4 times in a row")


def test_what_came_before_the_cuts_is_kept(server: Server, tmp_path: Path) -> None:
    server.faults["a.bin"] = ["cut:1000", *["status:503"] * 10]
    assert "its first 1000 bytes are kept" in get(a_set(remote(server)), tmp_path).reason
    server.faults.clear()
    get(a_set(remote(server)), tmp_path)
    assert server.requested[-1] == ("a.bin", "bytes=1000-") and (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"its md5 is [0-9a-f]{32}, where 0123 was published; the download was deleted"):
        get(a_set(remote(server, checksum="md5:0123")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_without_an_end_is_left(server: Server, tmp_path: Path) -> None:
    server.faults["a.bin"] = ["endless:200"]
    with pytest.raises(RunError, match=r"a.bin: sends more than the 1048576 bytes that were published") as caught:
        get(a_set(remote(server)), tmp_path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [] and len(server.requested) == 1
    assert server.sent < 100 * 2**20


@pytest.mark.parametrize("wrong", ["checksum", "endless"])
def test_other_content_is_passed_over_where_another_place_has_the_file(
    server: Server, tmp_path: Path, wrong: str
) -> None:
    file = remote(server)
    server.files["bad.bin"] = CONTENT[::-1]
    server.faults["bad.bin"] = ["endless:20"] if wrong == "endless" else []
    urls = server.url("bad.bin"), server.url("a.bin")
    assert get(a_set(Remote(urls, "a.bin", file.size, file.checksum)), tmp_path).fetched == ("a.bin",)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and [name for name, _ in server.requested] == [
        "bad.bin",
        "a.bin",
    ]
    (tmp_path / "a.bin").unlink()
    server.files["a.bin"] = CONTENT[1:] + CONTENT[:1]
    with pytest.raises(RunError, match=r"bad.bin: its md5 is .*; http.*/a.bin: its md5 is .*the download was deleted"):
        get(a_set(Remote(urls, "a.bin", file.size, file.checksum)), tmp_path)


def test_a_wrong_beginning_is_fetched_again(server: Server, tmp_path: Path) -> None:
    """What another place sent before it was cut is gone on with, and found to be wrong at the end."""
    (tmp_path / "a.bin.part").write_bytes(b"of another file")
    get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and [requested for _, requested in server.requested] == [
        "bytes=15-",
        None,
    ]


def test_another_size_is_reported_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    found = get(a_set(remote(server, size=5)), tmp_path)
    assert "offers 1048576 bytes, where 5 were published" in found.reason and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [404, 403, 410])
def test_an_absent_file_is_looked_for_at_the_next_place(server: Server, tmp_path: Path, code: int) -> None:
    file = remote(server)
    server.files["gone.bin"] = CONTENT
    server.faults["gone.bin"] = [f"status:{code}"]
    both = Remote((server.url("gone.bin"), server.url("a.bin")), "a.bin", file.size, file.checksum)
    assert get(a_set(both), tmp_path).fetched == ("a.bin",)
    server.faults["gone.bin"] = [f"status:{code}"]
    found = get(a_set(Remote((server.url("gone.bin"),), "g.bin", file.size, file.checksum)), tmp_path)
    assert f"gone.bin: the server answered {code}" in found.reason


def test_no_network_reports_what_is_missing_and_uses_it_when_it_is_there(server: Server, tmp_path: Path) -> None:
    file, other = remote(server), remote(server, "b.bin", b"other")
    server.shutdown()
    server.server_close()
    found = get(a_set(file, other), tmp_path)
    assert found.missing == (file, other) and "refuses the connection" in found.reason
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "b.bin").write_bytes(b"other")
    assert not get(a_set(file, other), tmp_path).missing


def test_no_such_host_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[object] = []

    def nowhere(*args: object, **options: object) -> None:
        requested.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    files = [Remote((f"http://nowhere.invalid/{name}",), name, 5) for name in ("a", "b")]
    found = get(a_set(*files), tmp_path)
    assert found.reason == "http://nowhere.invalid/a: no network, or no such host as nowhere.invalid"
    assert len(found.missing) == 2 and len(requested) == 1


def test_a_file_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    by_hand = Remote((), "c.zip", 5, f"md5:{hashlib.md5(b'right').hexdigest()}", "http://a.page")
    assert get(a_set(by_hand), tmp_path).missing == (by_hand,)
    (tmp_path / "c.zip").write_bytes(b"wrong")
    with pytest.raises(UsageError, match=r"c.zip: its md5 is .*move it away"):
        get(a_set(by_hand), tmp_path)
    (tmp_path / "c.zip").write_bytes(b"right")
    assert not get(a_set(by_hand), tmp_path).missing


def test_too_small_a_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"no space for a.bin in .*: \d+ bytes are needed"):
        get(a_set(remote(server, size=2**60)), tmp_path)
    monkeypatch.setattr(fetch.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(RunError, match=r"no space left to write .*a.bin.part; free some and run again"):
        get(a_set(remote(server)), tmp_path)
    assert (tmp_path / "a.bin.part").exists()


def zipped(tmp_path: Path, **members: bytes) -> bytes:
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"../evil": b"x", **members}.items():
            archive.writestr(name, content)
    content = (tmp_path / "made.zip").read_bytes()
    (tmp_path / "made.zip").unlink()
    return content


def test_what_has_to_lie_unpacked_is_unpacked_under_our_names(server: Server, tmp_path: Path) -> None:
    content = zipped(tmp_path, inner=CONTENT)
    file = remote(server, "c.zip", content, unpack=(("inner", "folder/data.mdb"),))
    folder = tmp_path / "out"
    get(a_set(file), folder)
    assert (folder / "folder/data.mdb").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c.zip", "data.mdb", "folder", "out"]
    (folder / "c.zip").unlink()  # it has done its service
    assert get(a_set(file), folder).fetched == ()


def test_an_archive_without_the_member_is_reported(server: Server, tmp_path: Path) -> None:
    file = remote(server, "c.zip", zipped(tmp_path), unpack=(("inner", "data.mdb"),))
    with pytest.raises(RunError, match=r"c.zip: has no inner"):
        get(a_set(file), tmp_path / "out")


# ---- the table


@pytest.mark.parametrize("name", SETS)
def test_a_row_is_intact(name: str) -> None:
    public = SETS[name]
    assert public.about and public.licence and public.files
    lengths = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
    for file in public.files:
        assert all(re.match(r"https?://[\w.-]+/", url) for url in file.urls) and "/" not in file.name
        assert bool(file.urls) != bool(file.page), "fetched, or by hand"
        assert file.size or file.checksum or not file.urls, "nothing could be checked"
        if file.checksum:
            kind, _, digest = file.checksum.partition(":")
            assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", digest)
        assert not any(".." in target or target.startswith("/") for _, target in file.unpack)


def test_the_files_that_are_here_are_those_that_were_published(shared_data: Path) -> None:
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    assert get(SETS["mnist"], folder).fetched == () and not get(SETS["mnist"], folder).missing
