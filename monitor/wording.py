"""Title and text of what is told: sentences for a phone, from the facts of a story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal

from monitor.digits import plain
from monitor.effects import INSTANCE, Advice, Story
from monitor.forced import ForcedReport
from monitor.humanize import amount, away, duration, exact_percent, percent, price, signed_amount, time_of_day
from monitor.incident import Resolution
from monitor.moves import PoolMove
from monitor.risk.attribution import Cause

_HOUR_S = 3600
_COUNTED_S = 120
"""A delivery is counted down in whole minutes, which say nothing in seconds."""

_KINDS = {
    "funding_fee": "funding",
    "margin_transfer": "a margin transfer",
    "transfer": "a transfer",
    "fill": "a fill",
    "realized_pnl": "realized PnL",
    "commission": "commission",
    "insurance_clear": "the clearance fee",
    "auto_exchange": "an automatic exchange",
    "adjustment": "an adjustment",
    "bracket_change": "changed brackets",
    "collateral_price": "prices of the collateral",
    "multi_assets_mode": "a switch of the multi-assets mode",
    "marks": "other marks",
    "unexplained": "something that was not pushed to us",
}

_RESOLVED: dict[Resolution, str] = {
    "recovered": "recovered",
    "position_closed": "position closed",
    "position_gone": "position gone, perhaps by force",
    "partly_liquidated": "PARTLY LIQUIDATED",
    "liquidated": "LIQUIDATED",
    "adl": "CLOSED BY AUTO-DELEVERAGING",
    "settled": "SETTLED",
    "pool_replaced": "moved to another margin pool",
    "rule_changed": "the rule was changed",
}


def worded(story: Story) -> tuple[str, str]:
    """Title (short enough for a lock screen) and text (one paragraph) of a story."""
    return _WORDS.get(story.change.incident.rule, _level)(story)


def _level(story: Story) -> tuple[str, str]:
    """Margin ratio and liquidation distance of a pool."""
    change, now = story.change, story.after
    title, first, distance = level_head(story)
    if change.resolution not in (None, "recovered"):
        return title, first
    sentences = [first]
    if now is not None and now.liquidation_price is not None and change.kind != "resolved":
        far = "" if distance is None else f", {distance} away"
        sentences.append(f"{story.symbol} {story.side} liquidates at {price(now.liquidation_price)}{far}.")
    sentences.extend([*level_tail(story), *_advice(story.advice)])
    return title, " ".join(sentences)


def level_head(story: Story) -> tuple[str, str, str | None]:
    """Title and first sentence of a margin ratio or a distance; of one that has not simply recovered, all of it. And
    the distance, where there is one."""
    change, now = story.change, story.after
    incident = change.incident
    where = f"{incident.account} {incident.subject}"
    ratio = None if now is None or now.margin_ratio is None else percent(now.margin_ratio)
    distance = None if now is None or now.distance is None else away(now.distance)
    if change.resolution not in (None, "recovered"):
        word = _RESOLVED[change.resolution]
        return f"{incident.account}: {word}", f"{where}: {word}{_position(story)}.", distance
    is_ratio = incident.rule == "margin_ratio"
    none = "unknown distance from liquidation" if ratio is None else "no price liquidates it"
    far = none if distance is None else f"{distance} from liquidation"
    head = f"margin ratio {ratio or 'unknown'}" if is_ratio else far
    tail = f"{distance} from liquidation" if is_ratio and distance else f"margin ratio {ratio}" if ratio else ""
    verb = {"resolved": "recovered, ", "improved": "improved, ", "repeated": "still "}.get(change.kind, "")
    title = f"{incident.account}: {verb}{head}" + (f", {tail}" if tail else "")
    return title, f"{where}: {verb}{head}{_against(story)}.", distance


def level_tail(story: Story) -> list[str]:
    """How long it lasted, and what the figures are worth."""
    said = (
        [f"It lasted {duration(story.change.lasted_s)}; worst {_worst(story)}."]
        if story.change.kind == "resolved"
        else []
    )
    is_stale = story.ages is not None and story.ages.freshness == "stale"
    return [*said, "Estimated: the data is stale."] if is_stale else said


def _position(story: Story) -> str:
    return f", {story.symbol} {story.side or ''}".rstrip() if story.symbol else ""


def _against(story: Story) -> str:
    """The level that the value is at: ` (≥ 80 %)`."""
    if story.level is None or story.change.kind not in ("opened", "worsened", "repeated"):
        return ""
    sign = "≥" if story.change.incident.rule == "margin_ratio" else "≤"
    return f" ({sign} {exact_percent(story.level)})"


def _worst(story: Story) -> str:
    worst = story.change.incident.worst
    if worst is None:
        return "unknown"
    return percent(worst) if story.change.incident.rule == "margin_ratio" else away(worst)


def _advice(advice: Sequence[Advice]) -> list[str]:
    parts = []
    for one in advice:
        if one.action == "add_margin" and one.amount is not None:
            parts.append(f"add {amount(one.amount, ROUND_CEILING)} {one.asset}")
        elif one.quantity is not None:
            unit = "contracts" if one.quantity_unit == "contract" and one.quantity != 1 else one.quantity_unit
            parts.append(f"reduce {plain(one.quantity)} {unit}")
    return advised(advice, parts)


def advised(advice: Sequence[Advice], parts: Sequence[str]) -> list[str]:
    """A sentence on what would bring a ratio back, of its parts in words; nothing where there are none."""
    if not parts:
        return []
    said = " or ".join(parts)
    return [f"{said[:1].upper()}{said[1:]} to return to {exact_percent(advice[0].to_ratio)}."]


def _moved(story: Story) -> tuple[str, str]:
    worst = story.moves[0]
    account, symbol, move = story.account.name, worst.move.key.symbol, worst.move
    because, past = _because(worst, story.asset or ""), past_words(worst)
    if move.opened:
        after = "no liquidation price" if move.after is None else f"liquidates at {price(move.after)}"
        said = f"{account}: {symbol} {story.side}, new, {after}{past}{because}."
        return f"{account}: {symbol} {story.side} {after}{past}", said
    before = "none" if move.before is None else price(move.before)
    after = "none" if move.after is None else price(move.after)
    said = f"{account}: {symbol} {story.side} liquidation price {before} → {after}"
    sentences = [f"{said}{relative_move(worst)}{because}.", *where_it_is(worst), *moved_too(story)]
    return f"{said}{past}", " ".join(sentences)


def past_words(move: PoolMove) -> str:
    """What is to be said beside a price that lies on the wrong side of the mark, or is none for that reason."""
    return ", past liquidation" if move.move.past else ""


def where_it_is(move: PoolMove) -> list[str]:
    """A sentence on how far a price that has moved is from the mark; nothing where there is no price."""
    if move.move.past:
        return ["The position is at or past liquidation."]
    after = move.move.after
    return [] if after is None else [f"It is {away(abs(move.mark - after) / move.mark)} from the mark."]


def moved_too(story: Story) -> list[str]:
    """A sentence that names the symbols of the other prices that have moved; nothing where it is one alone."""
    others = sorted({m.move.key.symbol for m in story.moves[1:]})
    return [f"Moved too: {', '.join(others)}."] if others else []


def relative_move(move: PoolMove) -> str:
    moved, before = move.move.moved, move.move.before
    if not moved or not before:
        return ""
    return f" ({'+' if moved > 0 else '−'}{percent(abs(moved) / before)})"


def _because(move: PoolMove, asset: str) -> str:
    said = [_cause(cause, asset) for cause in move.move.causes if counts(cause)]
    return f" after {', '.join(said)}" if said else ""


def _cause(cause: Cause, asset: str) -> str:
    of = cause.asset or asset
    paid = "" if not cause.amount else f" {signed_amount(cause.amount)} {of}"
    return f"{cause_words(cause)}{paid}"


def cause_words(cause: Cause) -> str:
    """What moved a price: `funding of BTCUSDT`."""
    symbol = f" of {cause.symbol}" if cause.symbol and cause.kind in ("funding_fee", "fill") else ""
    return f"{_KINDS.get(cause.kind, cause.kind)}{symbol}"


def counts(cause: Cause) -> bool:
    """Whether a cause is worth a word."""
    return bool(cause.moved or cause.amount or cause.quantity)


def _forced(story: Story) -> tuple[str, str]:
    """An order that the exchange sends: what it is, and when it is over, what it did."""
    change, report = story.change, story.forced
    if "strategy_id" in story.facts:
        said = f"{story.account.name}: a trading bot on {story.symbol} was LIQUIDATED"
        return said, f"{said} (strategy {story.facts['strategy_id']})."
    account, what = story.account.name, _position(story).removeprefix(", ") or change.incident.subject
    if report is None:
        word = _RESOLVED[change.resolution or "liquidated"]
        return f"{account}: {what} {word}", f"{account}: {what} {word} while we were away; see the exchange's history."
    if change.kind != "resolved":
        does, did = {
            "liquidation": ("LIQUIDATES", "LIQUIDATED"),
            "adl": ("auto-deleverages", "auto-deleveraged"),
            "settlement": ("settles", "settled"),
        }[report.kind.value]
        if report.is_listed:  # it may be long ago
            said = f"{account}: the exchange has {did} {what}"
            return said, f"{said}, while we were away."
        said = f"{account}: the exchange {does} {what}"
        return said, f"{said}, now."
    word = _RESOLVED[change.resolution or "liquidated"]
    sentences = [f"{account}: {what} {word}."]
    if report.average_price is None:
        sentences.append("No execution was told.")
    else:
        beside = "" if report.bankruptcy_price is None else f" (bankruptcy price {price(report.bankruptcy_price)})"
        sentences.append(f"{plain(report.quantity)} closed at {price(report.average_price)}{beside}.")
        asset = f" {report.asset}" if report.asset else ""
        sentences.extend(orders_words(report))
        fee = report.clearance_fee
        paid = f", clearance fee {amount(fee)}{asset}" if fee > 0 else ""
        covered = f", the insurance fund covered {amount(-fee)}{asset}" if fee < 0 else ""
        cost = f"Realized PnL {signed_amount(report.realized_pnl)}{asset}{paid}{covered}."
        sentences.append("What it cost is in the exchange's history." if report.is_listed else cost)
    if report.left is not None:
        sentences.append(f"{plain(report.left)} is left." if report.left else "Nothing is left.")
    return f"{account}: {what} {word}", " ".join(sentences)


def orders_words(report: ForcedReport) -> list[str]:
    """Sentences on how many orders the exchange has sent, and how many of ours it has cancelled for them."""
    took = [f"It took {report.steps} orders."] if report.steps > 1 else []
    return [*took, f"{report.orders_cancelled} of your orders cancelled."] if report.orders_cancelled else took


def _drifted(story: Story) -> tuple[str, str]:
    """Our figures and the exchange's part, or agree again."""
    change, incident = story.change, story.change.incident
    if change.resolution not in (None, "recovered"):
        return _level(story)  # how its pool ended
    where = f"{incident.account} {incident.subject}"
    if change.kind == "resolved":
        return f"{where}: our figures agree with the exchange's again", f"{where}: our figures agree with its again."
    far = "" if change.value is None else f" by {percent(change.value)}"
    said = f"{where}: our figures differ from the exchange's{far}"
    return said, f"{said} of mark or notional. Trust the exchange's, and look whether brackets or modes have changed."


