"""Compare `sequence-encoder serve` with sentence-transformers behind FastAPI, under the load of wrk.

    python benchmarks/serving.py --clients 1 8 64 --seconds 10 --rounds 3 [--infinity VENV/bin/infinity_emb]

Each server runs in a separate process with the weights of all-MiniLM-L6-v2, and the servers take turns. The peers are
an endpoint that encodes the texts of its request, as in sentence-transformers' own examples, and one that collects what
waits, so that `SentenceTransformer.encode` sorts the texts of many requests. With `--infinity`, infinity-emb is a third
peer. It requires an older version of transformers, so install it in a separate environment. "auto" is the server's
default precision; the others use `--dtype`. Each client sends one request after the other. Debian and Ubuntu
package wrk (https://github.com/wg/wrk).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from minilm import MINILM

OURS, DEFAULT, PLAIN, SORTED = "sequence-encoder", "sequence-encoder, auto", "FastAPI", "FastAPI, sorted"
INFINITY = "infinity"
# The route of each server, and the field of its bodies with the text.
ROUTES = dict.fromkeys((OURS, DEFAULT, PLAIN, SORTED), ("/embed", "inputs")) | {INFINITY: ("/embeddings", "input")}
# A request has one text. With mixed lengths, one of five is a long docstring.
MIXES = {"short": 0.0, "mixed": 0.2}
REQUESTS = 2000
# Seconds of requests that are not measured, after a server has waited for the others.
SETTLING = 3
# wrk runs this. The requests are read from a file with one body in each line.
SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local number = 0
function request()
  number = number % #bodies + 1
  return wrk.format(nil, os.getenv("ROUTE"), nil, bodies[number])
end
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format('{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def serve_peer(collects: bool, port: int, precision: str) -> None:
    """Serve sentence-transformers until the process ends."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    import uvicorn
    from fastapi import Body, FastAPI
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MINILM), device="cpu", model_kwargs={"dtype": precision})
    app = FastAPI()
    waiting: list[tuple[str, asyncio.Future[list[float]]]] = []

    def encode(texts: list[str]) -> list[list[float]]:
        return model.encode(texts, convert_to_tensor=True, show_progress_bar=False).float().tolist()

    async def compute() -> None:
        while waiting:
            taken = waiting[:64]
            del waiting[:64]
            texts = [text for text, _ in taken]
            # Always the same thread, because each has its own threads of OpenMP.
            vectors = await asyncio.get_running_loop().run_in_executor(thread, encode, texts)
            for (_, future), vector in zip(taken, vectors, strict=True):
                future.set_result(vector)
        running.clear()

    thread = ThreadPoolExecutor(1)
    running: set[asyncio.Task[None]] = set()

    def embed(inputs: str = Body(embed=True)) -> list[list[float]]:
        return encode([inputs])

    async def collect(inputs: str = Body(embed=True)) -> list[list[float]]:
        future = asyncio.get_running_loop().create_future()
        waiting.append((inputs, future))
        if not running:
            running.add(asyncio.create_task(compute()))
        return [await future]

    app.post("/embed")(collect if collects else embed)
    app.get("/health")(lambda: None)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


@contextmanager
def server(name: str, precision: str, options: list[str], infinity: str | None = None) -> Iterator[int]:
    """Start a server, and return its port when it answers.

    Args:
        name: The server.
        precision: The dtype.
        options: Options of `sequence-encoder serve`.
        infinity: The program infinity_emb.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if name == INFINITY:
        model = ["--model-id", str(MINILM), "--engine", "torch", "--no-bettertransformer"]
        command = [str(infinity), "v2", *model, "--device", "cpu", "--dtype", precision, "--port", str(port)]
    elif name in (OURS, DEFAULT):
        command = [sys.executable, "-m", "sequence_encoder", "serve", str(MINILM), "--truncate", *options]
    else:
        command = [sys.executable, __file__, "--peer", name]
    if name != INFINITY:
        command += ["--port", str(port), "--dtype", "auto" if name == DEFAULT else precision]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"The server {name} has ended: {' '.join(command)}")
            try:
                with urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except URLError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def write_bodies(folder: Path, mix: str, field: str) -> Path:
    """Write the bodies of requests, which have the text in `field`, to a file."""
    from peers import short_texts

    from sequence_encoder.data.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries

    docs = [doc for path in find_libraries()[STANDARD_LIBRARY] for doc in docstrings_of(path)]
    rng = random.Random(0)
    long = [doc for doc in docs if 600 < len(doc) < 1200]
    texts = [rng.choice(long) if rng.random() < MIXES[mix] else text for text in short_texts(REQUESTS)]
    file = folder / f"{mix}-{field}.jsonl"
    model = {"model": MINILM.name} if field == "input" else {}
    file.write_text("".join(json.dumps({field: text, **model}) + "\n" for text in texts))
    return file


def load(port: int, route: str, bodies: Path, clients: int, seconds: int) -> dict[str, float]:
    """Send requests to a route for some seconds, and return what wrk measures."""
    script = bodies.with_name("load.lua")
    script.write_text(SCRIPT)
    options = ["--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s", "--timeout", "60s"]
    command = ["wrk", *options, "--script", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        command, env={**os.environ, "BODIES": str(bodies), "ROUTE": route}, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table for each mix and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=[*MIXES])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm_up", type=int, default=30, help="seconds before the first measurement of each server")
    parser.add_argument(
        "--servers", nargs="+", choices=(OURS, DEFAULT, PLAIN, SORTED), default=[OURS, DEFAULT, PLAIN, SORTED]
    )
    parser.add_argument("--infinity", help="the program infinity_emb of infinity-emb")
    parser.add_argument("--options", default="", help="further options of sequence-encoder serve")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.peer:
        serve_peer(parsed.peer == SORTED, parsed.port, parsed.precision)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("This benchmark needs wrk: apt-get install wrk")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [*parsed.servers, *([INFINITY] if parsed.infinity else [])]
        options = parsed.options.split()
        ports = {name: stack.enter_context(server(name, parsed.precision, options, parsed.infinity)) for name in names}
        for mix in parsed.mixes:
            bodies = {field: write_bodies(folder, mix, field) for _, field in set(ROUTES.values())}

            def measure(name: str, clients: int, seconds: int, bodies: dict[str, Path] = bodies) -> dict[str, float]:
                route, field = ROUTES[name]
                return load(ports[name], route, bodies[field], clients, seconds)

            # oneDNN compiles a kernel for each new shape, which a server that has run for long has done.
            for name in names:
                measure(name, max(parsed.clients), parsed.warm_up)
            for clients in parsed.clients:
                found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
                for _ in range(parsed.rounds):
                    for name in names:
                        measure(name, clients, SETTLING)
                        found[name].append(measure(name, clients, parsed.seconds))
                print_table(f"{mix}, {clients} clients, {parsed.precision}", found)


def print_table(title: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians over the rounds."""
    print(f"\n## {title}\n\n| | requests/s | p50 | p99 | errors |\n|---|---|---|---|---|")
    for name, rounds in found.items():

        def median(read: Any, rounds: list[dict[str, float]] = rounds) -> float:
            return statistics.median(map(read, rounds))

        speed = median(lambda each: each["requests"] / each["microseconds"] * 1e6)
        p50, p99 = (median(lambda each, key=key: each[key] / 1000) for key in ("p50", "p99"))
        errors = sum(each["errors"] for each in rounds)
        print(f"| {name} | {speed:.0f} | {p50:.0f} ms | {p99:.0f} ms | {errors:.0f} |", flush=True)


if __name__ == "__main__":
    main()
