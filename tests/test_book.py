"""An account's book: what the exchange last said, whatever order it arrives in."""

from __future__ import annotations

from decimal import Decimal

import pytest

from monitor.book import AccountBook, is_torn
from monitor.events import (
    AccountChanged,
    Balance,
    BalancesRead,
    Contract,
    ExchangeFigures,
    Position,
    PositionKey,
    PositionsRead,
    Side,
)
from monitor.listings import Listings
from monitor.risk.pools import margin_pools
from tests.watched import row

D = Decimal
BTC = PositionKey("BTCUSDT", Side.BOTH)


def pushed(*positions: Position, balances: tuple[Balance, ...] = (), at_ms: int = 0) -> AccountChanged:
    return AccountChanged("main", "ORDER", balances, positions, None, {}, at_ms)


def balance(wallet: str, at_ms: int, asset: str = "USDT") -> Balance:
    return Balance(asset, D(wallet), D(wallet), at_ms)


def read(*positions: Position, sent_ms: int) -> PositionsRead:
    return PositionsRead("main", tuple((p, None) for p in positions), sent_ms)


def known_book(*rows: Position, wallet: str = "1000", dispute_s: float = 60) -> AccountBook:
    book = AccountBook(dispute_s)
    book.apply_balances(BalancesRead("main", (balance(wallet, 1),), 1), 0)
    book.apply_positions(read(*rows, sent_ms=1), 0)
    return book


# ---- pushed changes ----


def test_rows_are_merged_never_replaced_as_a_whole() -> None:
    """An event names only what changed; the rest of the account stands."""
    book = known_book(row("BTCUSDT", "1", "50000"), row("ETHUSDT", "-3", "3000"))

    book.apply_changed(pushed(row("ETHUSDT", "-4", "3001", at_ms=5), balances=(balance("9", 5, "BNB"),)), 1)

    assert {r.symbol: r.quantity for r in book.positions()} == {"BTCUSDT": 1, "ETHUSDT": -4}
    assert {b.asset: b.wallet_balance for b in book.balances.values()} == {"USDT": 1000, "BNB": 9}


def test_an_event_older_than_the_row_is_dropped() -> None:
    """Events can overtake each other; the later state of the exchange is the true one."""
    book = known_book(row("BTCUSDT", "2", "50000", at_ms=10))

    assert not book.apply_changed(pushed(row("BTCUSDT", "1", "50000", at_ms=9)), 1)
    assert book.rows[BTC].quantity == 2


def test_a_balance_older_than_the_known_one_is_dropped() -> None:
    """The same for wallets: of two fundings the later one is the state."""
    book = known_book()
    book.apply_changed(pushed(balances=(balance("900", 10),)), 1)

    assert not book.apply_changed(pushed(balances=(balance("950", 9),)), 2)
    assert book.balances["USDT"].wallet_balance == 900


def test_of_one_event_the_newer_rows_count_and_the_older_do_not() -> None:
    """Age is a matter of each row, not of the frame it came in."""
    book = known_book(row("BTCUSDT", "2", "50000", at_ms=10), wallet="1000")

    taken = book.apply_changed(pushed(row("BTCUSDT", "1", "50000", at_ms=9), balances=(balance("900", 9),)), 1)

    assert taken
    assert book.rows[BTC].quantity == 2
    assert book.balances["USDT"].wallet_balance == 900


