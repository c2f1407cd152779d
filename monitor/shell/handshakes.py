"""Where no stream is to be opened for a while: whoever is told so, and goes on, has his address banned."""

from __future__ import annotations

import time
from urllib.parse import urlsplit


class Handshakes:
    """For how long hosts want no handshake of our address; shared by all links that connect there."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def refused(self, url: str, seconds: float) -> None:
        """A host has answered that we are to stay away for so long."""
        host = urlsplit(url).netloc
        self._until[host] = max(self._until.get(host, 0.0), time.monotonic() + seconds)

    def refused_for_s(self, url: str) -> float:
        """Seconds for which nobody is to connect there; 0: anybody may."""
        return max(0.0, self._until.get(urlsplit(url).netloc, 0.0) - time.monotonic())
