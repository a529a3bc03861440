"""A server of files on this machine that interrupts transfers, refuses ranges and reports wrong sizes."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # what the Hugging Face hub says of every file


class Server(ThreadingHTTPServer):
    """Serves `files` (path to bytes, or to a file) and records `requests` (path, Range header) and `sent` bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | Path] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0
        self.ranges = True
        self.etag = '"one"'  # {} in it is the number of the request
        self.cuts: list[int] = []  # for each of the next requests of a data file: send so many bytes, then disconnect
        self.statuses: list[int] = []  # for each of the next requests of a data file: respond with this status instead
        self.extra_length = 0  # by how much the reported size of whole files is too large
        self.reports_size = True
        self.stall_s = 0.0  # how long a transfer is silent before it is cut
        self.headers: dict[str, str] = {}  # of data files, in place of the right ones
        self.redirects: dict[str, str] = {}  # path to another address
        self.page = b""  # what is sent, with status 200, in place of files that are not there
        self.checksum = ""  # what x-goog-hash says of data files

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def data_ranges(self) -> list[str | None]:
        """The Range headers of the requests for data files."""
        return [header for path, header in self.requests if ".data-" in path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, header = self.server, self.headers.get("Range")
        server.requests.append((self.path, header))
        is_data = ".data-" in self.path
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path not in server.files and not server.page:
            return self.send_error(404)
        if is_data and server.statuses:
            return self.send_error(server.statuses.pop(0))
        body = server.files.get(self.path, server.page)
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        ranges = server.ranges and body is not server.page
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", header) if header and ranges else None
        start, end = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        if asked and start >= size:
            return self.send_error(416)
        headers = {"ETag": server.etag.format(len(server.requests)), "X-Repo-Commit": COMMIT}
        if server.reports_size or not is_data:
            headers["Content-Length"] = str(end - start + (0 if asked else server.extra_length))
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_response(206 if asked else 200)
        for name, value in (headers | (server.headers if is_data else {})).items():
            self.send_header(name, value)
        if server.checksum and is_data:
            self.send_header("x-goog-hash", f"crc32c={server.checksum}")
            self.send_header("x-goog-hash", "md5=AAAAAAAAAAAAAAAAAAAAAA==")
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = min(start + server.cuts.pop(0), end) if is_data and server.cuts else end
        self._send(body, start, stop)
        if stop < end:
            self.wfile.flush()
            time.sleep(server.stall_s)

    do_HEAD = do_GET

    def _send(self, body: bytes | Path, start: int, end: int) -> None:
        self.server.sent += end - start
        if isinstance(body, bytes):
            self.wfile.write(body[start:end])
            return
        with body.open("rb") as file:
            file.seek(start)
            while start < end:
                start += self.wfile.write(file.read(min(1 << 20, end - start)))

    def log_message(self, *args: object) -> None:
        """Log nothing."""


ServerT = TypeVar("ServerT", bound=Server)


@contextmanager
def running(kind: Callable[[], ServerT] = Server) -> Iterator[ServerT]:
    """A server that answers until the block ends."""
    with kind() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
