"""A server on this machine that speaks the Hugging Face Hub's protocol, as far as it is needed."""

import base64
import dataclasses
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_stand_in"
# Which of a commit's files are uploaded beforehand, by Git LFS.
_LARGE = (".safetensors", ".bin", ".png", ".npy")


@dataclasses.dataclass
class Repository:
    """A repository.

    Attributes:
        private: whether it can be read with the token only.
        commits: contents by name, by commit.
        branches: the last commit of each.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add or replace files of a branch; returns the commit."""
        files = self.commits.get(self.branches.get(branch, ""), {}) | files
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


class HubServer(ThreadingHTTPServer):
    """Repositories, which the owner of the token may write.

    Attributes:
        repositories: by ``OWNER/NAME``.
        uploads: of Git LFS, by SHA-256.
        requests: method and path of each request, in order.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> None:
        """Commit files to a repository, which is made if need be."""
        self.repositories.setdefault(name, Repository()).commit(files, branch)


class _Refused(Exception):
    """How a request is refused: status, the Hub's code, message, and more of the answer."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        body = self._body()
        kind = "GET" if self.command == "HEAD" else self.command
        try:
            for method, pattern, answer in _ROUTES:
                if method == kind and (found := re.fullmatch(pattern, path)):
                    content, headers = answer(self, body, *found.groups())
                    break
            else:
                raise _Refused(501, "", f"{self.command} {path} is not part of the stand-in")
            status = 200
        except _Refused as refused:
            status, code, message, *more = refused.args
            content = json.dumps({"error": message} | (more[0] if more else {})).encode()
            headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self._has_token()):
            raise _Refused(401, "RepoNotFound", "Invalid username or password.")
        if write:
            self._check_writer(name.partition("/")[0])
        return repository

    def _check_writer(self, owner: str) -> None:
        if not self._has_token():
            raise _Refused(401, "", "Invalid username or password.")
        if owner != "me":
            raise _Refused(403, "", f"You don't have the rights to write to {owner}.")

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        self._check_writer(asked["organization"])
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            url = f"{self.server.url}/{name}"
            raise _Refused(409, "", "You already created this model repo", {"url": url})
        repository = Repository(private=asked.get("visibility") == "private")
        repository.commit({".gitattributes": b""})
        self.server.repositories[name] = repository
        return _json({"url": f"{self.server.url}/{name}"})

    def validate_yaml(self, body: bytes) -> Any:
        """Checks the metadata of a model card."""
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        try:
            valid = isinstance(yaml.safe_load(front[1]), dict)
        except (TypeError, yaml.YAMLError):
            valid = False
        if not valid:
            raise _Refused(400, "", "Invalid metadata in README.md.")
        return _json({"errors": [], "warnings": []})

    def info(self, body: bytes, name: str) -> Any:
        repository = self._repository(name)
        sha = repository.branches["main"]
        files = [{"rfilename": file} for file in repository.commits[sha]]
        return _json({"id": name, "sha": sha, "private": repository.private, "siblings": files})

    def branch(self, body: bytes, name: str, branch: str) -> Any:
        repository = self._repository(name, write=True)
        if branch in repository.branches:
            raise _Refused(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return _json({})

    def preupload(self, body: bytes, name: str, branch: str) -> Any:
        repository = self._repository(name, write=True)
        if branch not in repository.branches:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        paths = [file["path"] for file in json.loads(body)["files"]]
        return _json(
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if path.endswith(_LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for path in paths
                ]
            }
        )

    def lfs_batch(self, body: bytes, name: str) -> Any:
        self._repository(name, write=True)
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}},
            }
            for item in json.loads(body)["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "", "The content is not what was announced.")
        self.server.uploads[oid] = body
        return b"", {}

    def commit(self, body: bytes, name: str, branch: str) -> Any:
        repository = self._repository(name, write=True)
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        oid = repository.commit(files, branch)
        url = f"{self.server.url}/{name}/commit/{oid}"
        return _json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> Any:
        repository = self._repository(name)
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file not in repository.commits[oid]:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = repository.commits[oid][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return content, {"X-Repo-Commit": oid, "ETag": etag}

    def log_message(self, *args: object) -> None:
        pass


def _json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


_NAME = r"([^/]+/[^/]+)"
_ROUTES = (
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("POST", f"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(.+)", _Handler.lfs_upload),
    ("GET", f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