def _forecast(story: Story) -> tuple[str, str]:
    """What the next funding would do."""
    where = f"{story.account.name} {story.change.incident.subject}"
    if story.change.kind == "resolved":
        over = _ended(story) or "funding was charged, or less is expected of it, or the pool is as bad without it"
        return f"{where}: the warning of funding is over", f"{where}: {over}."
    paid, then = story.facts.get("payment"), story.after
    if not isinstance(paid, Decimal) or then is None or then.margin_ratio is None:
        said = f"{where}: the danger of funding is passing"
        return said, f"{said}: it is over, or less is expected of it."
    amount_paid = f"{signed_amount(paid)} {story.asset}"
    at_ms = story.facts.get("next_funding_at")
    when = f" at {time_of_day(at_ms)}" if isinstance(at_ms, int) else ""
    title = f"{where}: funding {amount_paid}{when} would bring the margin ratio to {percent(then.margin_ratio)}"
    sentences = [f"{title}."]
    if then.liquidation_price is not None:
        sentences.append(f"{story.symbol} {story.side} would liquidate at {price(then.liquidation_price)}.")
    return title, " ".join(sentences)


def _contract_status(story: Story) -> tuple[str, str]:
    """A contract that is not traded, or will soon be no more."""
    where = f"{story.account.name}: {story.symbol}"
    if story.change.kind == "resolved":
        return _over(story, where, "it is traded, and not delivered soon")
    status, left = story.facts.get("status"), story.change.value
    if status not in ("TRADING", "") or left is None:
        said = f"{where} is not traded: {status}"
        return said, f"{said}."
    said = f"{where} is delivered in {duration(left) if left >= _COUNTED_S else 'less than 2 min'}"
    last = " In its last hour the insurance fund does not stand behind it." if left <= _HOUR_S else ""
    return said, f"{said}.{last}"


