"""The repositories of a Hub, with branches that point to immutable commits."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

# As on the Hub, files are large by the patterns in the .gitattributes of a new repository, or by their size.
LARGE_FILES = ("*.safetensors", "*.bin", "*.onnx")
LARGE_SIZE = 10 * 2**20


def is_large(path: str, size: int) -> bool:
    """Return whether a file is uploaded separately before the commit."""
    return size >= LARGE_SIZE or any(fnmatchcase(path, pattern) for pattern in LARGE_FILES)


def _git_hash(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> bytes:
        """The content that git stores, which is a pointer for a large file."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.large else self.content

    @property
    def blob_id(self) -> str:
        return _git_hash("blob", self.blob)

    @property
    def etag(self) -> str:
        """The identifier of the content, with which clients avoid downloading it again."""
        return self.sha256 if self.large else self.blob_id


@dataclass(frozen=True)
class Commit:
    """A state of a repository, with its files by path."""

    message: str
    files: Mapping[str, File]
    parent: Commit | None = None

    @property
    def sha(self) -> str:
        tree = "\n".join(f"{path}\0{self.files[path].blob_id}" for path in sorted(self.files))
        parent = self.parent.sha if self.parent else ""
        return _git_hash("commit", f"{parent}\n{tree}\n{self.message}".encode())


@dataclass
class Repository:
    """The branches of a repository, and all its commits."""

    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_FILES)
        self.commit("main", "initial commit", {".gitattributes": File(attributes.encode(), large=False)})

    def at(self, revision: str) -> Commit | None:
        """Return the commit of a branch or a hash, or None if it does not exist."""
        return self.branches.get(revision) or self.commits.get(revision)

    def commit(self, branch: str, message: str, changes: Mapping[str, File | None]) -> Commit:
        """Commit new files, and remove those that are None. The branch moves once the new commit is complete."""
        with self._writing:
            parent = self.branches.get(branch)
            files = {**(parent.files if parent else {}), **changes}
            kept = {path: file for path, file in files.items() if file is not None}
            commit = Commit(message, MappingProxyType(kept), parent)
            self.commits[commit.sha] = commit
            self.branches[branch] = commit
        return commit
