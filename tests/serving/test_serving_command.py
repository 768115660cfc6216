"""`sequence-encoder serve` listens on a port, and after SIGTERM finishes its requests and exits with 0."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.__main__ import main
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.forked_python import forked_python

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from sequence_encoder.serving import command

# Says at the end how many objects garbage collections skip.
SERVE = """
import atexit, gc
from sequence_encoder.__main__ import main

before = gc.get_freeze_count()
atexit.register(lambda: print(gc.get_freeze_count() - before))
main()
"""


def answer_of(port: int, path: str, **options: Any) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST" if options else "GET", path, **options)
    return connection.getresponse()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    save_encoder(tmp_path / "tiny")
    (tmp_path / "main.py").write_text(SERVE)
    command = [forked_python(), "main.py", "serve", "cats=tiny", "--port", "0", "--api-key", "k"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_sigterm_finishes_a_request_that_has_begun(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    assert server.stderr is not None
    assert server.stdout.readline().startswith("cats: embed, embed_all, in ")
    (port,) = map(int, re.fullmatch(r"Serving on http://127.0.0.1:(\d+)\n", server.stdout.readline()).groups())
    body = json.dumps({"inputs": "the cat"}).encode()
    assert answer_of(port, "/embed", body=body).status == 401
    with socket.create_connection(("127.0.0.1", port), timeout=20) as begun:
        begun.sendall(
            b"POST /embed HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer k\r\nExpect: 100-continue\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        # The server asks for the body, so it has begun to read the request.
        assert begun.recv(100).startswith(b"HTTP/1.1 100 ")
        server.send_signal(signal.SIGTERM)
        while answer_of(port, "/health").status != 503:
            pass
        begun.sendall(body)
        response = HTTPResponse(begun)
        response.begin()
        assert response.status == 200
        assert len(json.loads(response.read())[0]) == 32
    assert server.wait(20) == 0
    # Otherwise, each full garbage collection would stop all requests for a third of a second.
    assert int(server.stdout.read()) > 1000
    said = server.stderr.read()
    assert "Traceback" not in said
    assert "Loading weights" not in said


def test_a_model_that_does_not_exist_and_a_port_that_is_taken_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no folder"):
        main(["serve", str(tmp_path / "nowhere"), "--port", "0"])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="in use"):
        main(["serve", "nowhere", "--port", str(taken.getsockname()[1])])


def test_a_model_that_cannot_be_served_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise ValueError("A server cannot use it.")

    monkeypatch.setattr(command, "load_served_model", refuse)
    with pytest.raises(SystemExit, match="Cannot serve name=folder: A server cannot use it"):
        main(["serve", "name=folder", "--port", "0"])
