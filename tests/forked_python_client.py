"""The executable of `forked_python`, a proxy of the process that the server forks. It imports only what loads fast."""

import json
import os
import resource
import signal
import socket
import sys

LIMITS = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE")


def main() -> None:
    """Send the request, pass signals on, and end as the fork ends."""
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    }
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        socket.send_fds(server, [len(body).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(body)
        # The fork owns the pipes now, and closes them when it ends.
        status = server.recv(4)
    if not status:
        sys.exit("The server of forked processes has ended.")
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big"))
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if code != -signal.SIGKILL:  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
