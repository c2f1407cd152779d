"""Listen keys: one per account, made, prolonged, expired, deleted."""

import asyncio
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

LETTERS = string.ascii_letters + string.digits


@dataclass
class ListenKey:
    """A key and the monotonic second at which it ends."""

    key: str
    account: str
    ends_at: float


class ListenKeys:
    """All keys. gone: told of each key that ends, while it still counts as live, so that it can be announced."""

    def __init__(self, source: random.Random, gone: Callable[[str, str], None]) -> None:
        self.life_s = 3600.0
        self._random = source
        self._gone = gone
        self._by_account: dict[str, ListenKey] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def create(self, account: str) -> str:
        """The account's live key, prolonged; a new one where there is none."""
        if key := self.extend(account):
            return key
        return self.restore(account, "".join(self._random.choices(LETTERS, k=64)))

    def restore(self, account: str, key: str) -> str:
        """Make this the account's key, with a whole life before it."""
        self._by_account[account] = ListenKey(key, account, monotonic() + self.life_s)
        return self.extend(account) or key

    def extend(self, account: str) -> str | None:
        """The account's live key, prolonged; None: it has none."""
        entry = self._live(account)
        if entry is None:
            return None
        entry.ends_at = monotonic() + self.life_s
        self._stop_timer(account)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return entry.key  # built before the loop runs; start() arms the timers
        self._timers[account] = loop.call_later(self.life_s, self.end, account)
        return entry.key

    def end(self, account: str) -> bool:
        """Expire or delete the account's key; whether it had one."""
        entry = self._by_account.get(account)
        self._stop_timer(account)
        if entry is None:
            return False
        self._gone(account, entry.key)
        del self._by_account[account]
        return True

    def owner(self, key: str) -> str | None:
        """The account of a live key."""
        return next((name for name in self._by_account if (e := self._live(name)) and e.key == key), None)

    def of(self, account: str) -> str | None:
        """The account's live key."""
        entry = self._live(account)
        return entry.key if entry else None

    def all(self) -> dict[str, str]:
        """Account → live key."""
        return {name: entry.key for name in self._by_account if (entry := self._live(name))}

    def start(self) -> None:
        """Begin counting: every kept key gets a whole life."""
        for account in list(self._by_account):
            self._by_account[account].ends_at = monotonic() + self.life_s
            self.extend(account)

    def stop(self, forget: bool) -> None:
        """Stop counting. forget: the keys are lost, unannounced."""
        for account in list(self._timers):
            self._stop_timer(account)
        if forget:
            self._by_account.clear()

    def _live(self, account: str) -> ListenKey | None:
        entry = self._by_account.get(account)
        return entry if entry and entry.ends_at > monotonic() else None

    def _stop_timer(self, account: str) -> None:
        if timer := self._timers.pop(account, None):
            timer.cancel()
