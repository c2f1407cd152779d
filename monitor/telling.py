"""Stories: changes of incidents with all that explains them."""

from __future__ import annotations

from decimal import Decimal

from msgspec import structs

from monitor.accounts import WatchedAccount
from monitor.effects import Advice, Ages, Blindness, Driver, Figures, Story
from monitor.events import Now, PositionKey
from monitor.forced import ForcedReport
from monitor.incidents import Change
from monitor.moves import Telling
from monitor.risk import contracts
from monitor.risk.advice import margin_to_add, quantity_to_reduce
from monitor.risk.margin import ZERO
from monitor.risk.report import PoolRisk
from monitor.rules import Rule, Severity
from monitor.wording import worded

_TELLS_LEVEL = ("opened", "worsened", "repeated")


def pool_story(
    account: WatchedAccount,
    change: Change,
    rule: Rule,
    before: PoolRisk | None,
    risk: PoolRisk | None,
    ages: Ages,
    now: Now,
    seq: int,
) -> Story:
    """What is told of a pool: margin ratio or distance, with what drove it there and what would put it right."""
    closest = None if risk is None else risk.closest
    symbol, side = change.incident.symbol, change.incident.side
    if closest is not None:
        symbol, side = closest.position.symbol, side_word(closest.is_long)
    elif risk is not None and len(risk.pool.positions) == 1:
        symbol, side = risk.pool.positions[0].symbol, side_word(risk.pool.positions[0].quantity > 0)
    mark = None if symbol is None else account.market.marks.get(symbol)
    fired = [step.at for step in rule.steps if step.severity <= change.incident.severity and step.fires(change.value)]
    story = Story(
        account=account.setup,
        change=change,
        at_ms=now.wall_ms,
        exchange_ms=None if mark is None else mark.at_ms,
        seq=seq,
        symbol=symbol,
        side=side,
        asset=None if risk is None else risk.pool.asset,
        before=figures(before),
        after=figures(risk),
        level=fired[-1] if fired else None,
        drivers=_drivers(before, risk),
        advice=_advice(account, rule, risk) if change.kind in _TELLS_LEVEL else (),
        ages=ages,
    )
    return _with_words(story)


def moved_story(account: WatchedAccount, change: Change, telling: Telling, ages: Ages, now: Now, seq: int) -> Story:
    """What is told of a liquidation price that moved."""
    worst = telling.moves[0]
    mark = account.market.marks.get(worst.move.key.symbol)
    position = next(p for p in worst.pool.positions if p.key == worst.move.key)
    return _with_words(
        Story(
            account=account.setup,
            change=change,
            at_ms=now.wall_ms,
            exchange_ms=None if mark is None else mark.at_ms,
            seq=seq,
            symbol=position.symbol,
            side=side_word(position.quantity > 0),
            asset=worst.pool.asset,
            before=Figures(liquidation_price=worst.move.before),
            after=_position_figures(account.risks.get(worst.pool.id), worst.move.after, worst.mark),
            ages=ages,
            moves=telling.moves,
        )
    )


def blind_story(account: WatchedAccount, change: Change, blindness: Blindness, ages: Ages, now: Now, seq: int) -> Story:
    """What is told of a link that went quiet, or came back."""
    setup = structs.replace(account.setup, name=blindness.link.account)
    return _with_words(Story(setup, change, now.wall_ms, None, seq, ages=ages, blindness=blindness))


def forced_story(
    account: WatchedAccount, change: Change, report: ForcedReport | None, ages: Ages, now: Now, seq: int
) -> Story:
    """What is told of an order that the exchange sends: at its first frame, and as a report when it is over."""
    if report is None:  # of an earlier run: only that it is over is known
        incident = change.incident
        return _with_words(
            Story(account.setup, change, now.wall_ms, None, seq, incident.symbol, incident.side, ages=ages)
        )
    pool = next((r for r in account.risks.values() if any(p.key == report.key for p in r.pool.positions)), None)
    copy = structs.replace(report)
    side = side_word(report.is_long)
    return _with_words(
        Story(
            account.setup,
            change,
            now.wall_ms,
            None,
            seq,
            report.key.symbol,
            side,
            report.asset,
            after=figures(pool),
            ages=ages,
            forced=copy,
        )
    )


