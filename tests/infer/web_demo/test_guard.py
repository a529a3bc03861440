"""The web demo's guard: what of a server answers to strangers."""

import asyncio
import json

import pytest

from pix2seq.infer.web_demo.guard import Guard, has_plain_values

PLAIN = json.dumps({"data": ["photos", ["detection"], 0.3, 0.8, 1], "event_data": {"x": 1, "y": 2}}).encode()


def status(method: str, path: str, body: bytes = b"", headers: dict | None = None, parts: int = 1) -> tuple[int, bytes]:
    """How a request is answered, and the body that arrives behind the guard."""
    arrived, answers = [], []
    size = -(-len(body) // parts) or 1
    chunks = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False

    async def app(scope, receive, send):
        message = await receive() if method == "POST" else {"body": b""}
        arrived.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return messages.pop(0)

    async def send(message):
        answers.append(message)

    headers = {"content-length": str(len(body))} if headers is None else headers
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    asyncio.run(Guard(app, 1000)(scope, receive, send))
    return answers[0]["status"], b"".join(arrived)


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index-a_B.js", "/static/fonts/a.woff2", "/gradio_api/queue/data", "/theme.css"]
)
def test_what_a_browser_needs_passes(path: str):
    assert status("GET", path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file//etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/assets/../../../../etc/passwd",
        "/static/..",
        "/static/./x",
        "/static//etc/passwd",
        "/assets/%2e%2e/x",
        "/static/a\\..\\..\\x",
        "/svelte/../x",
        "/config\n",
        "/gradio_api/info",
        "/gradio_api/upload_progress",
        "/gradio_api/deep_link",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/custom_component/1/client/component/x",
    ],
)
def test_everything_else_is_not_there(path: str):
    assert [status(method, path)[0] for method in ("GET", "HEAD", "DELETE")] == [404] * 3


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/component_server", "/gradio_api/call/x", "/login"])
def test_nothing_else_can_be_sent(path: str):
    assert status("POST", path, PLAIN)[0] == 404


@pytest.mark.parametrize("parts", [1, 3])
def test_a_request_arrives_as_it_was_sent(parts: int):
    assert status("POST", "/gradio_api/queue/join", PLAIN, parts=parts) == (200, PLAIN)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"content-length": "1001"}, 413),
        ({"content-length": "9" * 5000}, 413),
        ({}, 411),
        ({"content-length": "-1"}, 411),
        ({"content-length": "10", "transfer-encoding": "chunked"}, 411),
    ],
)
def test_a_body_has_a_length_within_the_limit(headers: dict, expected: int):
    assert status("POST", "/gradio_api/queue/join", PLAIN, headers)[0] == expected


@pytest.mark.parametrize(
    "data",
    [
        [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}],
        [[{"path": "http://127.0.0.1/", "meta": {"_type": "gradio.FileData"}}]],
        [[[]]],
        {"path": "/etc/passwd"},
    ],
)
def test_a_control_s_value_is_no_file(data):
    assert status("POST", "/gradio_api/queue/join", json.dumps({"data": data}).encode()) == (400, b"")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_request_is_refused(body: bytes):
    assert not has_plain_values(body)


def test_sockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Guard(None, 1000)({"type": "websocket", "path": "/"}, None, send))
    assert sent == ["websocket.close"]
