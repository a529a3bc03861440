"""A Hugging Face hub on this machine: the endpoints that its library calls to make a repository and to commit files."""

import base64
import hashlib
import json

from tests.server import COMMIT, Handler, Server

TOKEN = "hf_of_a_test"


class HubServer(Server):
    """What is committed can be fetched as from the hub. `denies` is the status of every request that would write."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.etag = '"{}"'
        self.repos: dict[str, bool] = {}  # whether each is private
        self.large: dict[str, bytes] = {}  # contents by SHA-256
        self.commits: list[str] = []  # their messages
        self.denies = 0

    def names(self, repo: str) -> list[str]:
        """The files on a repository's main branch."""
        start = f"/{repo}/resolve/main/"
        return [path.removeprefix(start) for path in self.files if path.startswith(start)]


class HubHandler(Handler):
    server: HubServer

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/"):
            return super().do_GET()
        repo = self.path.removeprefix("/api/models/").partition("/revision/")[0]
        if repo not in self.server.repos:
            return self.answer({"error": "Repository not found"}, 404)
        siblings = [{"rfilename": name} for name in self.server.names(repo)]
        about = {"id": repo, "private": self.server.repos[repo], "siblings": siblings, "sha": COMMIT}
        self.answer(about | {"xetEnabled": False})

    do_HEAD = Handler.do_GET

    def do_PUT(self) -> None:
        content = self.content()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.large[self.path.rpartition("/")[2]] = content
        self.answer({})

    def do_POST(self) -> None:
        content = self.content()
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.server.denies:
            return self.answer({"error": "You don't have the rights to do this"}, self.server.denies)
        if self.path == "/api/repos/create":
            return self.create(json.loads(content))
        if self.path == "/api/validate-yaml":
            return self.answer({})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.answer(
                {"transfer": "basic", "objects": [self.place(o) for o in json.loads(content)["objects"]]}
            )
        if "/preupload/" in self.path:
            return self.answer({"files": [mode(file) for file in json.loads(content)["files"]]})
        self.commit(self.path.removeprefix("/api/models/").removesuffix("/commit/main"), content)

    def create(self, asked: dict) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        status = 409 if repo in self.server.repos else 200
        self.server.repos.setdefault(repo, asked.get("visibility") == "private" or asked.get("private") is True)
        self.answer({"url": f"{self.server.url}/{repo}"}, status)

    def place(self, file: dict) -> dict:
        upload = {"href": f"{self.server.url}/upload/{file['oid']}"}
        return {"oid": file["oid"], "size": file["size"], "actions": {"upload": upload}}

    def commit(self, repo: str, content: bytes) -> None:
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
                continue
            is_large = line["key"] == "lfsFile"
            stored = self.server.large[value["oid"]] if is_large else base64.b64decode(value["content"])
            self.server.files[f"/{repo}/resolve/main/{value['path']}"] = stored
        self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def content(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):  # chunked
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)


def mode(file: dict) -> dict:
    """Weights are large files, the others are not."""
    way = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": way, "shouldIgnore": False}
