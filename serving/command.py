"""`sequence-encoder serve`: loads models, listens on a port, and stops without losing a request."""

from __future__ import annotations

import gc
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn

from ..command_line import UsageError
from ..data.label_file import LabelFile
from ..search.search_index import SearchIndex
from .app import create_app
from .arguments import ServeArguments, ServerLimits, check_different
from .loading import load_served_model, split_name
from .served_model import ServedModel
from .service import Service

# The compute thread needs Python's lock for every operation of torch. With Python's default of 5 ms, requests that are
# being read would delay each of them.
_SWITCH_SECONDS = 0.0005
# Seconds to finish requests after a signal.
_GRACE = 110
# Seconds to close connections after that. Together, they are less than `stop_grace_period` in compose.yaml.
_CLOSING = 5


def serve(options: ServeArguments, limits: ServerLimits) -> None:
    """Load models and serve them until the process receives a signal to stop.

    Raises:
        OSError: If a model does not exist.
        UsageError: If two models have the same name, the port is taken, or a model cannot be served.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # Both before the models are loaded, which can take minutes.
    check_different([split_name(source)[0] for source in options.model])
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
        except OSError as error:
            raise UsageError(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}.") from error
        labels = None if options.label_file is None else LabelFile(options.label_file, options.label_names_file)
        index = None if options.index is None else SearchIndex(options.index)
        models = [_load(source, options) for source in options.model]
        app = create_app(models, limits, api_key=options.api_key, truncate=options.truncate, index=index, labels=labels)
        for model in models:
            print(f"{model.name}: {', '.join(model.tasks)}, in {model.dtype} on {model.device}")
        if labels is not None:
            print(f"Open /label in a browser to label the {len(labels.rows):,} texts of {options.label_file}.")
        sys.setswitchinterval(_SWITCH_SECONDS)
        # A full garbage collection would visit the half a million objects of the libraries and stop all requests for
        # a third of a second, every few seconds.
        gc.collect()
        gc.freeze()
        # Nothing is left to do when the server stops, and uvicorn would report that a second signal cancels it.
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_CLOSING
        )
        host = f"[{options.host}]" if family == socket.AF_INET6 else options.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        _Server(config, app.state.service, address).run(sockets=[listener])


def _load(source: str, options: ServeArguments) -> ServedModel:
    try:
        return load_served_model(source, options.dtype, options.device)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"Cannot serve {source}: {error}") from error


class _Server(uvicorn.Server):
    """A server that finishes its requests after the first signal, and stops at once after the second."""

    def __init__(self, config: uvicorn.Config, service: Service, address: str) -> None:
        super().__init__(config)
        self._service, self._address = service, address
        self._deadline: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        print(f"Serving on {self._address}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. Uvicorn would raise it again in the end, and the exit status would not be 0."""
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        self._service.stopping = True
        self._deadline = time.monotonic() + _GRACE

    async def on_tick(self, counter: int) -> Any:
        """Stop when all requests are finished."""
        if self._deadline is not None and (not self._service.active or time.monotonic() > self._deadline):
            self.should_exit = True
        return await super().on_tick(counter)
