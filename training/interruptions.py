"""A training that is asked to stop, by Ctrl-C or by the system, first saves what it has learned."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(TrainerCallback):
    """Ends a training with a checkpoint when Ctrl-C or SIGTERM asks for it.

    The step that runs is finished first. A second request stops at once, as does the first one outside of a training,
    or in one of several processes, which would not stop at the same step. Add it to a trainer before the callbacks
    that read what follows a step, and train within `watch`.
    """

    def __init__(self) -> None:
        self.asked = self.training = False
        self.process = os.getpid()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Handle the signals. Only the main thread of a program can.

        Raises:
            KeyboardInterrupt: when it is asked to stop.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_if_asked(self) -> None:
        """Interrupt what would follow the training.

        Raises:
            KeyboardInterrupt: if the training was asked to stop.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            # A worker. The terminal sends Ctrl-C to it as well, but the training still needs it.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.asked or not self.training:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once.", file=sys.stderr)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on there is something to save."""
        self.training = args.world_size == 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, if asked to."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checkpoints hold all there is."""
        self.training = False