def test_two_events_of_one_millisecond_both_count_in_order_of_arrival() -> None:
    """A market order trades several times within a millisecond; the last state stands."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=10))

    book.apply_changed(pushed(row("BTCUSDT", "2", "50000", at_ms=10)), 1)
    book.apply_changed(pushed(row("BTCUSDT", "3", "50000", at_ms=10)), 1)

    assert book.rows[BTC].quantity == 3


def test_an_event_that_is_dropped_does_not_prove_the_account_fresh() -> None:
    """An old frame says nothing of the present."""
    book = known_book(row("BTCUSDT", "2", "50000", at_ms=10))
    book.apply_changed(pushed(row("BTCUSDT", "1", "50000", at_ms=9)), 99)

    assert book.truth_at == 0


# ---- snapshots ----


@pytest.mark.parametrize(
    ("changed_ms", "asked_ms", "torn"),
    [
        pytest.param(200, [200], False, id="as they were asked for: the balances have it"),
        pytest.param(201, [200], True, id="after that"),
        pytest.param(201, [200, 300], True, id="between two kinds of balances"),
        pytest.param(201, [], False, id="no balances"),
    ],
)
def test_a_snapshot_is_torn_where_a_position_changed_after_its_balances_were_asked_for(
    changed_ms: int, asked_ms: list[int], torn: bool
) -> None:
    """The PnL of what was closed meanwhile would be in neither, and the margin ratio wrong by it."""
    balances = [BalancesRead("main", (), at_ms) for at_ms in asked_ms]
    rows = read(row("BTCUSDT", "1", "50000", at_ms=5), row("ETHUSDT", "1", "3000", at_ms=changed_ms), sent_ms=900)

    assert is_torn([*balances, rows]) is torn


def test_a_snapshot_older_than_an_event_never_overwrites_it() -> None:
    """REST answers come from copies that lag behind the stream."""
    book = known_book(row("BTCUSDT", "1", "50000"))
    book.apply_changed(pushed(row("BTCUSDT", "5", "51000", at_ms=100), balances=(balance("800", 100),)), 1)

    book.apply_balances(BalancesRead("main", (balance("1000", 50),), 200), 2)
    book.apply_positions(read(row("BTCUSDT", "1", "50000", at_ms=50), sent_ms=200), 2)

    assert book.rows[BTC].quantity == 5
    assert book.balances["USDT"].wallet_balance == 800


def test_a_newer_snapshot_row_is_taken_at_once() -> None:
    """It is how a change that was never pushed becomes known."""
    book = known_book(row("BTCUSDT", "1", "50000"))
    book.apply_positions(read(row("BTCUSDT", "4", "50500", at_ms=60), sent_ms=200), 2)

    assert book.rows[BTC].quantity == 4


def test_of_one_moment_the_snapshot_is_right() -> None:
    """A row of the same time that says something else is the exchange's last word, not a lagging copy."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=10))
    book.apply_positions(read(row("BTCUSDT", "1.5", "50000", at_ms=10), sent_ms=200), 2)

    assert book.rows[BTC].quantity == D("1.5")


def test_a_position_that_the_snapshot_does_not_name_is_closed() -> None:
    """`positionRisk` lists only what is open."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=100))
    book.apply_positions(read(sent_ms=10_000), 2)

    assert list(book.positions()) == []


def test_a_position_that_one_answer_did_not_name_is_back_with_the_next_that_does() -> None:
    """Its row is old, for it has not changed: an answer that was empty by mistake would hide it for a minute."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=100))
    named = row("BTCUSDT", "1", "50000", at_ms=100)
    book.apply_positions(read(sent_ms=10_000), 10)
    book.apply_positions(read(named, sent_ms=11_000), 11)
    lagging = book.rows[BTC].quantity
    book.apply_positions(read(named, sent_ms=15_000), 15)

    assert lagging == 0
    assert book.rows[BTC].quantity == 1


