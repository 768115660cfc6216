"""What a Hub keeps: repositories, with branches that point to commits, whose files never change."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

# As on the Hub: by name, through the .gitattributes that a new repository has, and whatever is too large for git.
LARGE_FILES = ("*.safetensors", "*.bin", "*.onnx")
LARGE_SIZE = 10 * 2**20


def is_large(path: str, size: int) -> bool:
    """Whether a file is uploaded apart, before the commit, instead of in it."""
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
        """What git keeps: of a large file, where to find it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.large else self.content

    @property
    def blob_id(self) -> str:
        return _git_hash("blob", self.blob)

    @property
    def etag(self) -> str:
        """What names the content to clients, so that they do not transfer what they have."""
        return self.sha256 if self.large else self.blob_id


@dataclass(frozen=True)
class Commit:
    """A state of a repository: its files by their paths."""

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
    """Branches and the commits that they point to or have pointed to."""

    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_FILES)
        self.commit("main", "initial commit", {".gitattributes": File(attributes.encode(), large=False)})

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch points to, or that has this hash; None where there is none."""
        return self.branches.get(revision) or self.commits.get(revision)

    def commit(self, branch: str, message: str, changes: Mapping[str, File | None]) -> Commit:
        """Adds files, and removes those that are None. The branch moves once the new commit is whole."""
        with self._writing:
            parent = self.branches.get(branch)
            files = {**(parent.files if parent else {}), **changes}
            kept = {path: file for path, file in files.items() if file is not None}
            commit = Commit(message, MappingProxyType(kept), parent)
            self.commits[commit.sha] = commit
            self.branches[branch] = commit
        return commit
