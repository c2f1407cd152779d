"""The risk of a pool at one moment, as a report that is worked out as far as somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import TypeVar

from msgspec import Struct

from monitor.digits import printed
from monitor.events import AssetRate, Bracket, Position, PositionKey
from monitor.risk import EXACT, collateral, contracts, exactly
from monitor.risk.collateral import Purse
from monitor.risk.liquidation import NOWHERE, Crossings, Leg, crossings, nearest
from monitor.risk.margin import ONE, ZERO, BracketTable
from monitor.risk.pool import Pool
from monitor.risk.terms import Terms

_A_BIT = Decimal("1e-9")
"""Far more than the rounding of a distance, far less than one that matters."""
_ROUGHLY = Context(prec=12)
"""For a bound that is to be short and beyond what it bounds."""


class PositionRisk(Struct, frozen=True, gc=False):
    """What one position adds to its pool, and where it is liquidated.

    Args:
        notional: Signed, at mark price (margin asset). This and all that follows: None while an input is unknown.
        maintenance_margin: ≥ 0 (margin asset).
        room_to_next: Notional left until the next bracket; None in the last one.
        liquidation: The price on each side of the mark at which the pool's ratio reaches 1, other marks held still.
        liquidation_price: The nearer of the two (quote per base).
        reason: Why there is no liquidation price; None where there is one.
        distance: |mark − liquidation price| ÷ mark, a fraction; 0 at or past liquidation; None: there is no price.
    """

    position: Position
    mark_price: Decimal | None
    notional: Decimal | None
    unrealized_pnl: Decimal | None
    maintenance_margin: Decimal | None
    bracket: Bracket | None
    room_to_next: Decimal | None
    liquidation: Crossings
    liquidation_price: Decimal | None
    reason: str | None
    distance: Decimal | None

    @property
    def is_long(self) -> bool:
        return self.position.quantity > 0


class Own(Struct, frozen=True, gc=False):
    """What one position alone adds to its pool, at mark price (margin asset); `notional` is signed."""

    notional: Decimal
    unrealized_pnl: Decimal
    maintenance_margin: Decimal


class PoolRisk(Struct, frozen=True, dict=True):
    """The risk of a pool at one moment.

    Sums are made at once. Where the pool is liquidated takes a solver, and is worked out once somebody asks; of many
    positions the closest is found without solving for all of them.

    Args:
        marks, tables: Of each position, in their order; None: unknown.
        missing: What is unknown, such as `mark BTCUSDT`.
        own: Of each position; empty while something is missing.
        purses: Asset → its part in the figures.
        wallet_balance: Of all its collateral. This and all that follows: None while an input is unknown.
        maintenance_margin: Of all its positions.
        margin_balance: Wallet balance plus unrealized PnL.
        margin_ratio: Maintenance margin ÷ margin balance; 1 is liquidation; at most 10.
        excess: Margin balance minus maintenance margin: at zero the pool is liquidated; zero while an input is unknown.
        bankrupt: Margin balance ≤ 0 with positions open.
        is_past: It is at or past liquidation.
    """

    pool: Pool
    marks: tuple[Decimal | None, ...]
    tables: tuple[BracketTable | None, ...]
    missing: tuple[str, ...]
    own: tuple[Own, ...] = ()
    purses: Mapping[str, Purse] = {}
    wallet_balance: Decimal | None = None
    maintenance_margin: Decimal | None = None
    margin_balance: Decimal | None = None
    margin_ratio: Decimal | None = None
    excess: Decimal = ZERO
    bankrupt: bool = False
    is_past: bool = False

    def rate(self, position: Position) -> AssetRate:
        """What the asset of a position's own figures is worth in the asset of the pool."""
        return self.purses[self.pool.margin_asset(position)].rate

    def is_at(self, marks: Mapping[str, Decimal]) -> bool:
        """Whether these very marks are those that it was computed at."""
        return all(mark is marks.get(p.symbol) for p, mark in zip(self.pool.positions, self.marks, strict=True))

    def is_of(self, pool: Pool, terms: Terms) -> bool:
        """Whether this is the risk of that pool on these very terms."""
        return (
            (self.pool is pool or self.pool == pool)
            and self.is_at(terms.marks)
            and all(table is terms.tables.get(p.symbol) for p, table in zip(pool.positions, self.tables, strict=True))
            and all(self.purses[w.asset].rate is terms.rates.get(w.asset) for w in pool.assets if self.own)
        )

    def differs(self, last: PoolRisk) -> bool:
        """Whether any figure of it is another than in an earlier risk of the pool."""
        known = (self.missing, self.marks, self.purses, self.pool), (last.missing, last.marks, last.purses, last.pool)
        if known[0] != known[1]:
            return True
        if self.tables == last.tables:
            return False
        return (self.positions, self.market_distance) != (last.positions, last.market_distance)

    @property
    def unrealized_pnl(self) -> Decimal | None:
        """Of all positions at mark: what they add to the wallet balance. None: an input is unknown."""
        if self.margin_balance is None or self.wallet_balance is None:
            return None
        return EXACT.subtract(self.margin_balance, self.wallet_balance)

    @exactly
    def positions(self) -> tuple[PositionRisk, ...]:
        """All of them, in the pool's order."""
        return tuple([self.position(i) for i in range(len(self.pool.positions))])

    @exactly
    def printed_prices(self) -> dict[PositionKey, Decimal | None]:
        """The liquidation price of each position as the exchange prints it; None: it has none, or one is unknown."""
        return {p.key: printed(self.price(i)) for i, p in enumerate(self.pool.positions)}

    @exactly
    def closest(self) -> PositionRisk | None:
        """The position nearest to its liquidation price; None: none has one, or an input is unknown."""
        if not self.own:
            return None
        if len(self.own) == 1:
            only = self._position(0)
            return None if only.distance is None else only
        return self._closest_when_past() if self.is_past else self._closest()

    @exactly
    def market_distance(self) -> Crossings:
        """Uniform relative move of all marks, down and up, at which the ratio reaches 1; None: none, or unknown."""
        if not self.own or self.is_past:
            return NOWHERE
        return self._market_distance()

    @exactly
    def distance(self) -> Decimal | None:
        """The smaller of market distance and the closest position's; 0 past liquidation; None: none, or unknown."""
        if self.is_past:
            return ZERO
        closest, market = self.closest, self.market_distance
        distances = (market.below, market.above, closest.distance if closest else None)
        return min([d for d in distances if d is not None], default=None)

    def is_beyond(self, distance: Decimal) -> bool:
        """Whether it certainly is farther from liquidation than this, which takes no solver. False: it may not be."""
        if not self.is_gentle:
            return False
        return self.excess > (distance + _A_BIT) * self._pull

    def is_nearer(self, distance: Decimal) -> bool:
        """Whether it is nearer to liquidation than this."""
        return not self.is_beyond(distance) and self.distance is not None and self.distance < distance

    @exactly
    def is_gentle(self) -> bool:
        """Whether the excess is a concave function of each mark, which falls only as that goes against the position."""
        return (
            bool(self.own)
            and not self.is_past
            and self.pool.is_plain
            and all([table is not None and table.is_gentle for table in self.tables])
        )

    def position(self, i: int) -> PositionRisk:
        """One of them, by its place in the pool."""
        return self._position(i) if self.own else self._incomplete(i)

    def withstands(self, i: int, price: Decimal) -> bool:
        """Whether the mark of a position may go to this price, alone, and on all the way there leave an excess.

        Found without solving for the liquidation price, which then lies beyond. False: it may not, or it is not known.
        """
        if not self.is_gentle or price <= 0:
            return False
        position, own, table = self.pool.positions[i], self.own[i], _known(self.tables[i])
        pnl = contracts.unrealized_pnl(position, price)
        maintenance = table.maintenance_margin(abs(contracts.notional(position, price)))
        return self.excess - own.unrealized_pnl + own.maintenance_margin + pnl - maintenance > 0

    def price(self, i: int) -> Decimal | None:
        """Liquidation price of a position, by its place in the pool; None: it has none, or an input is unknown."""
        mark = self.marks[i]
        if not self.own or mark is None:
            return None
        return nearest(self._crossings(self.pool.positions[i].symbol), mark)

    # ---- how it is worked out ----

    @exactly
    def _solved(self) -> dict[str, Crossings]:
        return {}

    @exactly
    def _pulls(self) -> tuple[list[Decimal], Decimal]:
        """Of a gentle pool, how much of the excess each mark takes at most, and all of them alike: by a part, moving
        against the position, that part of this. A fall requires no more, a rise more by the last rate at most."""
        notionals = [own.notional for own in self.own]
        rates = [table.brackets[-1].rate for table in self.tables if table is not None]
        more = [abs(notional) * rate for notional, rate in zip(notionals, rates, strict=True)]
        net = sum(notionals, ZERO)
        return [n if n > 0 else m - n for n, m in zip(notionals, more, strict=True)], max(net, sum(more, ZERO) - net)

    @exactly
    def _pull(self) -> Decimal:
        """The largest of them."""
        each, together = self._pulls
        return max(*each, together)

    def _closest(self) -> PositionRisk | None:
        if not self.is_gentle:
            known = [p for p in self.positions if p.distance is not None]
            return min(known, key=_nearness, default=None)
        pulls, _ = self._pulls
        found: dict[int, PositionRisk] = {}
        beyond: Decimal | None = None
        for i in sorted(range(len(pulls)), key=pulls.__getitem__, reverse=True):
            if beyond is not None and pulls[i] * beyond < self.excess:
                break  # it is farther than one that is known, and so are all that pull less
            position = self._position(i)
            if position.distance is not None:
                found[i] = position
                above = _ROUGHLY.next_plus(position.distance)
                beyond = above if beyond is None else min(above, beyond)
        return min([found[i] for i in sorted(found)], key=_nearness, default=None)

    def _closest_when_past(self) -> PositionRisk:
        """All are at 0 then: the largest that has a price."""
        largest_first = sorted(range(len(self.own)), key=lambda i: self.own[i].maintenance_margin, reverse=True)
        priced = (i for i in largest_first if self.price(i) is not None)
        return self._position(next(priced, largest_first[0]))

    def _crossings(self, symbol: str) -> Crossings:
        """The marks of a symbol at which the pool is liquidated; the legs of a hedged pair move together."""
        found = self._solved.get(symbol)
        if found is None:
            held = self.pool.held[symbol]
            first, own = self.pool.positions[held[0]], self.own[held[0]]
            pnl, maintenance = own.unrealized_pnl, own.maintenance_margin
            legs = [contracts.leg(first, _known(self.tables[held[0]]))]
            for i in held[1:]:
                pnl += self.own[i].unrealized_pnl
                maintenance += self.own[i].maintenance_margin
                legs.append(contracts.leg(self.pool.positions[i], _known(self.tables[i])))
            base = self.excess - pnl + maintenance
            if self.pool.assets:
                purse = self.purses[self.pool.margin_asset(first)]
                equity, rate = purse.equity, purse.rate
                legs, base = collateral.valued(legs, equity - pnl, rate)
                base += self.excess - collateral.value(equity, rate) + collateral.cost(maintenance, rate)
            now = contracts.variable(first, _known(self.marks[held[0]]))
            found = self._solved[symbol] = contracts.prices(first, crossings(legs, base, now))
        return found

    def _market_distance(self) -> Crossings:
        """Relative moves, both positive, of all marks alike; of one symbol it is that symbol's own distance."""
        pool = self.pool
        if len(pool.held) == 1:
            mark, prices = _known(self.marks[0]), self._crossings(pool.positions[0].symbol)
            return Crossings(
                None if prices.below is None else ONE - prices.below / mark,
                None if prices.above is None else prices.above / mark - ONE,
            )
        by_asset: dict[str, list[Leg]] = {asset: [] for asset in self.purses}
        for p, at, table in zip(pool.positions, self.marks, self.tables, strict=True):
            by_asset[pool.margin_asset(p)].append(contracts.leg_by_factor(p, _known(at), _known(table)))
        legs: list[Leg] = []
        base = ZERO
        for asset, purse in self.purses.items():
            counted, still = collateral.valued(by_asset[asset], purse.wallet_balance, purse.rate)
            legs += counted
            base += still
        factor = contracts.prices(pool.positions[0], crossings(legs, base, ONE))
        return Crossings(
            None if factor.below is None else ONE - factor.below,
            None if factor.above is None else factor.above - ONE,
        )

    def _position(self, i: int) -> PositionRisk:
        position, own = self.pool.positions[i], self.own[i]
        mark, table = _known(self.marks[i]), _known(self.tables[i])
        notional, past = abs(own.notional), self.is_past
        at = table.index(notional)
        further = table.brackets[at + 1].floor if at + 1 < len(table.brackets) else None
        prices = self._crossings(position.symbol)
        price = nearest(prices, mark)
        if past:
            distance: Decimal | None = ZERO
        else:
            distance = None if price is None else abs(price - mark) / mark
        reason = "liquidated_at_every_price" if past else "safe_at_every_price"
        return PositionRisk(
            position=position,
            mark_price=mark,
            notional=own.notional,
            unrealized_pnl=own.unrealized_pnl,
            maintenance_margin=own.maintenance_margin,
            bracket=table.brackets[at],
            room_to_next=None if further is None else further - notional,
            liquidation=prices,
            liquidation_price=price,
            reason=None if price is not None else reason,
            distance=distance,
        )

    def _incomplete(self, i: int) -> PositionRisk:
        """A position of a pool with an unknown input: its known figures, and nothing that would need the rest."""
        p, mark, table = self.pool.positions[i], self.marks[i], self.tables[i]
        notional = None if mark is None or p.contract_size == 0 else contracts.notional(p, mark)
        maintenance = None if notional is None or table is None else table.maintenance_margin(abs(notional))
        return PositionRisk(
            position=p,
            mark_price=mark,
            notional=notional,
            unrealized_pnl=None
            if notional is None or p.entry_price <= 0
            else contracts.unrealized_pnl(p, _known(mark)),
            maintenance_margin=maintenance,
            bracket=None if notional is None or table is None else table.brackets[table.index(abs(notional))],
            room_to_next=None,
            liquidation=NOWHERE,
            liquidation_price=None,
            reason="mark_unknown" if mark is None else "brackets_unknown" if table is None else "pool_incomplete",
            distance=None,
        )


def _nearness(risk: PositionRisk) -> tuple[Decimal, bool, Decimal]:
    """The nearest first; of several that are as near, the largest."""
    return risk.distance or ZERO, risk.liquidation_price is None, -(risk.maintenance_margin or ZERO)


_T = TypeVar("_T")


def _known(value: _T | None) -> _T:
    """What cannot be unknown where nothing is missing."""
    assert value is not None
    return value
