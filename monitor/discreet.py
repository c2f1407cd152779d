"""Title and text of a notice: what is told, for a server that others may read.

Percentages, times and counts alone: no amount, no price, no quantity, and nothing in a library's own words. A rule that
has no words here is told by its name, so that a new one gives nothing away.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal

from monitor.digits import plain
from monitor.effects import Fact, Story
from monitor.humanize import away, duration, percent, time_of_day
from monitor.moves import PoolMove
from monitor.risk import ROOMY
from monitor.wording import (
    advised,
    cause_words,
    counts,
    level_head,
    level_tail,
    moved_too,
    orders_words,
    past_words,
    ratio_change,
    relative_move,
    stale,
    unacknowledged,
    where_it_is,
    worded,
)

Words = tuple[str, str]


def discreet(story: Story) -> Words:
    """Title (short enough for a lock screen) and text (one paragraph) of a story, without an amount in it."""
    if story.is_test:
        return story.title, story.text
    title, text = _WORDS.get(story.change.incident.rule, _by_name)(story)
    return unacknowledged(title, text) if story.change.kind == "unacknowledged" else (title, text)


def _by_name(story: Story) -> Words:
    incident = story.change.incident
    said = f"{incident.account} {incident.subject}: {incident.rule.replace('_', ' ')} {story.change.kind}"
    return said, f"{said}."


def _level(story: Story) -> Words:
    """Margin ratio and liquidation distance of a pool."""
    title, first, _ = level_head(story)
    if story.change.resolution not in (None, "recovered"):
        return title, first
    sentences = [first]
    if story.symbol is not None and story.change.kind != "resolved":
        sentences.append(f"Closest is {story.symbol} {story.side}.")
    sentences.extend([*level_tail(story), *_advice(story)])
    return title, " ".join(sentences)


def _advice(story: Story) -> list[str]:
    """What would bring the ratio back, as a part of what there is, rounded up."""
    parts = []
    for one in story.advice:
        if one.part is not None:
            share = plain((one.part * 100).quantize(Decimal("0.1"), ROUND_CEILING, ROOMY))
            add = one.action == "add_margin"
            parts.append(f"add {share} % of the margin balance" if add else f"reduce {one.symbol} by {share} %")
    return advised(story.advice, parts)


def _moved(story: Story) -> Words:
    if not story.moves:
        return _by_name(story)
    worst = story.moves[0]
    where = f"{story.account.name}: {worst.move.key.symbol} {story.side}"
    title = f"{where} {_move(worst)}"
    causes = ", ".join(cause_words(cause) for cause in worst.move.causes if counts(cause))
    sentences = [f"{title} after {causes}." if causes else f"{title}.", *where_it_is(worst), *moved_too(story)]
    return f"{title}{past_words(worst)}", " ".join(sentences)


def _move(move: PoolMove) -> str:
    if move.move.after is None:
        return "has no liquidation price"
    if move.move.before is None or move.move.opened:
        return "has a liquidation price now"
    return f"liquidation price moved{relative_move(move)}"


def _forced(story: Story) -> Words:
    """An order that the exchange sends."""
    title, text = worded(story)
    report = story.forced
    if "strategy_id" in story.facts:
        return title, f"{title}."
    if report is None or story.change.kind != "resolved":
        return title, text
    sentences = [f"{title}.", *orders_words(report)]
    if report.left is not None:
        left = abs(report.left)
        sentences.append(f"{percent(left / (left + report.quantity))} of it is left." if left else "Nothing is left.")
    return title, " ".join(sentences)


def _forecast(story: Story) -> Words:
    """What the next funding would do."""
    then, at_ms = story.after, story.facts.get("next_funding_at")
    if story.change.kind == "resolved" or not isinstance(at_ms, int) or then is None or then.margin_ratio is None:
        return worded(story)  # that it is over
    where = f"{story.account.name} {story.change.incident.subject}"
    title = f"{where}: funding at {time_of_day(at_ms)} would bring the margin ratio to {percent(then.margin_ratio)}"
    if then.distance is None:
        return title, f"{title}."
    return title, f"{title}. It would be {away(then.distance)} from liquidation."


def _debt(story: Story) -> Words:
    """A debt that the exchange is about to cover by converting other assets."""
    if story.change.kind == "resolved":
        return worded(story)
    said = f"{story.account.name}: debt in {story.change.incident.subject.upper()}"
    if story.change.value is not None:
        said += f" is {percent(story.change.value)} of what makes the exchange convert other assets"
    return said, f"{said}."


def _brackets(story: Story) -> Words:
    """Brackets that were changed, or that make no sense."""
    if story.change.kind == "resolved":
        return worded(story)
    said = f"{story.account.name}: brackets of {story.symbol}"
    if story.facts.get("reason") is not None or story.change.kind != "noted":
        return f"{said}: a fault", f"{said}: a fault. The log says which."
    return f"{said} changed", " ".join([f"{said} changed.", *ratio_change(story)])


def _hedge(story: Story) -> Words:
    """A hedge that a forced order has broken."""
    said = f"{story.account.name}: the exchange broke the hedge in {story.symbol}"
    long, short = (_left(story.facts, leg) for leg in ("long", "short"))
    return said, f"{said}: {long} of the long leg is left, {short} of the short leg."


def _left(facts: dict[str, Fact], leg: str) -> str:
    before, after = (Decimal(str(facts[f"{leg}_{when}"])) for when in ("before", "after"))
    return percent(abs(after / before)) if before else "nothing"


def _margin_call(story: Story) -> Words:
    said = f"{story.account.name}: the exchange calls for margin on {story.symbol}"
    now = story.after
    if now is None or now.margin_ratio is None:
        return said, f"{said}."
    far = "" if now.distance is None else f", {away(now.distance)} from liquidation"
    return said, f"{said}. By our figures the margin ratio is {percent(now.margin_ratio)}{far}."


def _summary(story: Story) -> Words:
    f = story.facts
    sentences = [f"{story.title}."]
    if f["positions"] is not None:
        sentences.append(f"Positions: {f['positions']}, in margin pools: {f['pools']}.")
    for name, value, said, pool in (
        ("Worst margin ratio", f["worst_margin_ratio"], percent, f["worst_pool"]),
        ("Nearest to liquidation", f["worst_distance"], away, f["nearest_pool"]),
    ):
        if f["positions"] and isinstance(value, Decimal):
            sentences.append(f"{name} {said(value)} ({pool}).")
    up = duration(Decimal(str(f["uptime_s"])))
    sentences.append(f"Incidents open: {f['incidents_open']}. Up {up}, reconnects: {f['reconnects']}.")
    return story.title, " ".join(sentences)


def _stale(story: Story) -> Words:
    return stale(story, with_note=False)


def _store(story: Story) -> Words:
    title, text = worded(story)
    if story.change.kind == "resolved":
        return title, text
    return title, f"{title}; the log says why. A restart now would repeat or forget alerts."


def _titled(story: Story) -> Words:
    title, _ = worded(story)
    return title, f"{title}."


_WORDS: dict[str, Callable[[Story], Words]] = {
    "margin_ratio": _level,
    "liquidation_distance": _level,
    "liquidation_price_moved": _moved,
    "forced_order": _forced,
    "funding_forecast": _forecast,
    "auto_exchange": _debt,
    "bracket_changed": _brackets,
    "hedge_broken": _hedge,
    "exchange_margin_call": _margin_call,
    "summary": _summary,
    "data_stale": _stale,
    "store_unusable": _store,
    "key_permissions": _titled,
    # Their usual words have no amount in them.
    "contract_status": worded,
    "adl_quantile": worded,
    "clock_offset": worded,
    "drift": worded,
    "group": worded,
}
