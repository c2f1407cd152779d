"""Whoever wants to hear what the links hear: a recording, say."""

from __future__ import annotations

from typing import Protocol

from monitor.recording import Line


class Tap(Protocol):
    """Told of everything that the core's events are made of, as it comes."""

    def heard(self, line: Line) -> None:
        """Take one frame or answer, in which there is no listen key. Called in the middle of the feed's work: it must
        neither wait nor raise."""
        ...


class Taps:
    """Several that want to hear the same."""

    def __init__(self, *taps: Tap) -> None:
        self._taps = taps

    def heard(self, line: Line) -> None:
        for tap in self._taps:
            tap.heard(line)
