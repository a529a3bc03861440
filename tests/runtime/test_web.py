"""Files from the web: within limits of size and time, and from nowhere but the web."""

import io
import socket
import threading
import time
from collections.abc import Iterator
from email.message import Message
from urllib.request import Request

import pytest

from pix2seq.errors import UserError
from pix2seq.runtime import web
from pix2seq.runtime.web import fetch_bytes
from tests.server import Server, running

DATA = bytes(range(256)) * 1000  # 256 kB


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as server:
        server.files = {"/a.jpg": DATA, "/caf%C3%A9%20x.jpg": DATA, "/.data-1": DATA}
        yield server


def test_a_file_comes_whole(server: Server):
    assert fetch_bytes(f"{server.url}/a.jpg", 1) == DATA
    assert fetch_bytes(f"{server.url}/café x.jpg", 1) == DATA


def test_a_file_that_is_too_large_is_not_fetched(server: Server):
    with pytest.raises(UserError, match=r"has more than 0\.1 MB; raise --max-megabytes"):
        fetch_bytes(f"{server.url}/a.jpg", 0.1)


def test_a_file_that_turns_out_to_be_too_large_is_given_up(server: Server):
    server.reports_size = False  # of files whose names have .data-
    with pytest.raises(UserError, match=r"has more than 0\.1 MB"):
        fetch_bytes(f"{server.url}/.data-1", 0.1)
    assert fetch_bytes(f"{server.url}/.data-1", 1) == DATA


def test_a_cut_file_is_refused(server: Server):
    server.cuts = [1000]
    with pytest.raises(UserError, match=r"cut after 1,000 of 256,000 bytes|cannot be fetched"):
        fetch_bytes(f"{server.url}/.data-1", 1)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://a/b", "data:image/png,x", "http://[wrong", "/a.jpg\x1b"]
)
def test_a_redirect_leads_to_the_web_or_is_refused(server: Server, target: str):
    server.redirects = {"/moved": target}
    with pytest.raises(UserError) as caught:
        fetch_bytes(f"{server.url}/moved", 1)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_redirect_from_https_to_http_is_refused():
    with pytest.raises(UserError, match="leads to http://a/b, which is no https address; name another address"):
        web.Redirects().redirect_request(Request("https://a/b"), io.BytesIO(), 302, "", Message(), "http://a/b")


def test_redirects_that_go_round_end(server: Server):
    server.redirects = {"/moved": "/moved"}
    with pytest.raises(UserError, match="the server responded 302") as caught:
        fetch_bytes(f"{server.url}/moved", 1)
    assert "\n" not in str(caught.value)


OTHERS = ("file:///etc/passwd", "ftp://a/b", "gopher://a", "data:,x", "http://[wrong", "http://", "http://a\ud800b/")


@pytest.mark.parametrize("url", OTHERS)
def test_other_kinds_of_addresses_are_refused(url: str):
    with pytest.raises(UserError, match="an address that begins with https:// or http://"):
        fetch_bytes(url, 1)


@pytest.mark.parametrize("path", ["/missing.jpg", "/a b\x1b[31m.jpg"])
def test_what_is_not_there_is_one_sentence(server: Server, path: str):
    with pytest.raises(UserError, match="the server responded 404"):
        fetch_bytes(server.url + path, 1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/x", "http://127.0.0.1:x/", f"http://{'a' * 99}.example/"])
def test_a_host_that_cannot_be_is_one_sentence(url: str):
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        fetch_bytes(url, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["header", "body"])
def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(web, "PATIENCE_S", 0.4)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection = listener.accept()[0]
        head = b"HTTP/1.1 200 OK\r\n" + (b"X-Long: " if kind == "header" else b"\r\n")
        try:
            connection.sendall(head)
            while True:
                time.sleep(0.05)
                connection.sendall(b"x")
        except OSError:
            connection.close()

    threading.Thread(target=drip, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"did not arrive within 0\.4 s|takes too long"):
        fetch_bytes(f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg", 1)
    assert time.monotonic() - began < 5
    listener.close()
