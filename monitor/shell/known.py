"""What is known at the beginning of a session: the newest of everything that was heard before it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from copy import copy

from msgspec import structs

from monitor.core import Kept
from monitor.effects import INSTANCE, AccountSetup, Save
from monitor.errors import DecodeError
from monitor.events import AccountChanged
from monitor.names import slug
from monitor.recording import Line, read_link_state, requests_by_name
from monitor.shell.owed import Found, Rows
from monitor.venues import VENUES

_ANSWER_BYTES = 32 * 2**20
_PUSHED_AT_MOST = 1000


class Known:
    """What is known at the beginning of the window: the newest of everything that has left it."""

    def __init__(self) -> None:
        self._links: dict[tuple[str | None, str], Line] = {}
        self._answers: dict[tuple[str | None, str, str], Line] = {}
        self._pushed: dict[str, list[Line]] = {}
        self._bytes = 0
        self._last_named_ms = 0
        self._rows: dict[tuple[str, str], bytes] = {}

    def take_over(self, found: Found) -> None:
        """What an earlier run has left was known before all that this one heard."""
        left = {(table, key): row for table, rows in found.rows.items() for key, row in rows.items()}
        self._rows = left | self._rows
        self._last_named_ms = max(self._last_named_ms, found.last_named_ms)

    def take(self, entry: Line | Save) -> None:
        """Something has left the window."""
        if isinstance(entry, Save):
            if entry.row is None:
                self._rows.pop((entry.table, entry.key), None)
            else:
                self._rows[entry.table, entry.key] = entry.row
        elif entry.source == "link":
            with suppress(DecodeError):
                self._links[entry.account, read_link_state(entry).link.name] = entry
        elif entry.source == "rest":
            self._take_answer(entry)
        elif entry.source == "private" and entry.account is not None and _changes_account(entry):
            pushed = self._pushed.setdefault(entry.account, [])
            pushed.append(entry)
            del pushed[:-_PUSHED_AT_MOST]  # where no snapshot succeeds for hours

    def _take_answer(self, line: Line) -> None:
        asks = VENUES[line.venue].requests
        request = requests_by_name(line.venue).get(line.request or "")
        if request is None or request in (asks.marks, asks.rates, asks.forced, asks.open_stream, asks.keep_stream):
            return  # of their moment alone
        key = (line.account, line.market, line.request or "")
        if line.account is not None and request == asks.reconcile[-1]:
            balances = self._answers.get((line.account, line.market, str(asks.reconcile[0])))
            since_ms = 0 if balances is None else balances.at_ms  # what was pushed before is in both answers
            pushed = self._pushed.get(line.account, ())
            self._pushed[line.account] = [frame for frame in pushed if frame.at_ms >= since_ms]
        before = self._answers.get(key)
        size = self._bytes + len(line.raw) - (0 if before is None else len(before.raw))
        if size <= _ANSWER_BYTES:
            self._answers[key] = line
            self._bytes = size

    def kept(self, accounts: Collection[AccountSetup]) -> Kept:
        """Incidents, baselines and silences as they were; of a market that none of these is on there is nothing to
        end."""
        rows: Rows = {}
        own, shared = names(accounts), {"store", *(slug(account.market) for account in accounts)}
        for (table, key), row in self._rows.items():
            account, _, what = key.partition("/")
            is_elsewhere = table == "incident" and account == INSTANCE and what.rpartition("/")[2] not in shared
            if table == "silence" or (account in own and not is_elsewhere):
                rows.setdefault(table, {})[key] = row
        return Found(rows, last_named_ms=self._last_named_ms).kept

    def lines(self, accounts: Collection[str], at_ms: int) -> Iterator[Line]:
        """What a replay has to know first: what the markets say, each account's snapshot, links, what came after."""
        answers = sorted(about(accounts, self._answers.values()), key=_in_order)
        pushed = (frame for frames in self._pushed.values() for frame in about(accounts, frames))
        for line in (*answers, *about(accounts, self._links.values()), *pushed):
            yield structs.replace(line, at_ms=at_ms, received_ms=line.at_ms)

    def copy(self) -> Known:
        """As it is now, for a thread to read."""
        same = copy(self)
        same._links, same._answers, same._rows = {**self._links}, {**self._answers}, {**self._rows}
        same._pushed = {account: [*frames] for account, frames in self._pushed.items()}
        return same


def about(accounts: Collection[str], lines: Iterable[Line]) -> Iterator[Line]:
    """What is of these accounts, or of none."""
    return (line for line in lines if line.account is None or line.account in accounts)


def names(accounts: Iterable[AccountSetup]) -> set[str]:
    """Theirs, and what stands for none of them."""
    return {INSTANCE, *(account.name for account in accounts)}


def _changes_account(line: Line) -> bool:
    """Whether a private frame says something that is not in the snapshot before it."""
    with suppress(DecodeError):
        return any(isinstance(e, AccountChanged) for e in VENUES[line.venue].decode_private(line.raw, ""))
    return False


def _in_order(line: Line) -> tuple[bool, str, int, int]:
    """Markets first; of an account its clock, then its snapshot in the order in which it is asked for."""
    asks = [str(request) for request in VENUES[line.venue].requests.account]
    place = asks.index(line.request) if line.request in asks else -1
    return line.account is not None, line.account or "", place, line.at_ms
