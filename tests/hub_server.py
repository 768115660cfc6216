"""A local Hub for the real client, which finds it by `HF_ENDPOINT`.

It implements the part of the protocol for creating repositories, pushing, loading, and validating cards. Large files
have a second address, as on the Hub.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partialmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sequence_encoder.cards.rules import check_card
from sequence_encoder.tests.hub_repositories import Commit, File, Repository, is_large


@dataclass
class Request:
    """A request of a client, whose body is read on first use."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    read: Callable[[int], bytes]

    @property
    def length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    @cached_property
    def body(self) -> bytes:
        return self.read(self.length)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """The response to a client."""

    content: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Raised to send an error response. The client derives its exceptions from the code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer = Answer({"error": message}, status, {**named, **headers})


class ConnectionCut(Exception):
    """Raised to close the connection without a response."""


@contextmanager
def _served(respond: Callable[[Request], Answer], host: str) -> Iterator[str]:
    """Serve on a free port of this machine, and yield the address with one of the machine's names."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self, method: str) -> None:
            url = urlsplit(self.path)
            # A HEAD request gets the headers of a GET request.
            asked = "GET" if method == "HEAD" else method
            request = Request(asked, url.path, parse_qs(url.query), self.headers, self.rfile.read)
            try:
                answer = respond(request)
            except Refusal as refusal:
                answer = refusal.answer
            except ConnectionCut:
                self.close_connection = True
                return
            _ = request.body  # an unread body would be parsed as the next request
            raw = isinstance(answer.content, bytes)
            content = answer.content if raw else json.dumps(answer.content).encode()
            kind = "application/octet-stream" if raw else "application/json"
            self.send_response(answer.status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if method != "HEAD":
                self.wfile.write(content)

        do_GET = partialmethod(_handle, "GET")
        do_HEAD = partialmethod(_handle, "HEAD")
        do_POST = partialmethod(_handle, "POST")
        do_PUT = partialmethod(_handle, "PUT")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://{host}:{server.server_port}"
        server.shutdown()
        thread.join()


class Hub:
    """A Hub with repositories and users. Pages and large files have separate addresses.

    Args:
        tokens: The accepted tokens, with the names of their users.

    Attributes:
        url: The value for `HF_ENDPOINT`.
        repositories: The repositories by name, `user/name`.
        requests: The method and path of each request so far.
        cut: The request to cut off next after half of its body: `upload` of a large file, or `commit`. None
            afterwards.
        unavailable: The path of a file that the Hub fails to serve.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.cut: str | None = None
        self.unavailable: str | None = None
        self._large: dict[str, bytes] = {}
        self._signatures: set[str] = set()

    @contextmanager
    def serve(self) -> Iterator[Hub]:
        # Clients may take all ports of a host for the Hub, and would send their token to its storage as well.
        with _served(self._respond, "127.0.0.1") as self.url, _served(self._store, "localhost") as self._storage_url:
            yield self

    def files(self, name: str, revision: str = "main") -> Mapping[str, File]:
        """Return the files of a repository by path."""
        return self._commit(self.repositories[name], revision).files

    def _respond(self, request: Request) -> Answer:
        self.requests.append((request.method, request.path))
        for method, pattern, page in _PAGES:
            found = re.fullmatch(pattern, request.path)
            if method == request.method and found:
                return page(self, request, **{key: unquote(part) for key, part in found.groupdict().items() if part})
        raise Refusal(404, f"No page {request.method} {request.path}")

    def _cut_if_wanted(self, what: str, request: Request) -> None:
        if self.cut == what:
            self.cut = None
            request.read(request.length // 2)
            raise ConnectionCut

    # Users and their rights

    def _user(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def _repository(self, request: Request, name: str) -> Repository:
        """Find a repository. A private one raises the same error as one that does not exist."""
        user, repository = self._user(request), self.repositories.get(name)
        if repository and (not repository.private or user == name.split("/")[0]):
            return repository
        if user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def _writable(self, request: Request, name: str) -> Repository:
        repository = self._repository(request, name)
        if self._user(request) != name.split("/")[0]:
            raise Refusal(403, f"You have no right to write to {name}")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # The pages of the Hub

    def _who_am_i(self, request: Request) -> Answer:
        user = self._user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return Answer({"type": "user", "name": user, "orgs": []})

    def _validate_card(self, request: Request) -> Answer:
        errors, warnings = check_card(request.json()["content"])
        if request.headers.get("Accept") == "text/plain":
            return Answer("\n".join([*errors, *warnings]).encode(), 400 if errors else 200)
        found = {"errors": [{"message": error} for error in errors], "warnings": [{"message": w} for w in warnings]}
        return Answer(found, 400 if errors else 200)

    def _create(self, request: Request) -> Answer:
        user, wanted = self._user(request), request.json()
        owner = wanted.get("organization") or user
        if user is None or owner != user:
            raise Refusal(403 if user else 401, f"You have no right to create a repository of {owner}")
        name = f"{owner}/{wanted['name']}"
        there = name in self.repositories
        if not there:
            private = wanted.get("private", wanted.get("visibility") == "private")
            self.repositories[name] = Repository(private)
        return Answer({"url": f"{self.url}/{name}", "name": name}, 409 if there else 200)

    def _info(self, request: Request, name: str, revision: str = "main") -> Answer:
        repository = self._repository(request, name)
        commit = self._commit(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return Answer({"id": name, "sha": commit.sha, "private": repository.private, "tags": [], "siblings": siblings})

    def _tree(self, request: Request, name: str, revision: str, folder: str = "") -> Answer:
        files = self._commit(self._repository(request, name), revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in sorted(files.items()) if path.startswith(prefix)}
        if not inside:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: list[dict[str, Any]] = []
        for path, file in inside.items():
            if recursive or "/" not in path[len(prefix) :]:
                entries.append({"type": "file", "path": path, "oid": file.blob_id, "size": len(file.content)})
                if file.large:
                    large = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.blob)}
                    entries[-1]["lfs"] = large
        folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside} - set(inside)
        return Answer([*entries, *({"type": "directory", "path": path, "oid": ""} for path in sorted(folders))])

    def _resolve(self, request: Request, name: str, revision: str, path: str) -> Answer:
        commit = self._commit(self._repository(request, name), revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path == self.unavailable:
            raise Refusal(503, "Service unavailable")
        file = commit.files.get(path)
        if file is None:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", **headers)
        if not file.large:
            return Answer(file.content, headers={**headers, "ETag": f'"{file.etag}"'})
        linked = {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        return Answer(status=302, headers={**headers, **linked, "Location": f"{self._storage_url}/{file.sha256}"})

    def _make_branch(self, request: Request, name: str, branch: str) -> Answer:
        repository = self._writable(request, name)
        start = self._commit(repository, request.json().get("startingPoint", "main"))
        if branch in repository.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        repository.branches[branch] = start
        return Answer()

    def _before_upload(self, request: Request, name: str, revision: str) -> Answer:
        files = self._commit(self._writable(request, name), revision).files
        modes = []
        for wanted in request.json()["files"]:
            path = wanted["path"]
            mode = "lfs" if is_large(path, wanted["size"]) else "regular"
            etag = files[path].etag if path in files else None
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": etag})
        return Answer({"files": modes})

    def _where_to_upload(self, request: Request, name: str) -> Answer:
        """Return an upload address for each large file that is missing. "basic" means a plain PUT."""
        self._writable(request, name)
        objects = []
        for wanted in request.json()["objects"]:
            objects.append({"oid": wanted["oid"], "size": wanted["size"]})
            if wanted["oid"] not in self._large:
                signature = secrets.token_hex()
                self._signatures.add(signature)
                address = f"{self._storage_url}/{wanted['oid']}?signature={signature}"
                objects[-1]["actions"] = {"upload": {"href": address}}
        return Answer({"transfer": "basic", "objects": objects})

    def _add_commit(self, request: Request, name: str, revision: str) -> Answer:
        repository = self._writable(request, name)
        parent = self._commit(repository, revision)
        self._cut_if_wanted("commit", request)
        message, changes = "", dict[str, File | None]()
        for line in request.body.splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            if key == "header":
                message = value["summary"]
            elif key == "file":
                changes[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile":
                if value["oid"] not in self._large:
                    raise Refusal(400, f"{value['path']} has not been uploaded")
                changes[value["path"]] = File(self._large[value["oid"]], large=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = value["path"]
                changes |= {path: None for path in parent.files if path == gone or path.startswith(f"{gone}/")}
        commit = repository.commit(revision, message, changes)
        return Answer({"success": True, "commitOid": commit.sha, "commitUrl": f"{self.url}/{name}/commit/{commit.sha}"})

    # The address of large files

    def _store(self, request: Request) -> Answer:
        """Store a large file if the signature allows it, or return one to any client that has its address."""
        self.requests.append((request.method, request.path))
        if "Authorization" in request.headers:
            raise Refusal(400, "Only one way to authenticate is allowed")
        sha256 = request.path.strip("/")
        if request.method == "PUT":
            signature = request.query.get("signature", [""])[0]
            if signature not in self._signatures:
                raise Refusal(403, "Request has expired")
            self._signatures.remove(signature)
            self._cut_if_wanted("upload", request)
            content = request.body
            if File(content, large=True).sha256 != sha256:
                raise Refusal(400, "The content is not what was announced")
            self._large[sha256] = content
            return Answer()
        if sha256 not in self._large:
            raise Refusal(404, "Not found")
        return Answer(self._large[sha256])


_NAME, _REVISION = "(?P<name>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
_PAGES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", "/api/whoami-v2", Hub._who_am_i),
    ("POST", "/api/validate-yaml", Hub._validate_card),
    ("POST", "/api/repos/create", Hub._create),
    ("GET", f"/api/models/{_NAME}(/revision/{_REVISION})?", Hub._info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}(/(?P<folder>.+))?", Hub._tree),
    ("GET", f"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", Hub._resolve),
    ("POST", f"/api/models/{_NAME}/branch/(?P<branch>[^/]+)", Hub._make_branch),
    ("POST", f"/api/models/{_NAME}/preupload/{_REVISION}", Hub._before_upload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", Hub._where_to_upload),
    ("POST", f"/api/models/{_NAME}/commit/{_REVISION}", Hub._add_commit),
)