def _adl(story: Story) -> tuple[str, str]:
    """A place in the auto-deleveraging queue."""
    where = f"{story.account.name}: {story.symbol} {story.side or ''}".rstrip()
    if story.change.kind == "resolved":
        return _over(story, where, "not near the front of the auto-deleveraging queue any more")
    risk, quantile = story.facts.get("adl_risk"), story.facts.get("quantile")
    place = "first" if quantile == 4 else f"at {quantile} of 4"
    said = f"{where} is {place} in the auto-deleveraging queue"
    return said, f"{said}{'' if risk is None else f'; ADL risk of the symbol: {risk}'}."


def _debt(story: Story) -> tuple[str, str]:
    """A debt that the exchange is about to cover by converting other assets."""
    where = f"{story.account.name}: debt in {story.change.incident.subject.upper()}"
    if story.change.kind == "resolved":
        return _over(story, where, "paid, or small again")
    debt, threshold = story.facts.get("debt"), story.facts.get("threshold")
    said = f"{where} {amount(debt) if isinstance(debt, Decimal) else ''}".rstrip()
    limit = f"; past {amount(threshold)} the exchange converts other assets" if isinstance(threshold, Decimal) else ""
    return said, f"{said}{limit}."


def _brackets(story: Story) -> tuple[str, str]:
    """Brackets that were changed, or that make no sense."""
    where = f"{story.account.name}: brackets of {story.symbol}"
    reason = story.facts.get("reason")
    if story.change.kind == "resolved":
        return _over(story, where, "well again")
    if reason is not None or story.change.kind != "noted":
        return (f"{where}: a fault", f"{where}: {reason}.")
    was, now = (story.facts.get(f"maintenance_margin_{when}") for when in ("before", "after"))
    sentences = [f"{where} changed."]
    if isinstance(was, Decimal) and isinstance(now, Decimal):
        sentences.append(f"Maintenance margin {amount(was)} → {amount(now)} {story.asset}.")
    return f"{where} changed", " ".join([*sentences, *ratio_change(story)])