def margin_call_story(
    account: WatchedAccount,
    change: Change,
    key: PositionKey,
    maintenance_margin: Decimal,
    unrealized_pnl: Decimal,
    ages: Ages,
    now: Now,
    seq: int,
) -> Story:
    """What is told of the exchange's own margin call: its figures in words, ours beside them."""
    seen, _ = account.last_seen(key)
    pool = next((r for r in account.risks.values() if any(p.key == key for p in r.pool.positions)), None)
    side = None if seen is None else side_word(seen.is_long)
    call = f"maintenance margin {maintenance_margin:f}, unrealized PnL {unrealized_pnl:f}"
    story = Story(account.setup, change, now.wall_ms, None, seq, key.symbol, side, after=figures(pool), ages=ages)
    words = f"{account.name}: the exchange calls for margin on {key.symbol}"
    return structs.replace(story, title=words, text=f"{words}: {call}.")


def figures(risk: PoolRisk | None) -> Figures | None:
    """A pool's figures, with price and mark of its closest position, or of its only one."""
    if risk is None:
        return None
    shown = risk.closest or (risk.positions[0] if len(risk.positions) == 1 else None)
    return Figures(
        margin_ratio=risk.margin_ratio,
        wallet_balance=risk.pool.wallet_balance,
        unrealized_pnl=risk.unrealized_pnl,
        mark_price=None if shown is None else shown.mark_price,
        liquidation_price=None if shown is None else shown.liquidation_price,
        distance=risk.distance,
    )


def side_word(is_long: bool) -> str:
    return "long" if is_long else "short"


def _with_words(story: Story) -> Story:
    if story.change.kind == "retained":  # nobody is told: the words of the last message stand
        incident = story.change.incident
        return structs.replace(story, title=incident.title, text=incident.text)
    title, text = worded(story)
    return structs.replace(story, title=title, text=text)


def _position_figures(risk: PoolRisk | None, price: Decimal | None, mark: Decimal) -> Figures:
    distance = None if price is None else abs(mark - price) / mark
    if risk is None:
        return Figures(mark_price=mark, liquidation_price=price, distance=distance)
    return Figures(risk.margin_ratio, risk.pool.wallet_balance, risk.unrealized_pnl, mark, price, distance)


def _drivers(before: PoolRisk | None, after: PoolRisk | None) -> tuple[Driver, ...]:
    """What changed the margin balance between two assessments, largest first."""
    if before is None or after is None or before.margin_balance is None or after.margin_balance is None:
        return ()
    changes: dict[str, Decimal] = {}
    for risk, sign in ((before, -1), (after, 1)):
        for p in risk.positions:
            pnl = p.unrealized_pnl or ZERO
            changes[p.position.symbol] = changes.get(p.position.symbol, ZERO) + sign * pnl
    drivers = [Driver("mark", symbol, change) for symbol, change in changes.items() if change]
    wallet = (after.pool.wallet_balance or ZERO) - (before.pool.wallet_balance or ZERO)
    if wallet:
        drivers.append(Driver("wallet", None, wallet))
    return tuple(sorted(drivers, key=lambda d: abs(d.margin_balance), reverse=True))


def _advice(account: WatchedAccount, rule: Rule, risk: PoolRisk | None) -> tuple[Advice, ...]:
    """How to bring the ratio back to the lowest clear level that stands open, from warning upward where one does."""
    if risk is None or risk.margin_ratio is None or risk.margin_ratio == ZERO:
        return ()
    ratio_rule = rule if rule.steps[0].clear < rule.steps[0].at else account.rule("margin_ratio", risk.pool)
    fired = [step for step in ratio_rule.steps if step.fires(risk.margin_ratio)]
    serious = [step for step in fired if step.severity >= Severity.WARNING] or fired
    if not serious:
        return ()
    to_ratio = min(step.clear for step in serious)
    advice = []
    amount = margin_to_add(risk, to_ratio)
    if amount is not None:
        advice.append(Advice("add_margin", to_ratio, amount=amount, asset=risk.pool.asset))
    closest = risk.closest
    if closest is not None:
        symbol = closest.position.symbol
        contract = account.market.contracts.get(symbol)
        step = None if contract is None else contract.quantity_step
        quantity = quantity_to_reduce(risk, closest, to_ratio, account.book.tables[symbol], step)
        if quantity is not None:
            unit = contracts.quantity_unit(closest.position, contract)
            side = side_word(closest.is_long)
            advice.append(Advice("reduce", to_ratio, symbol=symbol, side=side, quantity=quantity, quantity_unit=unit))
    return tuple(advice)
