"""The queue of a server: the order of texts, its limits, and requests that fail or that nobody awaits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest

from sequence_encoder.serving.scheduler import DroppedError, Scheduler
from sequence_encoder.serving.work_queue import QueueFullError, RequestTooLargeError, Work, WorkQueue


def work(name: str, *sizes: int, group: Hashable = "a") -> Work:
    return Work(group, [f"{name}{index}" for index in range(len(sizes))], sizes)


def batches(queue: WorkQueue, now: float = 0.0) -> list[list[str]]:
    """Take all batches, and return their texts."""
    taken = []
    while (batch := queue.take(now)) is not None:
        taken.append(batch.texts)
    return taken


def test_requests_are_computed_in_the_order_of_their_arrival_if_they_have_the_same_size() -> None:
    queue = WorkQueue(10, 100)
    for name in "abc":
        queue.add(work(name, 5), now=0)
    assert batches(queue) == [["a0", "b0"], ["c0"]]


def test_a_batch_has_at_most_its_number_of_tokens_unless_one_text_has_more() -> None:
    queue = WorkQueue(10, 100)
    queue.add(work("a", 4, 6, 1, 30, 2), now=0)
    assert batches(queue) == [["a0", "a1"], ["a2"], ["a3"], ["a4"]]
    assert queue.waiting_tokens == queue.waiting_requests == 0


def test_a_short_request_passes_a_long_one_and_a_long_one_is_spread_over_batches() -> None:
    queue = WorkQueue(20, 2000)
    queue.add(work("long", *[10] * 100), now=0)
    assert queue.take(0.0).texts == ["long0", "long1"]  # type: ignore[union-attr]
    queue.add(work("short", 10), now=0.001)
    order = [text for batch in batches(queue) for text in batch]
    assert order.index("short0") < 5
    assert len(order) == 99


def test_a_request_to_a_fast_model_passes_one_to_a_slow_model() -> None:
    queue = WorkQueue(20, 2000, lambda group: group[0])
    for _ in range(10):
        queue.measure(1000, 10.0, ("transformer", "embed"))
        queue.measure(1000, 0.01, ("static", "embed"))
    queue.add(work("slow", *[10] * 20, group=("transformer", "predict")), now=0)
    queue.add(work("fast", *[10] * 40, group=("static", "embed all")), now=0.001)
    order = [text for batch in batches(queue) for text in batch]
    assert order.index("fast39") < order.index("slow0")


def test_no_request_waits_forever_while_shorter_ones_arrive() -> None:
    queue = WorkQueue(10, 10_000)
    queue.measure(10_000, 1000.0)  # Ten tokens per second.
    queue.add(work("long", 10), now=0)
    for second in range(100):
        # Each second brings what takes a second to compute, so that the queue never becomes shorter.
        queue.add(work(f"{second}:", 5), now=second)
        queue.add(work(f"{second}:", 5), now=second)
        if "long0" in queue.take(second).texts:  # type: ignore[union-attr]
            break
    assert second < 5


def test_a_full_queue_says_when_there_will_be_room() -> None:
    queue = WorkQueue(10, 100)
    for _ in range(1000):
        queue.measure(10, 1.0)
    queue.add(work("a", 80), now=0)
    with pytest.raises(QueueFullError) as full:
        queue.add(work("b", 50), now=0)
    assert full.value.seconds == 3  # Thirty tokens too many, at ten per second.
    assert batches(queue) == [["a0"]]
    queue.add(work("b", 50), now=0)
    with pytest.raises(RequestTooLargeError, match="101 tokens, but the server accepts at most 100"):
        queue.add(work("c", 101), now=0)


def test_dropped_texts_make_room_and_are_not_computed() -> None:
    queue = WorkQueue(10, 100)
    gone, kept = work("gone", 10, 10, 80), work("kept", 90)
    queue.add(gone, now=0)
    assert queue.take(0.0).texts == ["gone0"]  # type: ignore[union-attr]
    queue.drop(gone)
    queue.drop(gone)
    queue.add(kept, now=0)
    assert batches(queue) == [["kept0"]]
    assert queue.waiting_tokens == queue.waiting_requests == 0


class Gate:
    """A computation that waits until it may go on, and records its batches."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, group: Any, texts: list[str]) -> Sequence[str]:
        self.batches.append(texts)
        self.begun.set()
        self.open.wait(timeout=20)
        if any(text.startswith("bad") for text in texts):
            raise ArithmeticError(texts[0])
        return [text.upper() for text in texts][group == "lost" :]


