"""What of a web server the page uses; everything else is not there.

gradio serves files, fetches addresses, takes uploads into a folder and calls functions by name. The page needs none of
that: a photo comes within a request, and results go back within its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Paths that a browser asks for when it shows the page. Names in them begin with a letter, so that none is "..".
PAGE = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json"
    r"|/(assets|static)(/[\w@-][\w.@-]*)+"
    r"|/gradio_api/(startup-events|queue/data|heartbeat/[\w-]+)"
)
ASKING = re.compile(r"/gradio_api/(queue/join|cancel)")  # what the page sends
BY_METHOD = {"GET": PAGE, "HEAD": PAGE, "POST": ASKING}
MOST_DIGITS = 15  # of a length that is read as a number


class Guard:
    """An ASGI middleware before `app`: what the page does not use is refused, and bodies of more than `max_bytes`."""

    def __init__(self, app: App, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        refusal = self.refusal(scope["method"], scope["path"], dict(scope["headers"]))
        if not refusal and scope["method"] == "POST":
            body = await _body(receive)
            refusal = 0 if body is not None and has_plain_values(body) else 400
            receive = _replay(body or b"", receive)
        if not refusal:
            return await self.app(scope, receive, send)
        await send({"type": "http.response.start", "status": refusal, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def refusal(self, method: str, path: str, headers: dict[bytes, bytes]) -> int:
        """The status with which a request is refused before its body is read; 0: it is not."""
        if method not in BY_METHOD or not BY_METHOD[method].fullmatch(path):
            return 404
        if method != "POST":
            return 0
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # a body of unknown length would have no limit
            return 411
        return 413 if len(length) > MOST_DIGITS or int(length) > self.max_bytes else 0


def has_plain_values(body: bytes) -> bool:
    """Whether the controls' values in a request are numbers, texts and lists of them: gradio reads an object as a file,
    which it looks for in its folders or fetches from an address."""
    try:
        values = json.loads(body).get("data", [])
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(values, list) and all(
        _is_plain(value) or (isinstance(value, list) and all(map(_is_plain, value))) for value in values
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


async def _body(receive: Receive) -> bytes | None:
    """All of a request's body; None if the connection ends within it."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for who reads after us: first the body, then what comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
