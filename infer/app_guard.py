"""What of a web server the page uses; everything else is not there.

gradio serves files, fetches addresses, takes uploads into a folder and calls functions by name. The page needs none of
that: a photo comes within a request, and results go back within its answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Paths that a browser asks for when it shows the page. Names in them have no "..".
PAGE = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json"
    r"|/(assets|static)(/[\w@-][\w.@-]*)+"
    r"|/gradio_api/(startup-events|queue/data|heartbeat/[\w-]+)"
)
ASKING = re.compile(r"/gradio_api/(queue/join|cancel)")  # what the page sends
MOST_DIGITS = 15  # of a length that is read as a number
BY_METHOD = {"GET": PAGE, "HEAD": PAGE, "POST": ASKING}


class Guard:
    """An ASGI middleware before `app`: other paths answer 404, and bodies of more than `max_bytes` 413."""

    def __init__(self, app: App, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif refusal := self.refusal(scope["method"], scope["path"], dict(scope["headers"])):
            await send({"type": "http.response.start", "status": refusal, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
        else:
            await self.app(scope, receive, send)

    def refusal(self, method: str, path: str, headers: dict[bytes, bytes]) -> int:
        """The status with which a request is refused; 0: it is not."""
        if method not in BY_METHOD or not BY_METHOD[method].fullmatch(path):
            return 404
        if method != "POST":
            return 0
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # a body of unknown length would have no limit
            return 411
        return 413 if len(length) > MOST_DIGITS or int(length) > self.max_bytes else 0
