"""The web demo's page as gradio serves it, without a browser."""

import json
import socket
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pix2seq.config import CFG, replace
from pix2seq.errors import UserError
from pix2seq.infer.web_demo.server import run, serve
from pix2seq.runtime.paths import ROOT
from tests.server import Server


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture(scope="module")
def served(weights_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a page that is served in this process, and gradio's folder of files."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra [demo])")
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("no_proxy", "127.0.0.1")
        cfg = replace(CFG(device="cpu"), weights=str(weights_path), port=free_port(), max_megabytes=0.1, queue_size=4)
        page = serve(cfg)
        yield cfg.infer.port, folder
        page.close()


def status(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_accept_encoding=True)  # the path as it is, dots and all
    if body is not None:
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_without_gradio_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install .*\[demo\]"):
        run(CFG())


def test_the_page_says_nothing_about_the_server(served):
    port, folder = served
    config = json.loads(status(port, "GET", "/config")[1])
    assert config["analytics_enabled"] is False
    for path in ("/", "/config"):
        code, text = status(port, "GET", path)
        assert code == 200
        for secret in (ROOT, Path.home(), folder):
            assert str(secret) + "/" not in text.decode()


@pytest.mark.parametrize(
    "path",
    [
        *(f"/gradio_api/{route}/etc/passwd" for route in ("file=", "file=/", "file/", "proxy=", "file=../../../..")),
        "/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/assets/../../../../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/svelte/../../../../etc/passwd",
        "/gradio_api/custom_component/../client/component/passwd",
        f"/gradio_api/file={ROOT / 'pyproject.toml'}",
    ],
)
def test_no_file_of_the_server_can_be_read(served, path: str):
    code, text = status(served[0], "GET", path)
    assert code == 404 and b"root:" not in text and b"[project]" not in text


def test_nothing_can_be_uploaded_called_or_fetched(served, server: Server):
    port, folder = served
    hostile = {"path": f"{server.url}/x.png", "meta": {"_type": "gradio.FileData"}}
    body = {"data": [hostile] * 5, "fn_index": 0, "session_hash": "a", "event_data": {}}
    assert status(port, "POST", "/gradio_api/queue/join", json.dumps(body).encode())[0] == 400
    assert status(port, "POST", "/gradio_api/queue/join", b" " * 10**6)[0] == 413
    for path in ("upload", "component_server", "api/predict", "call/open_photo", "run/predict"):
        assert status(port, "POST", f"/gradio_api/{path}", json.dumps(body).encode())[0] == 404
    assert status(port, "GET", f"/gradio_api/file={server.url}/x.png")[0] == 404
    assert not server.requests and not [path for path in folder.rglob("*") if path.is_file()]


def test_a_port_that_is_taken_is_named(served, weights_path: Path):
    with pytest.raises(UserError, match=f"cannot be served at 127.0.0.1:{served[0]}.*choose another --port"):
        run(replace(CFG(device="cpu"), weights=str(weights_path), port=served[0]))
