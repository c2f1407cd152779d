"""Stories: changes of incidents with all that explains them."""

from __future__ import annotations

from decimal import Decimal

from msgspec import structs

from monitor.accounts import WatchedAccount
from monitor.digits import EIGHT
from monitor.effects import INSTANCE, AccountSetup, Advice, Ages, Blindness, Driver, Fact, Figures, Story
from monitor.events import LinkId, Now, PositionKey
from monitor.forced import ForcedReport
from monitor.humanize import amount, side_word, signed_amount
from monitor.incident import FORCED, Change
from monitor.moves import PoolMove, Telling
from monitor.risk import collateral, contracts, exactly
from monitor.risk.advice import margin_to_add, quantity_to_reduce
from monitor.risk.funding import Forecast
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk
from monitor.rules import Rule, Severity
from monitor.wording import unacknowledged, worded

LEVELS = ("margin_ratio", "liquidation_distance")
"""The rules about how near a pool is to liquidation, which margin or a smaller position puts right."""
_PRICES = ("marks", "collateral_price")
"""Causes of a moved liquidation price that the marks are the news of."""


class Seen:
    """A pool as all that is told of it in one step shows it.

    Args:
        before: Its risk until then; None: it is not known, or does not matter.
        risk: As it is; None: the pool is not there any more.
        stands: What its margin ratio is told as by now.
    """

    def __init__(
        self,
        account: WatchedAccount,
        before: PoolRisk | None,
        risk: PoolRisk | None,
        stands: Severity = Severity.OK,
    ) -> None:
        self.account, self.before, self.risk, self.stands = account, before, risk, stands
        self.drivers = _drivers(before, risk)

    @exactly
    def advice(self) -> tuple[Advice, ...]:
        """What would put it right."""
        return _advice(self.account, self.risk, self.stands)


def pool_story(change: Change, rule: Rule, seen: Seen, ages: Ages, now: Now) -> Story:
    """What is told of a pool: margin ratio or distance, with what drove it there and what would put it right."""
    account, risk = seen.account, seen.risk
    closest = None if risk is None else risk.closest
    symbol, side = change.incident.symbol, change.incident.side
    if closest is not None:
        symbol, side = closest.position.symbol, side_word(closest.is_long)
    elif risk is not None and len(risk.pool.positions) == 1:
        symbol, side = risk.pool.positions[0].symbol, side_word(risk.pool.positions[0].quantity > 0)
    if change.resolution in FORCED:  # whom the exchange acted on, not whom it has left
        symbol, side = change.incident.symbol, change.incident.side
    mark = None if symbol is None else account.market.marks.get(symbol)
    is_level = change.incident.rule in LEVELS and change.kind != "resolved"
    fired = [step.at for step in rule.steps if step.severity <= change.incident.severity and step.fires(change.value)]
    return Story(
        account=account.setup,
        change=change,
        at_ms=now.wall_ms,
        exchange_ms=None if mark is None else mark.at_ms,
        symbol=symbol,
        side=side,
        asset=None if risk is None else risk.pool.asset,
        before=figures(seen.before),
        after=figures(risk),
        level=fired[-1] if fired else None,
        drivers=seen.drivers,
        advice=seen.advice if is_level else (),
        ages=ages,
    )


def moved_story(
    account: WatchedAccount, change: Change, telling: Telling, risk: PoolRisk, ages: Ages, now: Now
) -> Story:
    """What is told of a liquidation price that moved; `risk` is that of the pool of the worst move."""
    worst = telling.moves[0]
    exchange_ms, mark = telling.at_ms, account.market.marks.get(worst.move.key.symbol)
    if exchange_ms is None and mark is not None and all(c.kind in _PRICES for c in worst.move.causes):
        exchange_ms = mark.at_ms
    position = next(p for p in worst.pool.positions if p.key == worst.move.key)
    return Story(
        account=account.setup,
        change=change,
        at_ms=now.wall_ms,
        exchange_ms=exchange_ms,
        symbol=position.symbol,
        side=side_word(position.quantity > 0),
        asset=worst.pool.asset,
        before=Figures(liquidation_price=worst.move.before),
        after=_position_figures(risk, worst),
        ages=ages,
        moves=telling.moves,
    )


def blind_story(account: WatchedAccount, change: Change, blindness: Blindness, ages: Ages, now: Now) -> Story:
    """What is told of a link that went quiet, or came back."""
    setup = structs.replace(account.setup, name=blindness.link.account)
    return Story(setup, change, now.wall_ms, ages=ages, blindness=blindness)


