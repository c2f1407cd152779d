"""What must hold on any machine, however busy: ratios of one run, with much room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def missed(result: dict[str, Any]) -> list[str]:
    """The gates that a result does not pass, each in words."""
    return [f"{what} is {value:.3g}, not at least {least:g}" for what, value, least in _values(result) if value < least]


def _values(result: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """What is gated, its value, and the least that it must be."""
    for case in result.get("decisions", []):
        if (case["accounts"], case["shape"]) == (1, "array"):
            for variant, least in (("usual", 1.2), ("ccxtpro", 3)):
                if variant in case["times_ours"]:
                    yield f"CPU of {variant} ÷ ours, one account, array", case["times_ours"][variant]["cpu_us"], least
    if screen := result.get("screen"):
        few, many = (calls["calls_per_mark"] for calls in screen["calls"].values())
        yield "calls a mark with few accounts ÷ with many, all at rest", few / many, 0.9
        if screen["times_limit"] is not None:
            yield "CPU of the C kernel ÷ the screen", 1 / screen["times_limit"], 1 / 30
    if delivery := result.get("delivery"):
        yield "decision + round trip + disk ÷ delivery, median", 1 / delivery["times_with_disk"]["p50"], 0.05