def ratio_change(story: Story) -> list[str]:
    """A sentence on the margin ratio before and after; nothing where it is not known."""
    if story.before is None or story.after is None or story.after.margin_ratio is None:
        return []
    before = "unknown" if story.before.margin_ratio is None else percent(story.before.margin_ratio)
    return [f"Margin ratio {before} → {percent(story.after.margin_ratio)}."]


def _hedge(story: Story) -> tuple[str, str]:
    """A hedge that a forced order has broken."""
    f = story.facts
    said = f"{story.account.name}: the exchange broke the hedge in {story.symbol}"
    before = f"long {f.get('long_before')} and short {f.get('short_before')}"
    return said, f"{said}: {before} before, long {f.get('long_after')} and short {f.get('short_after')} now."


def _clock(story: Story) -> tuple[str, str]:
    """The machine's clock against the exchange's."""
    offset = story.facts.get("offset_ms")
    where = f"clock against {story.change.incident.subject}"
    if story.change.kind == "resolved":
        return f"{where}: right again", f"{where}: right again."
    said = f"{where}: {abs(offset) if isinstance(offset, int) else '?'} ms off"
    return said, f"{said}. Times that are printed are wrong by so much; let the machine's time be synchronised."


def _key(story: Story) -> tuple[str, str]:
    """A key that may do more than read."""
    where = f"{story.account.name}: the API key"
    if story.change.kind == "resolved":
        return _over(story, where, "it may only read, or more is accepted")
    may = {"move money away": story.facts.get("may_move_money"), "trade": story.facts.get("may_trade")}
    still = "still " if story.change.kind in ("improved", "repeated") else ""
    title = f"{where} may {still}{' and '.join(what for what, names in may.items() if names)}"
    names = "; ".join(str(names) for names in may.values() if names)
    remedy = "Take that from it in the exchange's API management, or make one that may only read."
    return title, f"{title} ({names}). {remedy} Where it is meant: accept_trading_key = true."