def forced_story(account: WatchedAccount, change: Change, report: ForcedReport | None, ages: Ages, now: Now) -> Story:
    """What is told of an order that the exchange sends: at its first frame, and as a report when it is over."""
    if report is None:  # of an earlier run: only that it is over is known
        incident = change.incident
        return Story(account.setup, change, now.wall_ms, symbol=incident.symbol, side=incident.side, ages=ages)
    side = None if report.is_long is None else side_word(report.is_long)
    return Story(
        account.setup,
        change,
        now.wall_ms,
        exchange_ms=report.at_ms or None,
        symbol=report.key.symbol,
        side=side,
        asset=report.asset,
        after=figures(account.risk_with(report.key)),
        ages=ages,
        forced=structs.replace(report),  # it goes on
    )


def margin_call_story(
    account: WatchedAccount,
    change: Change,
    called_ms: int,
    key: PositionKey,
    maintenance_margin: Decimal,
    unrealized_pnl: Decimal,
    ages: Ages,
    now: Now,
) -> Story:
    """What is told of the exchange's own margin call: its figures in words, ours beside them."""
    seen, _ = account.last_seen(key)
    risk = account.risk_with(key)
    side = None if seen is None else side_word(seen.is_long)
    asset = "" if risk is None or seen is None else f" {risk.pool.margin_asset(seen.position)}"
    gain = signed_amount(unrealized_pnl)
    call = f"maintenance margin {amount(maintenance_margin)}{asset}, unrealized PnL {gain}{asset}"
    story = Story(
        account.setup,
        change,
        now.wall_ms,
        exchange_ms=called_ms,
        symbol=key.symbol,
        side=side,
        after=figures(risk),
        ages=ages,
    )
    words = f"{account.name}: the exchange calls for margin on {key.symbol}"
    return structs.replace(story, title=words, text=f"{words}: {call}.")


def forecast_story(
    account: WatchedAccount,
    change: Change,
    risk: PoolRisk,
    coming: Forecast | None,
    then: PoolRisk | None,
    ages: Ages,
    now: Now,
) -> Story:
    """What is told of a funding that would bring a pool into danger; None: it is not expected any more, or is paid."""
    facts: dict[str, Fact] = {}
    if coming is not None:
        facts = {"next_funding_at": coming.next_ms, "payment": coming.amount, "asset": risk.pool.asset}
    closest = (then or risk).closest
    story = Story(
        account.setup,
        change,
        now.wall_ms,
        asset=risk.pool.asset,
        before=figures(risk),
        after=figures(then),
        ages=ages,
        facts=facts,
    )
    if closest is not None:
        position = closest.position
        story = structs.replace(story, symbol=position.symbol, side=side_word(closest.is_long))
    return story


def fact_story(
    account: WatchedAccount,
    change: Change,
    pool: Pool | None,
    symbol: str | None,
    facts: dict[str, Fact],
    ages: Ages,
    now: Now,
    before: Figures | None = None,
    after: Figures | None = None,
) -> Story:
    """What is told of a contract, an asset or a hedge: the facts of its rule, in words."""
    held = [] if pool is None else [p for p in pool.positions if p.symbol == symbol]
    side = side_word(held[0].quantity > 0) if len(held) == 1 else change.incident.side
    leg = change.incident.subject.rpartition("-")[2]  # of a hedge the subject says which leg it is about
    side = leg if leg in ("long", "short") else side
    return Story(
        account.setup,
        change,
        now.wall_ms,
        symbol=symbol or change.incident.symbol,
        side=side,
        asset=None if pool is None else pool.asset,
        before=before,
        after=after,
        ages=ages,
        facts=facts,
    )


def instance_story(account: WatchedAccount, change: Change, facts: dict[str, Fact], ages: Ages, now: Now) -> Story:
    """What is told of the daemon itself."""
    setup = structs.replace(account.setup, name=INSTANCE, labels={})
    return Story(setup, change, now.wall_ms, ages=ages, facts=facts)


def unwatched_story(setup: AccountSetup, change: Change, ages: Ages, now: Now) -> Story:
    """What is told of an incident that ends because nobody watches its account, or its market, any more."""
    incident = change.incident
    setup = structs.replace(setup, name=INSTANCE, labels={}) if incident.account == INSTANCE else setup
    words = f"{incident.account}: not watched any more"
    what = f"{incident.rule} of {incident.subject} has no end that we could tell of"
    link = LinkId(incident.account, incident.subject)
    return Story(
        setup,
        change,
        now.wall_ms,
        symbol=incident.symbol,
        side=incident.side,
        ages=ages,
        blindness=Blindness(link, float(incident.worst or 0), "", ()) if incident.rule == "data_stale" else None,
        title=words,
        text=f"{words}: it was taken out of the config. {what}.",
    )


def in_words(story: Story) -> tuple[str, str]:
    """Title and text of a story; those that it has been given stand."""
    change = story.change
    if story.title:
        return story.title, story.text
    if change.kind == "retained" and change.incident.title:  # the words of the last message stand
        return change.incident.title, change.incident.text
    title, text = worded(story)
    return unacknowledged(title, text) if change.kind == "unacknowledged" else (title, text)


