"""What-if questions to a saved account: marks moved, money moved, positions reduced, before its pools are derived.

Asked in words (`parse`), applied to the book of the account (`apply`), always in this order: shocks, then transfers,
margin added, reductions, closes; several of a kind in the order given. No commission is counted anywhere. A part of an
isolated position takes its share of the isolated wallet, and its PnL, to the cross wallet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import NamedTuple

from msgspec import Struct, structs

from monitor.accounts import WatchedAccount
from monitor.book import margin_asset
from monitor.digits import EIGHT
from monitor.errors import WhatIfError
from monitor.events import Balance, Position
from monitor.humanize import percent, side_word
from monitor.risk import EXACT, contracts
from monitor.risk.margin import ZERO
from monitor.venues import VENUES

ONE, HUNDRED = Decimal(1), Decimal(100)

# Bounded digits: with more, the exact arithmetic would have to round.
_NUMBER = r"\d{1,15}(?:\.\d{1,12})?"
_SHOCK = re.compile(r"([^=:\s]+)=([+-]?\d{1,6}(?:\.\d{1,12})?)%", re.ASCII)
_TRANSFER = re.compile(rf"(?:([^=:\s]+)=)?([+-]?{_NUMBER})", re.ASCII)
_ADD_MARGIN = re.compile(rf"(?:([^=:\s]+)(?::(long|short))?=)?(\+?{_NUMBER})", re.ASCII)
_REDUCE = re.compile(rf"([^=:\s]+)(?::(long|short))?=({_NUMBER})(%?)", re.ASCII)
_CLOSE = re.compile(r"([^=:\s]+)(?::(long|short))?", re.ASCII)


class Target(NamedTuple):
    """The position that is meant; without a side the symbol's only one."""

    symbol: str
    side: str | None


class Transfer(Struct, frozen=True):
    """Money into (negative: out of) a cross wallet; asset None: the account's only margin asset."""

    asset: str | None
    amount: Decimal


class AddMargin(Struct, frozen=True):
    """New money (positive) for the pool that holds the position; target None: for the pool with the highest ratio."""

    target: Target | None
    amount: Decimal


class Reduce(Struct, frozen=True):
    """Close a part of a position at its mark.

    Args:
        quantity: Positive; as a fraction of what is held where `of_held`.
        option: What the user wrote, for errors.
    """

    target: Target
    quantity: Decimal
    of_held: bool
    option: str


class WhatIf(Struct, frozen=True):
    """What is asked.

    Args:
        shocks: Symbol, or `*` for all others, → relative move of its mark.
    """

    shocks: dict[str, Decimal] = {}
    transfers: tuple[Transfer, ...] = ()
    margins: tuple[AddMargin, ...] = ()
    reductions: tuple[Reduce, ...] = ()

    @property
    def is_asked(self) -> bool:
        return bool(self.shocks or self.is_more_than_shocks)

    @property
    def is_more_than_shocks(self) -> bool:
        return bool(self.transfers or self.margins or self.reductions)


NOTHING = WhatIf()


# ---- words ----


def parse(
    shocks: Sequence[str] = (),
    transfers: Sequence[str] = (),
    margins: Sequence[str] = (),
    reductions: Sequence[str] = (),
    closes: Sequence[str] = (),
) -> WhatIf:
    """The values of the options of these names.

    Raises:
        WhatIfError: One is not of its form.
    """
    return WhatIf(
        _shocks(shocks),
        tuple(map(_transfer, transfers)),
        tuple(map(_add_margin, margins)),
        (*map(_reduce, reductions), *map(_close, closes)),
    )


def _shocks(texts: Sequence[str]) -> dict[str, Decimal]:
    moves: dict[str, Decimal] = {}
    for symbol, move in map(_shock, texts):
        if symbol in moves:
            raise WhatIfError(f"--shock: {symbol} is given twice; which move is meant?")
        moves[symbol] = move
    return moves


def _shock(text: str) -> tuple[str, Decimal]:
    found = _matched(_SHOCK, "--shock", text, "SYMBOL=-5%")
    move = Decimal(found[2]) / HUNDRED
    if move <= -ONE:
        raise WhatIfError(f"--shock: {text!r} would take the price to zero or below")
    return found[1], move


def _transfer(text: str) -> Transfer:
    found = _matched(_TRANSFER, "--transfer", text, "-500 or USDT=-500")
    return Transfer(found[1], _not_zero(Decimal(found[2]), "--transfer", text))


