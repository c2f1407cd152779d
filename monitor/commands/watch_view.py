"""How the table of `marginwatch watch` is drawn: a panel as renderables of rich, for any width.

A colour never says anything that no word says. What is not current is dimmed and has no colour at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from monitor.digits import plain
from monitor.humanize import amount, away, percent, price, span
from monitor.panel import AccountView, Funding, IncidentView, LinkView, Panel, cushion
from monitor.retained import Pool, Position, rank
from monitor.rules import RuleBook, Severity
from monitor.standing import Code

T = TypeVar("T")

_STYLES = {
    Severity.OK: "green",
    Severity.INFO: "cyan",
    Severity.NOTICE: "cyan",
    Severity.WARNING: "yellow",
    Severity.CRITICAL: "bold red",
    Severity.LIQUIDATION: "bold white on red",
}
_BADGES = {
    Code.OK: "bold black on green",
    Code.WARNING: "bold black on yellow",
    Code.CRITICAL: "bold white on red",
    Code.UNKNOWN: "bold white on magenta",
}
_WIDE, _NARROW, _TINY = 96, 72, 54
"""From how many columns on there is room for everything; below how many for the least; and for not even a bar."""
_WORDS = ("POOL", "RATIO", "POSITION", "TO LIQUIDATION", "INCIDENT", "LAST KNOWN", "WHAT")
"""Columns that are read from the left."""
_INCIDENTS = 8
"""So many are shown; they must not push the accounts off the screen."""
_NONE, _UNKNOWN = "none", "unknown"
_UNICODE = {"full": "━", "rest": "─", "mark": "●", "end": "✕", "entry": "┤"}
_ASCII = {"full": "=", "rest": "-", "mark": "o", "end": "x", "entry": "|"}


class Drawing:
    """A panel as it is drawn into the room that there is; what does not fit is counted.

    Args:
        rules: Their levels colour the bars.
        height: Lines that there are; None: as many as it takes.
    """

    def __init__(self, panel: Panel, rules: RuleBook, height: int | None = None) -> None:
        self._panel = panel
        self._rules = rules
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = _Page(self._rules, options.max_width, _ASCII if options.ascii_only else _UNICODE)
        lines = console.render_lines(Group(*page.all(self._panel)), options.update(height=None), pad=False)
        if self._height is not None and len(lines) > self._height:
            hidden = len(lines) - self._height + 1
            note = Text(f"{hidden} more lines: enlarge the window", style="bold reverse")
            lines = [*lines[: self._height - 1], *console.render_lines(note, options.update(height=None), pad=False)]
        for line in lines:
            yield from line
            yield Segment.line()


class _Page:
    """Draws for one width."""

    def __init__(self, rules: RuleBook, width: int, signs: dict[str, str]) -> None:
        self._rules = rules
        self._signs = signs
        self._is_wide = width >= _WIDE
        self._is_narrow = width < _NARROW
        self._has_bars = width >= _TINY

    def all(self, panel: Panel) -> Iterator[RenderableType]:
        yield _head(panel)
        yield Text.assemble((f" {panel.code.name} ", _BADGES[panel.code]), " ", _shown(panel.words))
        if panel.links:
            yield _links("shared links", panel.links)
        if panel.incidents:
            yield Text()
            yield _incidents(panel.incidents, panel.is_current)
        for account in panel.accounts:
            yield Text()
            yield _account(account)
            if account.pools:
                yield self._pools(account)
            if account.positions:
                yield Text()
                yield self._positions(account)

    # ---- pools ----

    def _pools(self, account: AccountView) -> Table:
        heads = ["POOL", "RATIO", "", "AWAY", "BALANCE", "PNL"]
        table = _table(self._cut(heads))
        for pool in account.pools:
            is_current = account.is_current and pool.freshness == "live"
            style = _STYLES[rank(pool.severity)] if is_current else "dim"
            cells = [
                Text(_shown(pool.pool)),
                self._ratio_bar(pool, account.name, is_current),
                Text(_percent(pool.margin_ratio, _UNKNOWN), style=style),
                Text(_away(pool.distance, _UNKNOWN if pool.margin_ratio is None else _NONE), style=style),
                Text(f"{_money(pool.margin_balance)} {_shown(pool.asset)}"),
                Text(_signed(pool.unrealized_pnl)),
            ]
            table.add_row(*self._cut(cells), style="" if is_current else "dim")
        return table

    def _ratio_bar(self, pool: Pool, account: str, is_current: bool) -> Text:
        """Full at liquidation; each part in the colour of its own level."""
        length = 28 if self._is_wide else 12 if self._is_narrow else 20
        full = 0 if pool.margin_ratio is None else min(length, round(pool.margin_ratio * length))
        bar = Text()
        for cell in range(length):
            level = self._severity("margin_ratio", account, (cell + 1) / length)
            style = _STYLES[level].removesuffix(" on red") if is_current and cell < full else "dim"
            bar.append(self._signs["full" if cell < full else "rest"], style=style)
        return bar

    # ---- positions ----

    def _positions(self, account: AccountView) -> Table:
        heads = ["POSITION", "TO LIQUIDATION", "AWAY", "LIQUID.", "MARK", "PNL", "ENTRY"]
        table = _table(self._cut(heads))
        for position in account.positions:
            is_current = account.is_current and position.freshness == "live"
            level = self._severity("liquidation_distance", account.name, position.distance)
            style = _STYLES[level] if is_current else "dim"
            pnl = position.unrealized_pnl
            tint = "" if not pnl or not is_current else "green" if pnl > 0 else "red"
            absent = _NONE if position.is_reckoned else _UNKNOWN
            cells = [
                Text(f"{_shown(position.symbol)} {position.side} {plain(abs(position.quantity).normalize())}"),
                self._cushion_bar(position, style),
                Text(_away(position.distance, absent), style=style),
                Text(absent if position.liquidation_price is None else price(position.liquidation_price)),
                Text(_UNKNOWN if position.mark_price is None else price(position.mark_price)),
                Text(f"{_signed(pnl)} {_shown(position.asset)}", style=tint),
                Text(price(position.entry_price)),
            ]
            table.add_row(*self._cut(cells), style="" if is_current else "dim")
        return table

    def _cushion_bar(self, position: Position, style: str) -> Text:
        """From liquidation (left) to entry (right), with the mark between them."""
        length = 24 if self._is_wide else 14 if self._is_narrow else 16
        left = cushion(position)
        if left is None:
            return Text("–".center(length), style="dim")
        track = length - 3
        at = round(left * track)
        return Text.assemble(
            (self._signs["end"], style),
            (self._signs["full"] * at, style),
            (self._signs["mark"], style),
            (self._signs["rest"] * (track - at), "dim"),
            (self._signs["entry"], "dim"),
        )

    def _cut(self, row: list[T]) -> list[T]:
        """What of a row there is room for; the most important stands left, but for the bar in the second column."""
        row = row[:4] if self._is_narrow else row if self._is_wide else row[:-1]
        return row if self._has_bars else [row[0], *row[2:]]

    def _severity(self, rule: str, account: str, value: float | None) -> Severity:
        if value is None:
            return Severity.OK
        steps = self._rules.of(rule, account).steps
        return max((step.severity for step in steps if step.fires(Decimal(str(value)))), default=Severity.OK)


# ---- what has the same shape everywhere ----


def _head(panel: Panel) -> Table:
    table = Table.grid(expand=True)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    at = datetime.fromtimestamp(panel.at_ms / 1000, UTC)
    table.add_row(Text.assemble(("marginwatch", "bold"), "  ", _shown(panel.daemon)), Text(f"{at:%H:%M:%S} UTC", "dim"))
    return table


def _account(account: AccountView) -> Text:
    """Name, age, what its links say, and the next funding."""
    said = Text.assemble((account.name, "bold"), "  ", (account.note, "dim" if account.is_current else "bold yellow"))
    if account.links:
        said.append_text(Text("  ·  ", "dim")).append_text(_links("", account.links))
    if account.funding is not None:
        said.append_text(Text("\n")).append_text(_funding(account.funding, account.is_current))
    return said


def _funding(funding: Funding, is_current: bool) -> Text:
    style = "" if is_current else "dim"
    paid = ", ".join(f"{_signed(value)} {_shown(asset)}" for asset, value in funding.payments.items())
    after = "" if funding.margin_ratio_after is None else f", margin ratio then {_percent(funding.margin_ratio_after)}"
    if funding.in_s <= 0:
        return Text("funding is due", style=style)
    return Text.assemble(
        "next funding in ", (_clock(funding.in_s), "bold"), f": {paid or 'unknown'}{after}", style=style
    )


def _links(head: str, links: Sequence[LinkView]) -> Text:
    parts = [Text(head, "dim")] if head else []
    for link in links:
        parts.append(
            Text.assemble((f"{_shown(link.name)} ", "dim"), (_shown(link.words), "green" if link.is_well else "red"))
        )
    return Text("  ").join(parts)


def _incidents(incidents: Sequence[IncidentView], is_current: bool) -> Table:
    table = _table(["INCIDENT" if is_current else "LAST KNOWN", "SINCE", "WHAT"])
    for view in incidents[:_INCIDENTS]:
        incident = view.incident
        seen = "" if incident.acknowledged_at is None else " (acknowledged)"
        table.add_row(
            Text(incident.severity.upper(), style=_STYLES[rank(incident.severity)] if is_current else ""),
            Text(span(view.age_s)),
            Text(_shown(incident.title) + seen),
            style="" if is_current else "dim",
        )
    if len(incidents) > _INCIDENTS:
        table.add_row("", "", Text(f"and {len(incidents) - _INCIDENTS} more", style="dim"))
    return table


def _table(heads: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, justify="left" if head in _WORDS else "right", no_wrap=head != "WHAT")
    return table


def _shown(text: str) -> str:
    """What others publish must not steer the terminal, and a number is not parted from its sign at a line's end."""
    return "".join(letter if letter.isprintable() else "�" for letter in text).replace(" %", "%")


def _percent(value: float | None, absent: str = _UNKNOWN) -> str:
    return absent if value is None else percent(Decimal(str(value))).replace(" ", "")


def _away(distance: float | None, absent: str) -> str:
    return absent if distance is None else away(Decimal(str(distance))).replace(" ", "")


def _money(value: Decimal | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.2f}" if abs(value) >= 1 or not value else amount(value)


def _signed(value: Decimal | None) -> str:
    return f"+{_money(value)}" if value is not None and value > 0 else _money(value).replace("-", "−")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
