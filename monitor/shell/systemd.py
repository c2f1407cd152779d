"""What systemd wants to hear: ready, status, watchdog, stopping."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Speaks to the service manager; without one, to nobody.

    Source: sd_notify(3).
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        pid = os.environ.get("WATCHDOG_PID")
        mine = pid is None or pid == str(os.getpid())
        self.watched = bool(os.environ.get("WATCHDOG_USEC")) and mine
        self._is_ready = False
        self._status = ""

    def ready(self) -> None:
        """Say so once; to be called again and again, for a service manager that is busy takes nothing."""
        if not self._is_ready:
            self._is_ready = self._say("READY=1")

    def status(self, text: str) -> None:
        """Say how it goes, where that is another thing than before."""
        if text != self._status and self._say(f"STATUS={text}"):
            self._status = text

    def alive(self) -> None:
        if self.watched:
            self._say("WATCHDOG=1")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def _say(self, line: str) -> bool:
        """Whether it was taken; a service manager that does not listen is no reason to stop watching."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto(line.encode(), self._address)
                return True
        except OSError:
            return False