def figures(risk: PoolRisk | None) -> Figures | None:
    """A pool's figures, with price and mark of its closest position, or of its only one."""
    if risk is None:
        return None
    shown = risk.closest or (risk.position(0) if len(risk.pool.positions) == 1 else None)
    return Figures(
        margin_ratio=risk.margin_ratio,
        wallet_balance=risk.wallet_balance,
        unrealized_pnl=risk.unrealized_pnl,
        mark_price=None if shown is None else shown.mark_price,
        liquidation_price=None if shown is None else shown.liquidation_price,
        distance=risk.distance,
    )


def _position_figures(risk: PoolRisk, moved: PoolMove) -> Figures:
    price, mark = moved.move.after, moved.mark
    distance = None if price is None else abs(mark - price) / mark
    if moved.move.past:
        distance = ZERO
    return Figures(risk.margin_ratio, risk.wallet_balance, risk.unrealized_pnl, mark, price, distance)


def _drivers(before: PoolRisk | None, after: PoolRisk | None) -> tuple[Driver, ...]:
    """What changed the margin balance between two assessments, largest first.

    What comes to less than is printed drives nothing: the last digits of quotients leave as much over.
    """
    if before is None or after is None or before.margin_balance is None or after.margin_balance is None:
        return ()
    changes: dict[str, Decimal] = {}
    equity = {asset: purse.equity for asset, purse in before.purses.items()}
    for risk, sign in ((before, -1), (after, 1)):
        for p, own in zip(risk.pool.positions, risk.own, strict=True):
            worth = sign * own.unrealized_pnl
            if risk.pool.assets:
                asset = risk.pool.margin_asset(p)
                rate, was = (before.purses.get(asset) or after.purses[asset]).rate, equity.get(asset, ZERO)
                equity[asset] = now = was + worth
                worth = collateral.value(now, rate) - collateral.value(was, rate)
            changes[p.symbol] = changes.get(p.symbol, ZERO) + worth
    drivers = [Driver("mark", symbol, change) for symbol, change in changes.items() if abs(change) >= EIGHT]
    rest = after.margin_balance - before.margin_balance - sum(changes.values(), ZERO)
    if abs(rest) >= EIGHT:
        same = before.pool.wallets == after.pool.wallets
        drivers.append(Driver("collateral" if same else "wallet", None, rest))
    return tuple(sorted(drivers, key=lambda d: abs(d.margin_balance), reverse=True))


def _advice(account: WatchedAccount, risk: PoolRisk | None, stands: Severity) -> tuple[Advice, ...]:
    """How to bring the ratio back to the lowest clear level that stands open, from warning upward where one does."""
    if risk is None or risk.margin_ratio is None or risk.margin_ratio == ZERO:
        return ()
    ratio = risk.margin_ratio
    open_steps = [
        step
        for step in account.rule("margin_ratio", risk.pool).steps
        if step.fires(ratio) or (step.severity <= stands and not step.is_past_clear(ratio))
    ]
    serious = [step for step in open_steps if step.severity >= Severity.WARNING] or open_steps
    if not serious:
        return ()
    to_ratio = min(step.clear for step in serious)
    advice = []
    closest = risk.closest
    first = risk.pool.positions[0] if closest is None else closest.position
    asset = risk.pool.margin_asset(first)
    amount = margin_to_add(risk, to_ratio, asset)
    if amount is not None:
        advice.append(Advice("add_margin", to_ratio, amount=amount, asset=asset, part=_part(amount, risk, asset)))
    if closest is not None:
        symbol = closest.position.symbol
        contract = account.listings.contracts.get(symbol)
        step = None if contract is None else contract.quantity_step
        quantity, reason = None, "isolated_margin_is_released"
        if not risk.pool.isolated:
            quantity = quantity_to_reduce(risk, closest, to_ratio, account.book.tables[symbol], step)
            reason = "closing_all_is_not_enough"
        reduce = Advice(
            "reduce",
            to_ratio,
            symbol=symbol,
            side=side_word(closest.is_long),
            quantity=quantity,
            quantity_unit=contracts.quantity_unit(closest.position, contract),
            reason=None if quantity else reason,
            part=None if quantity is None else quantity / abs(closest.position.quantity),
        )
        advice.append(reduce)
    return tuple(advice)


def _part(amount: Decimal, risk: PoolRisk, asset: str) -> Decimal | None:
    """What part of the margin balance an amount of margin is; None: that is gone, or counts in another asset."""
    balance = risk.margin_balance
    return amount / balance if balance and balance > ZERO and asset == risk.pool.asset else None
