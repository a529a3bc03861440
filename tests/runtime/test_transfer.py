"""Files and ranges of their bytes are fetched whole, whatever the server does in between."""

import base64
import os
from pathlib import Path

import google_crc32c
import pytest

from pix2seq.errors import UserError
from pix2seq.runtime import transfer
from pix2seq.runtime.transfer import Missing, NoRanges, Refused, Unreachable, fetch, fetch_text
from tests.server import Server

PATH = "/folder/ckpt-7.data-00000-of-00001"
DATA = os.urandom(700_000)
RANGES = [(1_000, 200_000), (300_000, 300_001), (400_000, 650_000)]
PARTS = b"".join(DATA[start:end] for start, end in RANGES)


@pytest.fixture
def file(server: Server, tmp_path: Path) -> Path:
    """Where the server's one file is to be written."""
    server.files = {PATH: DATA}
    return tmp_path / "new" / "data"


def get(server: Server, file: Path, ranges: list[tuple[int, int]] | tuple = ()) -> bytes:
    fetch(server.url + PATH, file, ranges)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file.read_bytes()


# Whole files


def test_a_file_that_is_there_is_not_asked_for(server: Server, file: Path) -> None:
    assert get(server, file) == get(server, file) == DATA
    assert server.data_ranges() == [None]


def test_an_interrupted_download_resumes_where_it_stopped(server: Server, file: Path) -> None:
    server.cuts = [100_000, 300_000]
    assert get(server, file) == DATA
    assert server.data_ranges() == [None, "bytes=100000-", "bytes=400000-"]


def test_any_number_of_interruptions_is_allowed_while_bytes_arrive(server: Server, file: Path) -> None:
    server.cuts = [70_000] * 9
    assert get(server, file) == DATA
    assert len(server.data_ranges()) == 10 > len(transfer.PAUSES_S) + 1


def test_a_later_call_resumes_where_the_first_gave_up(server: Server, file: Path) -> None:
    server.cuts = [100_000] + [0] * len(transfer.PAUSES_S)
    with pytest.raises(UserError, match=r"stopped after 100,000 bytes .*run the command again"):
        get(server, file)
    assert not file.exists()
    assert file.with_name("data.partial").read_bytes() == DATA[:100_000]
    server.requests.clear()
    assert get(server, file) == DATA
    assert server.data_ranges() == ["bytes=100000-"]


def test_a_download_starts_over_if_the_server_does_not_support_ranges(server: Server, file: Path) -> None:
    server.ranges, server.cuts = False, [100_000]
    assert get(server, file) == DATA
    assert server.data_ranges() == [None, "bytes=100000-"]


def test_a_server_without_ranges_that_always_disconnects_ends_the_retries(server: Server, file: Path) -> None:
    server.ranges, server.cuts = False, [100_000] * 50
    with pytest.raises(UserError, match="stopped after 100,000 bytes"):
        get(server, file)
    assert len(server.data_ranges()) == 1 + len(transfer.PAUSES_S)


@pytest.mark.parametrize("ranges", [(), RANGES], ids=["whole", "ranges"])
@pytest.mark.parametrize("etag", ['"one"', '"two"'], ids=["another size", "another tag"])
@pytest.mark.parametrize("size", [700_001, 700_000, 650_000], ids=str)
def test_a_download_starts_over_if_the_remote_file_has_changed(
    server: Server, file: Path, etag: str, size: int, ranges: list
) -> None:
    server.cuts = [100_000] + [0] * len(transfer.PAUSES_S)
    with pytest.raises(UserError):
        get(server, file, ranges)
    new = os.urandom(size) if etag != server.etag or size != len(DATA) else DATA
    server.files[PATH], server.etag = new, etag
    assert get(server, file, ranges) == (b"".join(new[start:end] for start, end in ranges) if ranges else new)