def _add_margin(text: str) -> AddMargin:
    form = "200 or BTCUSDT=200, more than zero (--transfer takes money out)"
    found = _matched(_ADD_MARGIN, "--add-margin", text, form)
    target = Target(found[1], found[2]) if found[1] else None
    return AddMargin(target, _not_zero(Decimal(found[3]), "--add-margin", text))


def _reduce(text: str) -> Reduce:
    found = _matched(_REDUCE, "--reduce", text, "BTCUSDT=50% or BTCUSDT:long=0.25")
    quantity = _not_zero(Decimal(found[3]), "--reduce", text)
    if not found[4]:
        return Reduce(Target(found[1], found[2]), quantity, False, "--reduce")
    if quantity > HUNDRED:
        raise WhatIfError(f"--reduce: {text!r} is more than all of it; 100% closes the position")
    return Reduce(Target(found[1], found[2]), quantity / HUNDRED, True, "--reduce")


def _close(text: str) -> Reduce:
    found = _matched(_CLOSE, "--close", text, "BTCUSDT or BTCUSDT:long")
    return Reduce(Target(found[1], found[2]), ONE, True, "--close")


def _matched(pattern: re.Pattern[str], option: str, text: str, form: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise WhatIfError(f"{option}: {text!r} is not of the form {form}")
    return found


def _not_zero(value: Decimal, option: str, text: str) -> Decimal:
    if not value:
        raise WhatIfError(f"{option}: {text!r} changes nothing; give another amount, or leave it out")
    return value


def shown(value: Decimal) -> str:
    """Money, a price or a quantity for people: eight significant digits or more, at most 8 decimals."""
    places = min(8, max(2, 7 - value.adjusted()))
    text = f"{value.quantize(ONE.scaleb(-places), rounding=ROUND_HALF_UP, context=EXACT):f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def signed_percent(fraction: Decimal) -> str:
    """`−5 %`, `+1.5 %`, all digits."""
    value = fraction * HUNDRED
    digits = f"{abs(value):f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{'−' if value < 0 else '+'}{digits} %"


# ---- deeds ----


def apply(account: WatchedAccount, what_if: WhatIf) -> tuple[str, ...]:
    """Change marks, balances and positions of an account that has been read. Returns what was done, a line each.

    Raises:
        WhatIfError: An option names what the account does not have, or more of it than there is.
    """
    done = _move_marks(account, what_if.shocks)
    if what_if.is_more_than_shocks:
        done += _past_liquidation(account)
    done += [_transferred(account, transfer) for transfer in what_if.transfers]
    done += [_added(account, margin) for margin in what_if.margins]
    done += [_reduced(account, reduction) for reduction in what_if.reductions]
    return tuple(done)


def _move_marks(account: WatchedAccount, shocks: dict[str, Decimal]) -> list[str]:
    market, done = account.market, []
    held = {position.symbol for position in account.book.positions()}
    for symbol, move in shocks.items():
        if symbol != "*" and symbol not in held:
            raise WhatIfError(f"--shock: {_not_held(account, symbol)}")
        done.append(f"{'all marks' if symbol == '*' else f'{symbol} mark'} {signed_percent(move)}")
    if "*" in shocks and len(shocks) > 1:
        done = [f"all other marks{line.removeprefix('all marks')}" if "all marks" in line else line for line in done]
    for symbol in market.prices:
        market.prices[symbol] *= ONE + shocks.get(symbol, shocks.get("*", ZERO))
    return done


def _past_liquidation(account: WatchedAccount) -> list[str]:
    """A warning of each pool that would not live to see the rest."""
    return [
        f"{pool_id} would be liquidated by then: margin ratio {percent(ratio)}"
        for pool_id, ratio in _ratios(account).items()
        if ratio >= ONE
    ]


def _transferred(account: WatchedAccount, transfer: Transfer) -> str:
    book, asset = account.book, transfer.asset
    used = {a for p in book.positions() if (a := margin_asset(account.book, account.listings, p.symbol)) is not None}
    funded = {b.asset for b in book.balances.values() if b.wallet_balance or b.cross_wallet_balance}
    known = used | book.balances.keys() | {contract.margin_asset for contract in account.listings.contracts.values()}
    if asset is None:
        choices = sorted(used | funded)
        if len(choices) != 1:
            named = f"there are {', '.join(choices)}" if choices else "the file names none"
            example = choices[0] if choices else "USDT"
            raise WhatIfError(
                f"--transfer: which margin asset is meant ({named})? Name it: {example}={transfer.amount:f}"
            )
        [asset] = choices
    elif asset not in known:
        raise WhatIfError(f"--transfer: the account has no {asset}; there are {', '.join(sorted(known)) or 'none'}")
    amount = transfer.amount
    balance = _balance(account, asset, "--transfer")
    if amount < 0 and balance.cross_wallet_balance + amount < 0:
        holds = shown(balance.cross_wallet_balance)
        raise WhatIfError(f"--transfer: the cross wallet holds {holds} {asset}; no more than that can be withdrawn")
    now = _credit(account, balance, amount, amount)
    what = f"{shown(abs(amount))} {asset} {'withdrawn from' if amount < 0 else 'deposited into'} the cross wallet"
    return f"{what}, now {shown(now.cross_wallet_balance)}"


def _added(account: WatchedAccount, margin: AddMargin) -> str:
    amount = margin.amount
    row = _most_endangered(account, amount) if margin.target is None else _found(account, margin.target, "--add-margin")
    asset = margin_asset(account.book, account.listings, row.symbol)
    if row.isolated:
        _put(account, row, row.quantity, row.isolated_wallet + amount)
        if asset in account.book.balances:
            _credit(account, account.book.balances[asset], amount, ZERO)
        where = f"the isolated wallet of {_named(row)}, now {shown(row.isolated_wallet + amount)}"
    elif asset is None:
        raise WhatIfError(f"--add-margin: the file does not say the margin asset of {row.symbol}; add `exchangeInfo`")
    else:
        now = _credit(account, _balance(account, asset, "--add-margin"), amount, amount)
        where = f"the cross wallet, now {shown(now.cross_wallet_balance)}"
    return f"{shown(amount)} {asset or ''} added to {where}".replace("  ", " ")


def _most_endangered(account: WatchedAccount, amount: Decimal) -> Position:
    """A position that stands for the pool with the highest margin ratio."""
    ratios = _ratios(account)
    if not ratios:
        why = "no margin ratio can be computed" if account.pools else "there is no position"
        raise WhatIfError(f"--add-margin: {why}, so no pool has the highest one; --transfer adds to a cross wallet")
    pool_id = max(sorted(ratios), key=lambda i: ratios[i])
    rows = account.pools[pool_id].positions
    if len({margin_asset(account.book, account.listings, row.symbol) for row in rows}) > 1:
        symbols = ", ".join(f"{row.symbol}={amount:f}" for row in rows)
        raise WhatIfError(f"--add-margin: {pool_id} has several margin assets; say which position it is for: {symbols}")
    return account.book.rows[rows[0].key]


def _reduced(account: WatchedAccount, reduction: Reduce) -> str:
    option = reduction.option
    row = _found(account, reduction.target, option)
    held = abs(row.quantity)
    quantity = held * reduction.quantity if reduction.of_held else reduction.quantity
    if quantity > held:
        raise WhatIfError(f"{option}: {_named(row)} is {held:f}; no more than that can be closed")
    closed = structs.replace(_sized(account, row), quantity=quantity if row.quantity > 0 else -quantity)
    unknown = [u for u in contracts.unknowns(closed, account.market.prices, {}) if not u.startswith("brackets ")]
    if unknown:
        raise WhatIfError(f"{option}: the file does not say: {', '.join(unknown)}; without it no PnL can be realized")
    mark = account.market.prices[row.symbol]
    realized = contracts.unrealized_pnl(closed, mark)
    left = row.quantity - closed.quantity
    asset = margin_asset(account.book, account.listings, row.symbol)
    of = "of" if closed.contract_size is None else "contracts of"
    what = f"{shown(quantity)} {of} {_named(row)} closed at {shown(mark)}: realized PnL {shown(realized)} {asset or ''}"
    return f"{what.rstrip()} (no commission), {_settled(account, row, left, realized, asset)}"


def _settled(account: WatchedAccount, row: Position, left: Decimal, realized: Decimal, asset: str | None) -> str:
    """Take what a closed part realized, and what is left of the position, into the book. Returns where the money is."""
    balance = None if asset is None else account.book.balances.get(asset)
    if not row.isolated:
        _put(account, row, left, row.isolated_wallet)
        if asset is not None and account.book.balances_read:
            balance = _credit(account, _balance(account, asset, ""), realized, realized)
        return "the cross wallet is " + ("unknown" if balance is None else f"{shown(balance.cross_wallet_balance)} now")
    # With a part goes its share of the isolated wallet. No part loses more than its share: the exchange takes an
    # isolated position over before.
    share = _share(row, left)
    freed = max(share + realized, ZERO)
    _put(account, row, left, row.isolated_wallet - share)
    if asset is not None and account.book.balances_read:
        _credit(account, _balance(account, asset, ""), freed - share, freed)
    if not left:
        return f"the {shown(freed)} left of the isolated wallet go to the cross wallet"
    rest = shown(row.isolated_wallet - share)
    return (
        f"its {shown(share)} of the isolated wallet are released and {shown(freed)} go to the cross wallet; {rest} stay"
    )


def _share(row: Position, left: Decimal) -> Decimal:
    """What is released of an isolated wallet with all of its position but `left`; the exchange truncates to 8 decimals.

    The digits that it cuts off stay with the rest, and go with the last part.
    """
    if not left:
        return row.isolated_wallet
    closed = abs(row.quantity - left)
    return EXACT.divide(row.isolated_wallet * closed, abs(row.quantity)).quantize(EIGHT, ROUND_DOWN, EXACT)


# ---- the book ----


def _ratios(account: WatchedAccount) -> dict[str, Decimal]:
    """Pool id → margin ratio, of the book as it is now; pools with an unknown input are left out."""
    account.take_pools(account.derived())
    ratios = {pool_id: account.assess(pool_id)[1].margin_ratio for pool_id in account.pools}
    return {pool_id: ratio for pool_id, ratio in ratios.items() if ratio is not None}


def _found(account: WatchedAccount, target: Target, option: str) -> Position:
    rows = [p for p in _sorted(account) if p.symbol == target.symbol and target.side in (None, _side(p))]
    if not rows:
        said = target.symbol if target.side is None else f"{target.symbol} {target.side}"
        raise WhatIfError(f"{option}: {_not_held(account, said)}")
    if len(rows) > 1:
        names = " and ".join(_named(row) for row in rows)
        both = " or ".join(f"{row.symbol}:{_side(row)}" for row in rows)
        raise WhatIfError(f"{option}: {names} are both open; say which: {both}")
    return rows[0]


def _sorted(account: WatchedAccount) -> list[Position]:
    return sorted(account.book.positions(), key=lambda p: p.key)


def _not_held(account: WatchedAccount, said: str) -> str:
    held = ", ".join(_named(row) for row in _sorted(account))
    return f"{said} is not held; " + (f"held are {held}" if held else "the account has no position")


def _named(row: Position) -> str:
    return f"{row.symbol} {_side(row)}"


def _side(row: Position) -> str:
    return side_word(row.quantity > 0)


def _sized(account: WatchedAccount, row: Position) -> Position:
    """A row of the book with the size of its contract, zero while unknown, where contracts are inverse."""
    if not VENUES[account.setup.venue].inverse:
        return row
    contract = account.listings.contracts.get(row.symbol)
    return structs.replace(row, contract_size=(contract.contract_size if contract else None) or ZERO)


def _balance(account: WatchedAccount, asset: str, option: str) -> Balance:
    """The balance of an asset; the exchange names every one that has anything."""
    if not account.book.balances_read:
        raise WhatIfError(f"{option}: the file has no `account`, so the cross wallet of {asset} is unknown; add it")
    return account.book.balances.get(asset) or Balance(asset, ZERO, ZERO, 0)


def _credit(account: WatchedAccount, balance: Balance, wallet: Decimal, cross: Decimal) -> Balance:
    """Change a balance by these amounts, all of the wallet and its cross part. Returns the new one."""
    new = structs.replace(
        balance,
        wallet_balance=balance.wallet_balance + wallet,
        cross_wallet_balance=balance.cross_wallet_balance + cross,
    )
    account.book.balances[balance.asset] = new
    return new


def _put(account: WatchedAccount, row: Position, quantity: Decimal, isolated_wallet: Decimal) -> None:
    account.book.rows[row.key] = structs.replace(row, quantity=quantity, isolated_wallet=isolated_wallet)
