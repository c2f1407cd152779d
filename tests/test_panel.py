"""What `marginwatch watch` shows: the reckoning as plain calls, the drawing as text."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec import structs
from rich.console import Console

from monitor.commands.watch_view import Drawing
from monitor.events import LinkId, LinkReport, LinkState, Tick
from monitor.panel import Away, Panel, cushion, next_funding, panel
from monitor.retained import Position, Retained
from monitor.rules import RuleBook
from monitor.standing import Code
from tests.test_retained import calm, seen
from tests.watched import MARKET, Watched, row

D = Decimal
LOST = Away("localhost:1883", "Connection refused", 12)


def shown(core: Watched, away: Away | None = None, after_s: float = 0) -> Panel:
    return panel(seen(core), ["main"], core.now.wall_ms + round(after_s * 1000), away)


def drawn(what: Panel, width: int = 80, height: int | None = None, colours: bool = False) -> str:
    """As a terminal of this width gets it."""
    console = Console(
        width=width, force_terminal=True, color_system="standard" if colours else None, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(Drawing(what, RuleBook(), height), end="")
    return capture.get()


def danger() -> Watched:
    """Two pools, one of them 81.2 % and 0.09 % from liquidation."""
    core = Watched()
    isolated = row("ETHUSDT", "-3", "3000", isolated_wallet="2000", isolated=True)
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"), isolated)
    for _ in range(2):
        core.step(core.mark("90372.10"), core.mark("2950", "ETHUSDT"), Tick())
    return core


# ---- reckoned ----


@pytest.mark.parametrize(
    ("side", "mark", "end", "left"),
    [
        ("long", "100", "90", 1.0),
        ("long", "120", "90", 1.0),
        ("long", "95", "90", 0.5),
        ("long", "90", "90", 0.0),
        ("long", "80", "90", 0.0),
        ("short", "105", "110", 0.5),
        ("short", "80", "110", 1.0),
        ("long", None, "90", None),
        ("long", "95", None, None),
        ("long", "105", "101", None),  # margin was taken out of a gain
        ("long", "105", "100", None),
    ],
)
def test_a_cushion_is_what_is_left_between_entry_and_liquidation(
    side: str, mark: str | None, end: str | None, left: float | None
) -> None:
    """Entered at 100."""
    (position,) = seen(calm()).positions("main")
    changed: Position = structs.replace(
        position,
        side=side,
        entry_price=D(100),
        mark_price=None if mark is None else D(mark),
        liquidation_price=None if end is None else D(end),
    )
    assert cushion(changed) == left


def test_the_next_funding_is_the_nearest_of_all_pools_and_sums_what_they_pay() -> None:
    """By asset, since one wallet pays for all its positions."""
    (pool,) = seen(calm()).pools("main")
    at_ms = pool.as_of_ms
    soon, later = pool.as_of + timedelta(minutes=5), pool.as_of + timedelta(hours=4)
    pools = [
        structs.replace(
            pool, forecast=structs.replace(pool.forecast, next_funding_at=at, payment=pay, margin_ratio_after=r)
        )
        for at, pay, r in ((soon, D("-22.6"), 0.8), (soon, D("2.6"), 0.5), (later, D("-900"), 1.0), (None, None, None))
    ]
    coming = next_funding(pools, at_ms)

    assert coming is not None
    assert (coming.in_s, coming.payments, coming.margin_ratio_after) == (300, {"USDT": D("-20.0")}, 0.8)
    assert next_funding(pools[3:], at_ms) is None


def test_links_and_age_are_those_of_the_account() -> None:
    """A link that is well says so in one word."""
    (account,) = shown(calm()).accounts

    assert (account.is_current, account.note) == (True, "live, 1 s old")
    assert [(link.name, link.words, link.is_well) for link in account.links] == [
        ("private", "live", True),
        ("rest", "live", True),
    ]


@pytest.mark.parametrize(
    ("away", "after_s", "code"), [(LOST, 0, Code.UNKNOWN), (None, 100, Code.CRITICAL)], ids=["broker away", "too old"]
)
def test_what_nobody_can_vouch_for_is_not_current(away: Away | None, after_s: float, code: Code) -> None:
    """The numbers stay, for they are the last that is known; what the links were is of no use to anybody."""
    old = shown(calm(), away, after_s)
    (account,) = old.accounts

    assert (old.code, old.is_current, old.links, account.is_current, account.links) == (code, False, (), False, ())
    assert account.note.startswith("OLD: the last that is known is ")
    assert len(account.positions) == 1


def test_a_blind_account_is_called_what_the_line_above_calls_it() -> None:
    """The same condition in other words would be taken for another."""
    core = calm()
    core.step(LinkReport(LinkId("_instance", MARKET), LinkState.DOWN))
    for _ in range(8):
        core.step(Tick())
    blind = shown(core)
    (account,) = blind.accounts

    assert not account.is_current
    assert account.note.startswith("blind: an input is old or unknown (marks 5 s old, ")
    assert blind.words == f"main is {account.note}"


def test_before_the_broker_is_reached_it_says_that_and_nothing_else() -> None:
    """No state has been heard, which is not the same as there being none."""
    first = panel(Retained("marginwatch"), ["main"], 0, LOST)

    assert (first.code, first.accounts) == (Code.UNKNOWN, ())
    assert first.words == "the broker localhost:1883 has not been heard for 12 s (Connection refused)"


# ---- drawn ----


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_that_matters_is_cut(width: int) -> None:
    """On a phone over ssh, too."""
    text = drawn(shown(danger()), width)

    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("CRITICAL", "cross-usdt", "81.2%", "0.09%", "BTCUSDT long 2.5"):
        assert word in text, word


def test_bars_say_how_near_it_is() -> None:
    """81.2 % of 20 cells; 0.09 % of the mark is a twentieth of the way from liquidation to entry."""
    lines = drawn(shown(danger())).splitlines()

    assert f"cross-usdt        {'━' * 16}{'─' * 4}  81.2%" in next(x for x in lines if x.startswith("cross-usdt"))
    assert f"✕━●{'─' * 12}┤" in next(x for x in lines if x.startswith("BTCUSDT"))


def test_levels_have_colours_and_what_is_old_has_none() -> None:
    """Red is for what is true."""
    now, old = drawn(shown(danger()), colours=True), drawn(shown(danger(), LOST), colours=True)
    pool_now, pool_old = (next(x for x in text.splitlines() if "cross-usdt" in x) for text in (now, old))

    assert "\x1b[32m━" in pool_now  # green up to the first level
    assert "\x1b[33m━" in pool_now  # yellow from 80 % on
    assert "\x1b[1;31m81.2%" in pool_now
    assert not {"\x1b[3", "\x1b[1;3"} & {pool_old[i : i + n] for i in range(len(pool_old)) for n in (3, 5)}
    assert "81.2%" in pool_old


def test_without_colours_every_state_has_its_word() -> None:
    """NO_COLOR, and eyes that do not tell red from green."""
    assert " UNKNOWN  the broker localhost:1883 has not been heard for 12 s" in drawn(shown(danger(), LOST))
    assert "OLD: the last that is known is 1 s old" in drawn(shown(danger(), LOST))
    assert "LAST KNOWN" in drawn(shown(danger(), LOST))


def test_what_is_unknown_is_never_called_none() -> None:
    """No liquidation price is the best news there is; a mark that has never come is among the worst."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(Tick())
    blind = drawn(shown(core), 120).splitlines()
    core = Watched()
    core.begin("230000", row("BTCUSDT", "2.5", "92000"))
    core.step(core.mark("92000"), Tick())
    safe = drawn(shown(core), 120).splitlines()

    (pool, position), (safe_pool, safe_position) = (
        [line.split() for line in lines if line.startswith(("cross-usdt", "BTCUSDT"))] for lines in (blind, safe)
    )
    assert pool[2:] == ["unknown", "unknown", "unknown", "USDT", "unknown"]
    assert position[-6:] == ["unknown", "unknown", "unknown", "unknown", "USDT", "92000"]
    assert safe_pool[2:] == ["0.40%", "none", "230,000.00", "USDT", "0.00"]
    assert safe_position[-6:] == ["none", "none", "92000", "0.00", "USDT", "92000"]


def test_what_does_not_fit_is_counted() -> None:
    """A row that is missing without a word might be the one that matters."""
    whole = drawn(shown(danger())).splitlines()
    cut = drawn(shown(danger()), height=8).splitlines()

    assert len(cut) == 8
    assert cut[:7] == whole[:7]
    assert cut[7].strip() == f"{len(whole) - 7} more lines: enlarge the window"


def test_a_title_cannot_steer_the_terminal() -> None:
    """Others may publish on the broker."""
    what = shown(danger())
    evil = structs.replace(what.incidents[0].incident, title="\x1b[2Jgone [red]?[/red]")
    what = structs.replace(what, incidents=[structs.replace(what.incidents[0], incident=evil)])

    assert "\x1b[2J" not in drawn(what)
    assert "[red]?[/red]" in drawn(what)
