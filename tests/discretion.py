"""Holds the words of a notice to what they promise: percentages, times and counts, and no other digit."""

from __future__ import annotations

import re
from typing import Any

_HARMLESS = (
    r"\b\d\d:\d\d UTC",
    r"[+−]?\b\d+(\.\d+)? (%|s|ms|min|h|d)(?!\w)",
    r"\b\d+ (of 4|orders|more)\b",
    r"\b\d+ of \d+ accounts\b",
    r"\b\d+ (of your orders|positions?|incidents?)\b",
    r"\b([Pp]ositions|pools|open|reconnects): \d+\b",
)
_NAME = re.compile(r"[\w/-]*[A-Za-z][\w/-]*")
"""A word with a letter in it: what is called something may have digits in its name."""


def betrayed(title: str, text: str) -> list[str]:
    """The numbers in title and text that are no percentage, duration, time of day or count."""
    words = f"{title}\n{text}"
    for form in _HARMLESS:
        words = re.sub(form, "", words)
    return re.findall(r"\d[\d.,]*", _NAME.sub("", words))


def hold(notice: dict[str, Any]) -> None:
    """
    Raises:
        AssertionError: A notice gives a figure away.
    """
    assert not betrayed(notice["title"], notice["text"]), f"{notice['rule']}: {notice['title']}\n{notice['text']}"
