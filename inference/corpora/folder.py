"""The output folder of a run: what it may contain at the start, and what the run keeps in it.

shard-000000.parquet   the results of the first rows, complete or absent, and so on
.sequence-encoder/     hidden, so that readers of the results ignore it
  lock                 held while a run uses the folder; the system releases it when the process ends
  settings.json        what must not change when the run is continued
  ranges.json          the ranges of vectors in eight bits
  finished.json        the counts of the whole corpus, written when all shards exist
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...command_line import UsageError
from ...data.corpus import TextArguments
from ...data.corpus_files import DOCUMENTATION, check_no_overlap, find_files
from ...data.dataset_loading import commit_of
from ...saving.staged_files import make_folder
from ...saving.whole_folders import write_atomically
from .results import Counts

# What can change when a run is continued.
_MAY_CHANGE = ("model", "output_dir", "device", "strict", "trust_remote_code")
_FILES = "files of the corpus"
# Earlier versions guessed the types of columns from their values.
_READING = "reading of columns"


class OutputFolder:
    """The output folder of a run.

    Args:
        output: The folder.
        command: The command that writes it.
        option: The option that names it.
    """

    def __init__(self, output: Path, command: str, option: str = "output_dir") -> None:
        self.output, self.command, self.option = output, command, f"--{option}"
        self.state = output / ".sequence-encoder"
        self.settings_file, self.finished_file = self.state / "settings.json", self.state / "finished.json"
        self.ranges_file = self.state / "ranges.json"

    def check(self, corpus: str) -> None:
        """Check that the run may use the folder, before it writes anything.

        Raises:
            UsageError: If the folder is a file, or overlaps with the corpus.
            FileExistsError: If it contains anything that this command has not written.
        """
        check_no_overlap(self.output, corpus, self.option)
        if self.output.exists() and not self.output.is_dir():
            raise UsageError(f"{self.option} {self.output} is a file; choose a folder.")
        if self.output.is_dir() and not self.state.is_dir() and any(self.output.iterdir()):
            raise FileExistsError(
                f"{self.output} contains files that {self.command} did not write; choose another {self.option}."
            )

    def make(self) -> None:
        """Create the folder.

        Raises:
            UsageError: If it cannot be created.
        """
        try:
            make_folder(self.state)
        except OSError as error:
            raise UsageError(f"{self.option} {self.output} cannot be written: {error.strerror or error}.") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other runs.

        Raises:
            FileExistsError: If another run uses it.
        """
        lock = FileLock(self.state / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise FileExistsError(f"Another run is writing to {self.output}; choose another {self.option}.") from error
        try:
            yield
        finally:
            lock.release()
            if not self.settings_file.exists():
                # The run has failed before it wrote anything.
                self._remove()

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check that the settings are those of the run that started to write the folder, if there was one.

        Args:
            settings: Some or all of the settings.

        Raises:
            UsageError: If they differ. The message says which, and what to do.
        """
        if not self.settings_file.exists():
            return
        before = self._read(self.settings_file)
        if before.get("command", self.command) != self.command:
            raise UsageError(f"{self.output} contains results of `{before['command']}`; choose another {self.option}.")
        # The same types as after reading the file.
        now = json.loads(json.dumps(settings))
        changed = [_difference(name, before.get(name), now[name]) for name in now if before.get(name) != now[name]]
        if changed:
            raise UsageError(
                f"{self.output} contains results of other settings: {'; '.join(changed)}. Run the earlier command "
                f"again to continue, or choose another {self.option}."
            )

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, unless they are there already."""
        if not self.settings_file.exists():
            write_atomically(self.settings_file, [json.dumps(settings, indent=1)])

    def finished(self) -> Counts | None:
        """Return the counts of the corpus if the run is finished, or else None."""
        if not self.finished_file.exists():
            return None
        return Counts.from_json(json.dumps(self._read(self.finished_file)))

    def finish(self, counts: Counts) -> bool:
        """Write the counts of the whole corpus, and return False if another process has done so."""
        mine = self.state / f"finished-{os.getpid()}.json"
        write_atomically(mine, [counts.to_json()])
        try:
            # Unlike a renamed file, a link never replaces that of another process.
            os.link(mine, self.finished_file)
        except FileExistsError:
            return False
        except OSError:
            # This file system has no links.
            os.replace(mine, self.finished_file)
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _remove(self) -> None:
        for file in (self.state / "lock", self.state / "documentation.jsonl"):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # A folder is not empty.
            self.state.rmdir()
            self.output.rmdir()

    def _read(self, file: Path) -> Any:
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is damaged ({error}); choose another {self.option}.") from error


def settings_of(command: str, parts: tuple[Any, ...], identity: str) -> dict[str, Any]:
    """Return what must not change when a run is continued, as far as it is known without the model.

    Args:
        command: The name of the command.
        parts: The dataclasses with its options.
        identity: What identifies the content of the model.
    """
    settings: dict[str, Any] = {"command": command}
    for part in parts:
        settings |= {name: value for name, value in vars(part).items() if name not in _MAY_CHANGE}
    if _were_guessed(settings):
        settings[_READING] = "as written"
    for part in parts:
        if isinstance(part, TextArguments):
            settings |= _corpus_settings(part)
    return {**settings, "content of the model": identity}


def _were_guessed(settings: Mapping[str, Any]) -> bool:
    """Return whether earlier versions guessed the types of columns that are now read as they are written."""
    found = None if settings["corpus"] == DOCUMENTATION else find_files(settings["corpus"], "corpus")
    reader = None if found is None else found[0]
    copied = {settings["id_column"], *settings["columns"]} - {None, settings["text_column"]}
    return reader in ("csv", "tsv") or (reader == "json" and bool(copied))


def _corpus_settings(corpus: TextArguments) -> dict[str, Any]:
    if corpus.corpus == DOCUMENTATION:
        return {}
    found = find_files(corpus.corpus, "corpus")
    if found is None:
        commit = commit_of(corpus.corpus)
        return {} if commit is None else {"commit of the corpus": commit}
    stats = {str(file.resolve()): file.stat() for file in found[1]}
    # The files themselves say more than the pattern that finds them, which can be relative to another folder.
    return {"corpus": "files", _FILES: {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}}


def _difference(name: str, before: Any, now: Any) -> str:
    if name == _FILES and isinstance(before, dict):
        words = [f"{file} is new" for file in now if file not in before]
        words += [f"{file} is missing" for file in before if file not in now]
        words += [f"{file} has changed" for file in now if file in before and before[file] != now[file]]
        return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
    if name == _READING:
        return "it was written by an earlier version, which guessed the types of columns"
    if name == "content of the model":
        return "the files of the model have changed"
    return f"{name} was {before!r} and is {now!r}"
