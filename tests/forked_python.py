"""A Python that starts in milliseconds: its processes are forked from one that has imported torch and transformers.

    subprocess.run([forked_python(), "-m", "sequence_encoder", "--help"], ...)

The executable (`forked_python_client.py`) takes `-c code`, `-m module` or a script, with arguments. It hands them to a
server, with its open files, folder, environment and limits. The server forks, and the fork runs the program. The
executable passes signals on and ends as the fork ends. If something kills the executable, the server kills the fork.

The server imports the package's dependencies, and never the package itself. A fork differs from a fresh process in
two ways: it does not notice that the package forgot to import one of those modules, and all forks of a server hash
strings alike. Tests that depend on either start `sys.executable`. A fork also ends without shutting down the
interpreter, unless it is one of several ranks.

Some libraries read the environment when they are imported. The server is offline and uses separate caches; a fork
with other settings imports those libraries again.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

# The server skips those that are not installed.
IMPORTED = (
    *("torch.distributed.run", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"),
    *("transformers.trainer", "transformers.pipelines", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.bert.modeling_bert", "accelerate.commands.launch"),
    *("datasets", "peft", "sklearn.metrics", "sentence_transformers"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)
# The variables that these libraries read when they are imported.
READ_ON_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_")
READERS = ("huggingface_hub", "transformers", "accelerate", "peft", "sentence_transformers")


@functools.cache
def forked_python() -> str:
    """Return the path of the executable; the first call starts its server, which ends with this process."""
    folder = tempfile.mkdtemp(prefix="forked-python-")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(READ_ON_IMPORT)}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": os.path.join(folder, "modules"),
        "HF_DATASETS_CACHE": os.path.join(folder, "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    executable = Path(folder, "python")
    client = Path(__file__).with_name("forked_python_client.py")
    executable.write_text(f"#!{sys.executable} -IS\n{client.read_text()}")
    executable.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(folder, "socket"))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), str(executable)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )

    def close() -> None:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(close)
    return str(executable)


class Server:
    """A process that forks another one for each connection of an executable.

    Args:
        listener: The socket that the executables connect to.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.processes: dict[socket.socket, int] = {}

    def serve(self) -> dict[str, Any] | None:
        """Return the request in every fork, and None in the server when its input ends."""
        woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            for ready in select.select([0, woken, self.listener, *self.processes], [], [])[0]:
                if ready == 0:
                    return None
                if ready is woken:
                    woken.recv(4096)
                    self._report_ends()
                elif ready is self.listener:
                    request = self._fork()
                    if request is not None:
                        return request
                elif ready in self.processes:
                    self._pass_signal(ready)

    def _fork(self) -> dict[str, Any] | None:
        connection, _ = self.listener.accept()
        size, files, _, _ = socket.recv_fds(connection, 4, 3)
        body = b""
        while len(body) < int.from_bytes(size, "big"):
            body += connection.recv(1 << 20)
        process = os.fork()
        if process:
            self.processes[connection] = process
            for file in files:
                os.close(file)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Background processes of a shell ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for other in (connection, self.listener, *self.processes):
            other.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        return json.loads(body)

    def _pass_signal(self, connection: socket.socket) -> None:
        number = connection.recv(1)
        if number:
            os.kill(self.processes[connection], number[0])
        else:  # Something killed the executable.
            os.kill(self.processes.pop(connection), signal.SIGKILL)
            connection.close()

    def _report_ends(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # There is no process left.
                return
            if process == 0:
                return
            for connection in [each for each, its in self.processes.items() if its == process]:
                connection.sendall(status.to_bytes(4, "big"))
                connection.close()
                del self.processes[connection]


def run(request: dict[str, Any], path: list[str], executable: str) -> None:
    """Run a program in this process as `python` does.

    Args:
        request: The arguments, environment, folder and limits of the executable.
        path: The module search path without the script's folder and without PYTHONPATH.
        executable: The executable. It becomes `sys.executable`, so that launchers start forks as well.
    """
    environment = request["environment"]
    settings = {name: value for name, value in os.environ.items() if name.startswith(READ_ON_IMPORT)}
    given = {name: value for name, value in environment.items() if name.startswith(READ_ON_IMPORT)}
    if given.items() <= settings.items():
        environment |= settings
    else:
        for name in [name for name in sys.modules if name.partition(".")[0] in READERS]:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["folder"])
    for name, limits in request["limits"].items():
        resource.setrlimit(getattr(resource, name), limits)
    import numpy as np

    np.random.seed()
    sys.executable = executable
    options, arguments = [], request["arguments"]
    while arguments[0] == "-u":
        options.append(arguments.pop(0))
    if options:
        sys.stdout.reconfigure(write_through=True)
    named = [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first = {"-c": "", "-m": os.getcwd()}.get(arguments[0], os.path.dirname(os.path.abspath(arguments[0])))
    sys.path[:] = [first, *named, *path]
    status: Any = None
    try:
        if arguments[0] == "-c":
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code and "RANK" in os.environ:
            raise
        status = ended.code
    if "RANK" not in os.environ:
        _end(status)


def _end(status: Any) -> None:
    """End as `sys.exit` does. Shutting down the interpreter would copy all the pages that the forks share."""
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _main(descriptor: str, executable: str) -> None:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in sys.path[1:] if entry not in given]
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    # Garbage collections in the forks must not touch the shared pages.
    gc.collect()
    gc.freeze()
    request = Server(socket.socket(fileno=int(descriptor))).serve()
    if request is not None:
        run(request, path, executable)


if __name__ == "__main__":
    _main(*sys.argv[1:])
