"""The metrics of a server, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .scheduler import Scheduler
from .work_queue import Batch

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_PREFIX = "sequence_encoder_"


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(f"{_PREFIX}requests", "Finished requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "Time from the arrival of a request to its response.",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.waited = Histogram(
            f"{_PREFIX}queue_seconds",
            "Time that requests waited until their first text was computed.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.texts = Counter(f"{_PREFIX}texts", "Texts that were computed.", registry=registry)
        self.tokens = Counter(f"{_PREFIX}tokens", "Tokens that were computed.", registry=registry)
        self.batch_texts = Histogram(f"{_PREFIX}batch_texts", "Texts in a batch.", registry=registry, buckets=_TEXTS)
        self.batch_tokens = Histogram(
            f"{_PREFIX}batch_tokens", "Tokens in a batch.", registry=registry, buckets=_TOKENS
        )
        self.batch_seconds = Histogram(
            f"{_PREFIX}batch_seconds", "Time to compute a batch.", registry=registry, buckets=_SECONDS
        )

    def watch(self, scheduler: Scheduler) -> None:
        """Report the queue of a scheduler."""
        gauges = {
            "queue_tokens": ("Tokens that wait.", lambda: scheduler.waiting_tokens),
            "queue_requests": ("Requests with texts that wait.", lambda: scheduler.waiting_requests),
            "tokens_per_second": ("Speed of the computation.", lambda: scheduler.tokens_per_second),
        }
        for name, (meaning, read) in gauges.items():
            Gauge(f"{_PREFIX}{name}", meaning, registry=self.registry).set_function(read)

    def batch(self, batch: Batch, seconds: float) -> None:
        """Count a batch, which took so many seconds."""
        self.texts.inc(len(batch.entries))
        self.tokens.inc(batch.tokens)
        self.batch_texts.observe(len(batch.entries))
        self.batch_tokens.observe(batch.tokens)
        self.batch_seconds.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self.registry)
