"""Shows progress: a bar on a terminal and in a notebook, and a line every ten seconds in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm

Item = TypeVar("Item")

# Seconds until anything is shown, and between two lines of a log.
_DELAY, _INTERVAL = 2.0, 10.0
# Seconds between two looks at the clock while the work says nothing.
_TICK = 1.0
# From here on, a bar shortens numbers, such as 120k.
_MANY = 100_000
_STEP_BAR = "{desc}, {elapsed}"

# What runs, the innermost last, which alone writes lines.
_running: list[Progress] = []
_commands: list[None] = []
clock = time.monotonic


@contextmanager
def lines_in_logs() -> Iterator[None]:
    """Write lines if there is neither a terminal nor a notebook, as commands do; in other programs, nobody asked."""
    _commands.append(None)
    try:
        yield
    finally:
        _commands.pop()


class _Closed(AbstractContextManager[Any]):
    """Something that is closed at the end of its block."""

    def close(self) -> None:
        """Stop."""

    def __exit__(self, *raised: object) -> None:
        self.close()


class Progress(_Closed):
    """The progress of a loop, or the time that a step takes. Nothing is shown of work that is over in two seconds.

    Args:
        description: What is done, such as "Evaluating".
        total: The number of units to do, if it is known.
        unit: What is counted, such as "row". Without a unit, only the time is shown.
        initial: The number of units that were done before.
        show: Whether to show anything; only the first of several processes should.
    """

    def __init__(
        self, description: str, total: int | None = None, unit: str = "", *, initial: int = 0, show: bool = True
    ) -> None:
        self.description, self.total, self.unit, self.initial = description, total, unit, initial
        self.done, self.note = initial, ""
        self._lock, self._over = threading.Lock(), threading.Event()
        self._started = clock()
        self._due = self._started + _DELAY
        self._bar: Any = None
        self._in_log = False
        if not show:
            return
        if sys.stderr.isatty() or tqdm is not tqdm_asyncio:
            form: dict[str, Any] = {} if unit else {"bar_format": _STEP_BAR}
            # Some terminals, such as that of `docker run --tty`, have no width at first.
            form |= {"dynamic_ncols": True} if _has_width() else {"ncols": 80}
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=description,
                unit=unit or "it",
                unit_scale=bool(total and total >= _MANY),
                leave=False,
                delay=_DELAY,
                miniters=0,
                **form,
            )
        else:
            self._in_log = bool(_commands)
        if self._bar is not None or self._in_log:
            _running.append(self)
            # It shows that the work goes on while nothing is counted.
            threading.Thread(target=self._tick, daemon=True).start()

    def update(self, count: int = 1) -> None:
        """Count units that are done."""
        with self._lock:
            self.done += count
            self._show(count)

    def set_postfix_str(self, note: str, refresh: bool = False) -> None:
        """Show a short note behind the numbers, as tqdm does."""
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=refresh)

    def close(self) -> None:
        """Stop, and remove the bar."""
        if self._over.is_set():
            return
        self._over.set()
        with self._lock:
            if self in _running:
                _running.remove(self)
            if self._bar is not None:
                self._bar.close()

    def __str__(self) -> str:
        """Return the line for a log."""
        elapsed = max(clock() - self._started, 1e-9)
        if not self.unit:
            return f"{self.description}, {_minutes(elapsed)} so far"
        counted = self.done - self.initial
        plural = f"{self.unit}es" if self.unit.endswith(("s", "ch")) else f"{self.unit}s"
        if self.total:
            parts = [f"{self.done:,} of {self.total:,} {plural} ({min(self.done / self.total, 1):.0%})"]
            if counted:
                parts.append(f"{_minutes(max(self.total - self.done, 0) * elapsed / counted)} left")
        else:
            parts = [f"{self.done:,} {plural}", f"{_minutes(elapsed)} so far"]
        return f"{self.description}: {', '.join([*parts, self.note] if self.note else parts)}"

    def _tick(self) -> None:
        while not self._over.wait(_TICK):
            with self._lock:
                if not self._over.is_set():
                    self._show(0)

    def _show(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)
        elif self._in_log and _running[-1:] == [self] and (now := clock()) >= self._due:
            self._due = now + _INTERVAL
            print(self, file=sys.stderr, flush=True)


class Steps(_Closed):
    """The steps of a command, of which libraries do not say how far they have come.

    Args:
        description: What the command does, such as "Exporting".
        total: The number of steps.
        show: Whether to show anything.
    """

    def __init__(self, description: str, total: int, *, show: bool = True) -> None:
        self.description, self.total, self._wanted = description, total, show
        self._number = 0
        self._current: Progress | None = None

    def begin(self, name: str) -> None:
        """Begin the next step, such as "tracing the graph"."""
        self.close()
        self._number += 1
        self._current = Progress(f"{self.description}, step {self._number} of {self.total}: {name}", show=self._wanted)

    def __str__(self) -> str:
        return str(self._current)

    def close(self) -> None:
        """End the current step."""
        if self._current is not None:
            self._current.close()


def counted_by(progress: Progress, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and count each one when the loop is done with it."""
    with progress:
        for item in items:
            yield item
            progress.update()


def say(text: str) -> None:
    """Print a line to standard output, above the bars."""
    tqdm.write(text)
    sys.stdout.flush()


def _has_width() -> bool:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _minutes(seconds: float) -> str:
    return str(tqdm.format_interval(seconds))
