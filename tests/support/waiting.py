"""Waiting for a condition with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline_s: float = 20, what: str = "") -> T:
    """Calls `condition` until it returns something true, and returns that.

    Raises:
        AssertionError: the deadline is over; `what` says what was waited for.
    """
    give_up = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < give_up, f"not within {deadline_s:g} s: {what or condition}"
        time.sleep(0.02)
    return result


async def wait_until_async(
    condition: Callable[[], Awaitable[T]], deadline_s: float = 20, what: str = ""
) -> T:
    """`wait_until` for a condition that is awaited."""
    give_up = time.monotonic() + deadline_s
    while not (result := await condition()):
        assert time.monotonic() < give_up, f"not within {deadline_s:g} s: {what or condition}"
        await asyncio.sleep(0.02)
    return result