def test_a_position_that_the_answer_with_the_balances_has_is_not_closed_by_one_that_lacks_it() -> None:
    """Every position was told as closed, and all that was open of it as over, for one answer that was empty by mistake.
    What is held then is compared with nothing; and what both do not name any more is gone."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=100), row("ETHUSDT", "2", "3000", at_ms=100))
    book.apply_balances(BalancesRead("main", (balance("1000", 1),), 9_900, frozenset({BTC})), 10)
    book.apply_positions(read(sent_ms=10_000), 10)
    held, unlike = [position.symbol for position in book.positions()], set(book.unlike)
    book.apply_balances(BalancesRead("main", (balance("1000", 1),), 14_900), 15)
    book.apply_positions(read(sent_ms=15_000), 15)

    assert (held, unlike) == (["BTCUSDT"], {BTC})
    assert (list(book.positions()), book.unlike) == ([], set())


def test_a_position_that_the_stream_has_closed_is_not_back_for_an_older_answer() -> None:
    """Of that there is more than a name that is missing."""
    book = known_book(row("BTCUSDT", "1", "50000", at_ms=100))
    book.apply_positions(read(sent_ms=10_000), 10)
    book.apply_changed(pushed(row("BTCUSDT", "0", "0", at_ms=9_000)), 11)
    book.apply_positions(read(row("BTCUSDT", "1", "50000", at_ms=100), sent_ms=15_000), 15)

    assert list(book.positions()) == []


def test_a_balance_that_one_answer_did_not_name_is_back_with_the_next_that_does() -> None:
    """Without its wallet a pool is past liquidation: a false alarm of a minute."""
    book = known_book()
    book.apply_balances(BalancesRead("main", (balance("1000", 1),), 5_000), 5)
    book.apply_balances(BalancesRead("main", (), 10_000), 10)
    book.apply_balances(BalancesRead("main", (balance("1000", 1),), 15_000), 15)

    assert book.balances["USDT"].wallet_balance == 1000


def test_a_position_touched_while_the_snapshot_was_made_is_not_closed_by_it() -> None:
    """It was opened a moment before we asked: the copy that answered had not heard of it."""
    book = known_book()
    book.apply_changed(pushed(row("BTCUSDT", "1", "50000", at_ms=9_000)), 1)

    book.apply_positions(read(sent_ms=10_000), 2)

    assert book.rows[BTC].quantity == 1


def test_an_older_answer_that_persists_is_believed_after_dispute_s() -> None:
    """A wrong belief of ours must not outlive every later answer of the exchange."""
    book = known_book(row("BTCUSDT", "1", "50000"), dispute_s=60)
    book.apply_changed(pushed(row("BTCUSDT", "5", "51000", at_ms=100)), 1)
    contradiction = read(row("BTCUSDT", "1", "50000", at_ms=50), sent_ms=200)

    book.apply_positions(contradiction, 10)
    book.apply_positions(contradiction, 69.9)
    assert book.rows[BTC].quantity == 5

    book.apply_positions(contradiction, 70)
    assert book.rows[BTC].quantity == 1


def test_a_dispute_begins_anew_when_the_contradiction_changes_or_ends() -> None:
    """Sixty seconds of the same words, not sixty seconds of any words."""
    book = known_book(row("BTCUSDT", "1", "50000"), dispute_s=60)
    book.apply_changed(pushed(row("BTCUSDT", "5", "51000", at_ms=100)), 1)

    book.apply_positions(read(row("BTCUSDT", "1", "50000", at_ms=50), sent_ms=200), 10)
    book.apply_positions(read(row("BTCUSDT", "2", "50000", at_ms=51), sent_ms=200), 40)
    book.apply_positions(read(row("BTCUSDT", "2", "50000", at_ms=51), sent_ms=200), 71)
    assert book.rows[BTC].quantity == 5

    book.apply_positions(read(row("BTCUSDT", "5", "51000", at_ms=50), sent_ms=200), 80)  # now it agrees
    book.apply_positions(read(row("BTCUSDT", "2", "50000", at_ms=51), sent_ms=200), 101)
    assert book.rows[BTC].quantity == 5


def test_a_balance_in_dispute_is_settled_the_same_way() -> None:
    """Wallets lag like positions do."""
    book = known_book(dispute_s=60)
    book.apply_changed(pushed(balances=(balance("700", 100),)), 1)
    answer = BalancesRead("main", (balance("1000", 50),), 200)

    book.apply_balances(answer, 10)
    assert book.balances["USDT"].wallet_balance == 700
    book.apply_balances(answer, 70)
    assert book.balances["USDT"].wallet_balance == 1000


def test_the_exchanges_own_figures_follow_the_snapshot() -> None:
    """They are published beside ours; those of a closed position would mislead."""
    figures = ExchangeFigures(D(50_000), D(0), D(200), None)
    book = known_book()
    book.apply_positions(PositionsRead("main", ((row("BTCUSDT", "1", "50000"), figures),), 10_000), 1)
    assert book.figures[BTC] is figures

    book.apply_positions(read(sent_ms=20_000), 2)
    assert BTC not in book.figures


# ---- margin type and asset ----


def test_the_margin_type_of_a_silent_row_is_found_in_what_is_known() -> None:
    """The snapshot's rows do not say it: a wallet of its own says it, else the symbol's setting."""
    book = known_book()
    book.isolated["ETHUSDT"] = True
    book.apply_positions(
        read(
            row("BTCUSDT", "1", "50000", isolated_wallet="10"),
            row("ETHUSDT", "1", "3000"),
            row("XRPUSDT", "1", "1"),
            sent_ms=10_000,
        ),
        1,
    )

    assert {r.symbol: r.isolated for r in book.positions()} == {"BTCUSDT": True, "ETHUSDT": True, "XRPUSDT": False}


def test_a_pushed_margin_type_is_remembered_for_rows_that_do_not_say() -> None:
    """Stream first, snapshot later: the position must not fall back into the cross pool."""
    book = known_book()
    book.apply_changed(pushed(row("BTCUSDT", "1", "50000", isolated=True, at_ms=5)), 1)
    book.apply_positions(read(row("BTCUSDT", "1", "50000", at_ms=6), sent_ms=10_000), 2)

    assert book.rows[BTC].isolated is True


def test_an_overtaken_event_does_not_decide_the_margin_type() -> None:
    """An old frame from before the switch would else put the next silent row into the wrong pool."""
    book = known_book()
    book.apply_changed(pushed(row("BTCUSDT", "1", "50000", isolated=True, isolated_wallet="0", at_ms=10)), 1)
    book.apply_changed(pushed(row("BTCUSDT", "1", "50000", isolated=False, at_ms=9)), 2)

    assert book.isolated["BTCUSDT"] is True


def test_a_row_without_a_margin_asset_keeps_the_one_that_is_known() -> None:
    """Frames of some accounts lack `ma`; the position belongs to its pool all the same."""
    book = known_book(row("BTCUSDC", "1", "50000", asset="USDC"))
    book.apply_changed(pushed(row("BTCUSDC", "2", "50000", at_ms=5, asset=None)), 1)

    [pool] = margin_pools("main", book, Listings(), False)
    assert (pool.id, pool.asset) == ("cross-usdc", "USDC")


@pytest.mark.parametrize(("quantity", "place"), [("1", 1), ("-1", 4)])
def test_in_one_way_mode_the_place_in_the_queue_is_that_of_its_direction(quantity: str, place: int) -> None:
    """All three rows are there; a short that is first in line is no less in danger of being closed than a long."""
    book = known_book(row("BTCUSDT", quantity, "50000"))
    book.adl_quantiles = {PositionKey("BTCUSDT", side): n for side, n in zip(Side, (0, 1, 4), strict=True)}

    assert book.adl_quantile(BTC) == place


BTCUSDT = Contract("BTCUSDT", "BTC", "USDT", "TRADING", D("0.001"), None, None)


def test_a_symbol_whose_asset_nobody_knows_has_an_unknown_wallet() -> None:
    """Taken for empty, it would be a liquidation that is none."""
    book = known_book(row("BTCUSDT", "1", "50000", asset=None))

    [guessed] = margin_pools("main", book, Listings(), False)
    listings = Listings()
    listings.contracts["BTCUSDT"] = BTCUSDT
    [told] = margin_pools("main", book, listings, False)
    assert guessed.wallet_balance is None
    assert told.wallet_balance == 1000


def test_shared_collateral_that_nobody_has_read_yet_is_unknown() -> None:
    """Positions alone say nothing of it; taken for empty, it would be a liquidation that is none."""
    book = AccountBook(60)
    book.multi_assets = True
    book.apply_positions(read(row("BTCUSDT", "1", "50000"), sent_ms=1), 0)

    [pool] = margin_pools("main", book, Listings(), False)
    assert (pool.id, pool.wallet_balance) == ("multi-assets", None)


def test_an_asset_that_a_read_account_does_not_name_is_empty() -> None:
    """The exchange lists every asset that has anything: that is knowledge, not ignorance."""
    book = known_book(row("BTCUSDC", "1", "50000", asset="USDC"))

    [pool] = margin_pools("main", book, Listings(), False)
    assert pool.wallet_balance == 0


@pytest.mark.parametrize("first", ["balances", "positions"])
def test_an_account_is_known_once_both_halves_are_read(first: str) -> None:
    """A wallet without its positions, or the other way round, is no account."""
    book = AccountBook(60)
    halves = {
        "balances": lambda: book.apply_balances(BalancesRead("main", (), 1), 0),
        "positions": lambda: book.apply_positions(read(sent_ms=1), 0),
    }
    halves.pop(first)()
    assert not book.known
    halves.popitem()[1]()
    assert book.known