def test_a_file_of_another_size_than_reported_is_not_kept(server: Server, file: Path) -> None:
    server.ranges, server.extra_length = False, 5
    with pytest.raises(UserError, match=r"stopped after .*700,000 of 700,005 bytes arrived"):
        get(server, file)
    assert not file.exists()


def test_a_file_of_unknown_size_is_refused(server: Server, file: Path) -> None:
    server.reports_size = False
    with pytest.raises(UserError, match="does not report its size"):
        get(server, file)
    assert not file.exists()


def test_a_busy_server_gets_the_request_again(server: Server, file: Path) -> None:
    server.statuses = [503, 429]
    assert get(server, file) == DATA


def test_a_missing_file_is_named(server: Server, file: Path) -> None:
    server.files.clear()
    with pytest.raises(Missing, match=rf"{PATH} cannot be downloaded: the server responded 404"):
        get(server, file)


def test_a_file_of_another_size_than_is_known_is_refused_before_it_arrives(server: Server, file: Path) -> None:
    with pytest.raises(Refused, match="has 700,000 bytes and should have 5: it is cut, or another file"):
        fetch(server.url + PATH, file, size=5)
    assert not file.exists() and not file.with_name("data.partial").exists()
    fetch(server.url + PATH, file, size=len(DATA), is_shown=False)
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_servers_say_of_files_that_they_lack(server: Server, file: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(Missing, match=f"responded {status}"):
        get(server, file)


def test_a_server_that_refuses_even_the_whole_file_is_not_asked_for_ever(server: Server, file: Path) -> None:
    server.statuses = [416] * 9
    with pytest.raises(UserError, match="responded 416"):
        get(server, file)
    assert len(server.requests) == 1


def test_bytes_that_arrived_before_a_silence_are_kept(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.3)
    server.cuts, server.stall_s = [100_000], 1.0
    assert get(server, file) == DATA
    assert server.data_ranges() == [None, "bytes=100000-"]


@pytest.mark.parametrize("ranges", [(), RANGES], ids=["whole", "ranges"])
def test_a_compressed_file_is_refused(server: Server, file: Path, ranges: list) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(UserError, match=r"comes compressed \(gzip\), unasked for"):
        get(server, file, ranges)
    assert not file.exists()


def test_a_redirection_is_followed_with_the_range(server: Server, file: Path) -> None:
    server.redirects = {PATH: f"{server.url}/elsewhere.data-0"}
    server.files = {"/elsewhere.data-0": DATA}
    assert get(server, file, RANGES) == PARTS
    assert server.sent == len(PARTS)


@pytest.mark.parametrize("target", [PATH, "http://[wrong", "file:///etc/passwd"])
def test_a_redirection_to_nowhere_is_refused(server: Server, file: Path, target: str) -> None:
    server.redirects = {PATH: target}
    with pytest.raises(UserError, match=r"cannot be downloaded|leads to ") as caught:
        get(server, file)
    assert "\n" not in str(caught.value)


def test_what_is_no_address_is_refused(tmp_path: Path) -> None:
    for url in ("http://[wrong", "http://host/café/x"):
        with pytest.raises(UserError, match=r"leads to no address|cannot be reached"):
            fetch(url, tmp_path / "x", patient=False)


CHECKSUM = base64.b64encode(google_crc32c.value(DATA).to_bytes(4, "big")).decode()


def test_a_checksum_that_the_server_gives_is_compared(server: Server, file: Path) -> None:
    server.checksum, server.cuts = CHECKSUM, [1_000]
    assert get(server, file) == DATA


def test_a_file_with_another_checksum_is_fetched_again_and_never_kept(server: Server, file: Path) -> None:
    server.checksum = "AAAAAA=="
    with pytest.raises(UserError, match="does not have the checksum that the server gives"):
        fetch(server.url + PATH, file)
    assert len(server.requests) == 1 + len(transfer.PAUSES_S) and not file.exists()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/\x1b[31m"])
def test_no_redirect_leads_to_another_kind_of_address(server: Server, file: Path, target: str) -> None:
    server.redirects = {PATH: target}
    with pytest.raises(UserError, match=r"which is no https address|is not allowed"):
        fetch(server.url + PATH, file)
    assert not file.exists()


def test_a_redirect_from_http_to_http_is_followed(server: Server, file: Path) -> None:
    server.redirects = {"/moved": server.url + PATH}
    fetch(server.url + "/moved", file)
    assert file.read_bytes() == DATA


# Ranges


@pytest.mark.parametrize(
    ("header", "message"),
    [("bytes 5-9/700000", "other bytes came than were asked for"), ("bytes 1000-199999/*", "does not report its size")],
)
def test_other_bytes_than_were_asked_for_are_refused(server: Server, file: Path, header: str, message: str) -> None:
    server.headers = {"Content-Range": header}
    with pytest.raises(UserError, match=message):
        get(server, file, RANGES)
    assert not file.exists()


@pytest.mark.parametrize("cuts", [[], [100_000]])
def test_a_file_that_changes_with_every_request_is_given_up(server: Server, file: Path, cuts: list[int]) -> None:
    server.etag, server.cuts = '"{}"', cuts
    with pytest.raises(UserError, match="is another file at every request"):
        get(server, file, RANGES)
    assert len(server.requests) < 20


def test_ranges_stand_one_after_the_other(server: Server, file: Path) -> None:
    assert get(server, file, RANGES) == PARTS
    assert server.data_ranges() == ["bytes=1000-199999", "bytes=300000-300000", "bytes=400000-649999"]
    assert server.sent == len(PARTS)


def test_ranges_resume_where_they_stopped(server: Server, file: Path) -> None:
    server.cuts = [50_000, 149_000, 1, 1_000]
    assert get(server, file, RANGES) == PARTS
    assert server.data_ranges()[1:] == [
        "bytes=51000-199999",
        "bytes=300000-300000",
        "bytes=400000-649999",
        "bytes=401000-649999",
    ]


def test_a_later_call_resumes_ranges(server: Server, file: Path) -> None:
    server.cuts = [199_000, 1, 20_000] + [0] * len(transfer.PAUSES_S)
    with pytest.raises(UserError, match="stopped after 219,001 bytes"):
        get(server, file, RANGES)
    server.requests.clear()
    assert get(server, file, RANGES) == PARTS
    assert server.data_ranges() == ["bytes=420000-649999"]


def test_other_ranges_are_another_download(server: Server, file: Path) -> None:
    server.cuts = [100_000] + [0] * len(transfer.PAUSES_S)
    with pytest.raises(UserError):
        get(server, file, RANGES)
    assert get(server, file, [(5, 300_000)]) == DATA[5:300_000]


def test_a_server_without_ranges_is_reported_before_it_sends_a_whole_file(server: Server, file: Path) -> None:
    server.ranges = False
    with pytest.raises(NoRanges):
        fetch(server.url + PATH, file, RANGES)
    assert not file.exists() and len(server.requests) == 1


@pytest.mark.parametrize("size", [600_000, 300_000])
def test_a_file_that_is_too_short_is_refused(server: Server, file: Path, size: int) -> None:
    server.files[PATH] = DATA[:size]
    with pytest.raises(UserError, match=r"cut on the server|416"):
        get(server, file, RANGES)


# Small files, and no network


def test_text_is_read_at_once(server: Server) -> None:
    server.files["/name"] = "ckpt-7 é".encode()
    assert fetch_text(f"{server.url}/name") == "ckpt-7 é"


def test_no_connection_is_reported_at_once(closed_url: str, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=rf"{closed_url}/x cannot be reached \(.*refused\)"):
        fetch_text(f"{closed_url}/x")
    with pytest.raises(Unreachable, match=rf"{closed_url}/x cannot be reached \(.*refused\)"):
        fetch(f"{closed_url}/x", tmp_path / "x", patient=False)