def run(scenario: Callable[[Scheduler, Gate], Any]) -> Any:
    """Run a scenario with a scheduler that computes through a gate."""
    gate = Gate()
    scheduler = Scheduler(WorkQueue(100, 1000), gate)
    try:
        return asyncio.run(scenario(scheduler, gate))
    finally:
        gate.open.set()
        scheduler.close()


async def begin(scheduler: Scheduler, gate: Gate) -> asyncio.Task[Work]:
    """Start a request, and wait until it is being computed."""
    first = asyncio.create_task(scheduler.compute("a", ["first"], [1]))
    await asyncio.to_thread(gate.begun.wait, 20)
    return first


def test_what_arrives_during_a_batch_is_computed_together() -> None:
    async def scenario(scheduler: Scheduler, gate: Gate) -> None:
        first = await begin(scheduler, gate)
        others = [asyncio.create_task(scheduler.compute("a", [text], [1])) for text in ("x", "y", "z")]
        await asyncio.sleep(0)
        assert scheduler.waiting_requests == 3
        gate.open.set()
        assert (await first).results == ["FIRST"]
        assert [(await other).results for other in others] == [["X"], ["Y"], ["Z"]]
        assert gate.batches == [["first"], ["x", "y", "z"]]

    run(scenario)


def test_a_bad_text_fails_only_its_own_request() -> None:
    async def scenario(scheduler: Scheduler, gate: Gate) -> None:
        first = await begin(scheduler, gate)
        requests = [["good", "fine"], ["good", "bad"], ["right"]]
        tasks = [asyncio.create_task(scheduler.compute("a", texts, [1] * len(texts))) for texts in requests]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        good, bad, right = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, ArithmeticError)
        assert [each.results for each in (good, right)] == [["GOOD", "FINE"], ["RIGHT"]]  # type: ignore[union-attr]
        assert (await scheduler.compute("a", ["later"], [1])).results == ["LATER"]

    run(scenario)


def test_a_computation_that_loses_results_fails_its_requests_and_no_others() -> None:
    async def scenario(scheduler: Scheduler, gate: Gate) -> None:
        gate.open.set()
        with pytest.raises(ValueError, match="zip"):
            await scheduler.compute("lost", ["x", "y"], [1, 1])
        assert (await scheduler.compute("a", ["later"], [1])).results == ["LATER"]

    run(scenario)


@pytest.mark.parametrize("leaves", ["connection", "cancellation"])
def test_a_request_that_nobody_awaits_is_not_computed(leaves: str) -> None:
    async def scenario(scheduler: Scheduler, gate: Gate) -> None:
        first = await begin(scheduler, gate)
        left = asyncio.Event()
        gone = asyncio.create_task(scheduler.compute("a", ["gone"], [1], left.wait()))
        kept = asyncio.create_task(scheduler.compute("a", ["kept"], [1]))
        await asyncio.sleep(0)
        if leaves == "connection":
            left.set()
        else:
            gone.cancel()
        with pytest.raises(DroppedError if leaves == "connection" else asyncio.CancelledError):
            await gone
        assert scheduler.waiting_tokens == 1
        gate.open.set()
        await asyncio.gather(first, kept)
        assert gate.batches == [["first"], ["kept"]]

    run(scenario)


def test_a_closed_scheduler_drops_what_waits_and_takes_no_more() -> None:
    async def scenario(scheduler: Scheduler, gate: Gate) -> None:
        first = await begin(scheduler, gate)
        waiting = asyncio.create_task(scheduler.compute("a", ["waiting"], [1]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        while not scheduler.closed:
            await asyncio.sleep(0)
        gate.open.set()
        await closing
        assert (await first).results == ["FIRST"]
        with pytest.raises(DroppedError, match="stops"):
            await waiting
        with pytest.raises(DroppedError, match="stops"):
            await scheduler.compute("a", ["late"], [1])

    run(scenario)