def _exchange(story: Story) -> tuple[str, str]:
    """The exchange in maintenance."""
    where = f"the exchange ({story.change.incident.subject})"
    if story.change.kind == "resolved":
        return _over(story, where, "it works as usual again")
    said = f"{where} says: {story.facts.get('reason')}"
    return said, f"{said}. Until that is over, positions may be out of reach, and data late."


def _store(story: Story) -> tuple[str, str]:
    """The store that cannot be used."""
    if story.change.kind == "resolved":
        return _over(story, "store", "usable again; what was owed to it is being written")
    said = "store: cannot be used, alerts go out from memory"
    return said, f"{said}: {story.facts.get('reason')}. A restart now would repeat or forget alerts."


def _ended(story: Story) -> str | None:
    """How it ended, where it did not simply get better."""
    how = story.change.resolution
    return None if how in (None, "recovered") else _RESOLVED[how]


def _over(story: Story, where: str, well: str) -> tuple[str, str]:
    """Title and text of an end: how it came, or that all is well again."""
    said = f"{where}: {_ended(story) or well}"
    return said, f"{said}."


def _group(story: Story) -> tuple[str, str]:
    """Many accounts at once."""
    f = story.facts
    rule = str(f["crossed"]).replace("_", " ")
    move = f["move"]
    moved = f", {f['moved']} {'+' if move > 0 else '−'}{percent(abs(move))}" if isinstance(move, Decimal) else ""
    said = f"{f['accounts']} of {f['of']} accounts: {rule} {story.change.severity.word}"
    since = " within a minute" if moved else ""
    return f"{said}{moved}", f"{said} or worse{moved}{since}. They are {f['names']}."


def unacknowledged(title: str, text: str) -> tuple[str, str]:
    """The same once more, because nobody has said that they have seen it."""
    return f"{title} (not acknowledged)", f"{text} Nobody has acknowledged this yet."


def stale(story: Story, *, with_note: bool = True) -> tuple[str, str]:
    """A link that went quiet, or came back.

    Args:
        with_note: Whether it is said in the link's own words why it did, or how it was found to be mute.
    """
    blind = story.blindness
    assert blind is not None
    note = blind.note if with_note else ""
    change, (account, name) = story.change, blind.link
    name = name if account == INSTANCE else f"{account} {name}"
    pools = f" Blind: {', '.join(blind.pools)}." if blind.pools else ""
    if change.kind == "resolved":
        said = f"{name}: {_ended(story) or 'data is live again'}"
        return said, f"{said}; it was told as stale for {duration(change.lasted_s)}."
    if change.kind == "noted":
        said = f"{name}: the stream was mute"
        found = f": {note}" if with_note else ""
        return said, f"{said}{found}. It is being opened anew; what it kept back was read over REST."
    title = f"{name}: no data for {blind.age_s:.0f} s"
    why = f" ({note})" if note else ""
    return title, f"{title}{why}.{pools} Until it is back, what is published is the last that was known."


_WORDS: dict[str, Callable[[Story], tuple[str, str]]] = {
    "liquidation_price_moved": _moved,
    "data_stale": stale,
    "forced_order": _forced,
    "drift": _drifted,
    "funding_forecast": _forecast,
    "contract_status": _contract_status,
    "adl_quantile": _adl,
    "auto_exchange": _debt,
    "bracket_changed": _brackets,
    "hedge_broken": _hedge,
    "key_permissions": _key,
    "exchange_status": _exchange,
    "clock_offset": _clock,
    "store_unusable": _store,
    "group": _group,
}
