"""The metrics of one moment, as Prometheus takes them: read off the core when they are asked for.

Names and units are those of Prometheus: base units, ratios as fractions, `_total` for what only grows. What is unknown
has no sample, never a zero or NaN that looks safe; a pool that is gone has none either. A stale pool keeps its last
account truth with the freshest marks, as everywhere, and `marginwatch_pool_fresh` says that it is stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, localcontext
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.core import Core
from monitor.effects import INSTANCE
from monitor.events import LinkId, Now
from monitor.fundings import coming_funding
from monitor.humanize import side_word
from monitor.liveness import DaemonState, blindness
from monitor.risk import EXACT
from monitor.risk.report import PoolRisk, PositionRisk
from monitor.rules import Severity
from monitor.tally import BOUNDS_S, Durations, Tally


class Kind(Struct, frozen=True):
    """One metric: how it behaves, its whole name, what it means, and its labels."""

    type: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...]


def _kinds(
    type_: Literal["gauge", "counter", "histogram"], *labels: str, prefix: str = "marginwatch_", **helps: str
) -> list[Kind]:
    return [Kind(type_, prefix + name, text, labels) for name, text in helps.items()]


KINDS = (
    *_kinds(
        "gauge",
        "account",
        "pool",
        margin_ratio="Maintenance margin ÷ margin balance; 1 is liquidation, at most 10.",
        liquidation_distance_ratio="Smallest relative move of the marks that liquidates the pool; absent: none does.",
        pool_fresh="1: every input is known and fresh; 0: something is stale or unknown.",
        pool_mark_age_seconds="Age of the pool's oldest mark price or rate.",
        next_funding_timestamp_seconds="When the next funding is charged (Unix time).",
    ),
    *_kinds(
        "gauge",
        "account",
        "pool",
        "asset",
        margin_balance="Wallet balance plus unrealized PnL.",
        maintenance_margin="Maintenance margin of the pool.",
        unrealized_pnl="Unrealized PnL of the pool.",
        next_funding_payment="What the next funding will change the margin balance by; negative is paid.",
    ),
    *_kinds(
        "gauge",
        "account",
        "pool",
        "symbol",
        "side",
        position_liquidation_distance_ratio="From mark to liquidation price, ÷ mark; absent: there is no price.",
        position_liquidation_price="Mark price at which the position is liquidated, other marks held still.",
        position_mark_price="Mark price.",
        position_notional="Notional at mark price, in the margin asset; short is negative.",
    ),
    *_kinds(
        "gauge",
        "account",
        "pool",
        "figure",
        drift_ratio="Largest difference between our figure and the exchange's, at its own marks.",
    ),
    *_kinds(
        "gauge",
        "account",
        account_positions_known="1: its positions are known; 0: they are not.",
        account_positions="Open positions; absent: unknown.",
        account_age_seconds="Time since its truth was last confirmed by the exchange.",
        account_severity="Worst open incident: 0 none, 1 info, 2 notice, 3 warning, 4 critical, 5 liquidation.",
    ),
    *_kinds("gauge", "account", "venue", account_info="The accounts that are watched."),
    *_kinds("gauge", "account", "severity", "rule", incidents_open="Open incidents; absent: none."),
    *_kinds("counter", "severity", "rule", events_total="Events told."),
    *_kinds(
        "gauge",
        "account",
        "link",
        link_up="1: the link is live, or has nothing to watch.",
        link_age_seconds="Time since the link was last live; 0 while it is.",
        rest_weight_used="REST weight used within the minute, as the exchange counts it for our address.",
    ),
    *_kinds(
        "gauge",
        "account",
        "link",
        "state",
        link_state="1 for the state that the link is in; others are absent.",
    ),
    *_kinds(
        "counter",
        "account",
        "link",
        link_reconnects_total="Times that the link was opened anew.",
        link_mutes_total="Times that the link was open and kept something from us.",
        link_dropped_frames_total="Frames that did not read; what they said was asked for over REST, or is lost.",
    ),
    *_kinds("gauge", "market", clock_offset_seconds="The exchange's clock minus ours."),
    *_kinds("counter", ticks_total="Mark prices taken."),
    *_kinds(
        "histogram",
        tick_to_decision_seconds="From the arrival of a mark price until it is decided what follows from it.",
        tick_to_publish_seconds="From the arrival of what causes an event until the broker has acknowledged it.",
        loop_delay_seconds="How late the event loop comes to what is due, sampled ten times a second.",
    ),
    *_kinds(
        "gauge",
        core_tick_age_seconds="Time since a tick has gone all the way through the core.",
        blind="1: what is published cannot be relied on, or not yet; /readyz says why.",
        broker_connected="1: connected to the MQTT broker.",
        broker_away_seconds="For how long the broker has taken nothing; 0: it is there.",
        outbox_messages="Messages that the broker does not have yet.",
        outbox_events="Events among them.",
        outbox_oldest_event_age_seconds="Age of the oldest of these events; 0: there is none.",
        store_usable="1: the store can be read and written.",
        heartbeat_heard="1: the last ping was answered; absent: none has been sent.",
    ),
    *_kinds("gauge", "version", build_info="The version that runs."),
    *_kinds(
        "gauge",
        prefix="process_",
        resident_memory_bytes="Memory in use.",
        start_time_seconds="When the daemon started (Unix time).",
    ),
    *_kinds("counter", prefix="process_", cpu_seconds_total="CPU time used."),
)
"""Every metric. Labels are names of the config and of the exchange, and words of ours: what is held bounds them."""

_BY_NAME = {kind.name: kind for kind in KINDS}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Metrics:
    """Gathers the metrics of one moment: account by account, so that whoever has thousands can pause in between.

    Lines are written at once: a hundred thousand objects per scrape would have Python's garbage collector stop
    everything for a tenth of a second.
    """

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {kind.name: [] for kind in KINDS}

    def text(self) -> str:
        """All that has been gathered, in Prometheus' text format 0.0.4.

        Source: Prometheus documentation, "Exposition formats".
        """
        parts = []
        for kind in KINDS:
            parts.append(f"# HELP {kind.name} {kind.help}\n# TYPE {kind.name} {kind.type}\n")
            parts += self._lines[kind.name]
        return "".join(parts)

    def take_account(self, core: Core, account: WatchedAccount, now: Now) -> None:
        """An account with its links, its pools and its positions."""
        name = (account.name,)
        ages = freshness.ages(account, None, core.links, now)
        self._put("account_info", (*name, account.setup.venue), 1)
        self._put("account_positions_known", name, account.known)
        self._put("account_age_seconds", name, ages.account_s)
        if account.known:
            self._put("account_positions", name, sum(len(pool.positions) for pool in account.pools.values()))
        self._take_link(core, account.setup.private_link, now)
        self._take_link(core, account.setup.rest_link, now)
        with localcontext(EXACT):
            risks = account.risks
            for pool_id, pool in account.pools.items():
                age = freshness.ages(account, pool, core.links, now)
                risk = risks.get(pool_id)
                labels = (*name, pool_id)
                self._put("pool_fresh", labels, risk is not None and age.freshness == "live")
                self._put("pool_mark_age_seconds", labels, age.mark_s)
                if risk is not None:
                    self._take_pool(account, risk, labels, now)
        for pool_id, drift in account.drifts.items():
            for figure in drift.__struct_fields__:
                self._put("drift_ratio", (*name, pool_id, figure), getattr(drift, figure))

    def take_instance(self, core: Core, daemon: DaemonState, tally: Tally, version: str, now: Now) -> None:
        """What accounts share, all incidents, and the daemon itself."""
        for link in sorted({account.setup.market_link for account in core.accounts.values()}):
            self._take_link(core, link, now)
        for market, book in core.markets.items():
            offset_ms = book.clock_offset_ms(now)
            self._put("clock_offset_seconds", (market,), None if offset_ms is None else offset_ms / 1000)
        worst = dict.fromkeys((INSTANCE, *core.accounts), Severity.OK)
        open_now = Counter[tuple[str, str, str]]()
        for incident in core.incidents:
            worst[incident.account] = max(worst.get(incident.account, Severity.OK), incident.severity)
            open_now[incident.account, incident.severity.word, incident.rule] += 1
        for name, severity in worst.items():
            self._put("account_severity", (name,), severity)
        for key, count in open_now.items():
            self._put("incidents_open", key, count)
        for (severity, rule), count in tally.events.items():
            self._put("events_total", (severity.word, rule), count)
        self._put("ticks_total", (), tally.marks)
        self._durations("tick_to_decision_seconds", tally.decisions)
        self._durations("tick_to_publish_seconds", tally.publications)
        self._durations("loop_delay_seconds", tally.loop_delays)
        self._put("core_tick_age_seconds", (), daemon.tick_age_s)
        self._put("blind", (), bool(blindness(core, now)) or not daemon.is_settled)
        self._put("broker_connected", (), daemon.is_broker_connected)
        self._put("broker_away_seconds", (), daemon.broker_away_s)
        self._put("outbox_messages", (), daemon.waiting_messages)
        self._put("outbox_events", (), daemon.waiting_events)
        self._put("outbox_oldest_event_age_seconds", (), daemon.oldest_event_age_s)
        self._put("store_usable", (), daemon.is_store_usable)
        self._put("heartbeat_heard", (), daemon.is_heartbeat_heard)
        self._put("build_info", (version,), 1)

    def take_dropped(self, frames: Mapping[LinkId, int]) -> None:
        """How many frames of each link did not read."""
        for link, count in frames.items():
            self._put("link_dropped_frames_total", link, count)

    def take_process(self, rss_bytes: int | None, cpu_s: float, started_ms: int) -> None:
        """Memory, CPU time and start, under the names that every program has for them."""
        self._put("resident_memory_bytes", (), rss_bytes, "process_")
        self._put("cpu_seconds_total", (), cpu_s, "process_")
        self._put("start_time_seconds", (), started_ms / 1000, "process_")

    def _take_pool(self, account: WatchedAccount, risk: PoolRisk, labels: tuple[str, str], now: Now) -> None:
        money = (*labels, risk.pool.asset)
        coming = coming_funding(risk, account.market, now)
        self._put("margin_ratio", labels, risk.margin_ratio)
        self._put("liquidation_distance_ratio", labels, risk.distance)
        self._put("margin_balance", money, risk.margin_balance)
        self._put("maintenance_margin", money, risk.maintenance_margin)
        self._put("unrealized_pnl", money, risk.unrealized_pnl)
        if coming is not None:
            self._put("next_funding_payment", money, coming.amount)
            self._put("next_funding_timestamp_seconds", labels, coming.next_ms / 1000)
        for position in risk.positions:
            self._take_position(position, (*labels, position.position.symbol, side_word(position.is_long)))

    def _take_link(self, core: Core, link: LinkId, now: Now) -> None:
        info = core.links.all.get(link)
        if info is not None:
            self._put("link_up", link, info.state.is_fine)
            self._put("link_state", (*link, info.state.value), 1)
            self._put("link_age_seconds", link, core.links.age(link, now.mono))
            self._put("link_reconnects_total", link, info.reconnects)
            self._put("link_mutes_total", link, info.mutes)
            self._put("rest_weight_used", link, info.weight_used)

    def _take_position(self, position: PositionRisk, labels: tuple[str, ...]) -> None:
        self._put("position_liquidation_distance_ratio", labels, position.distance)
        self._put("position_liquidation_price", labels, position.liquidation_price)
        self._put("position_mark_price", labels, position.mark_price)
        self._put("position_notional", labels, position.notional)

    def _put(
        self, name: str, labels: tuple[str, ...], value: Decimal | float | None, prefix: str = "marginwatch_"
    ) -> None:
        """One sample; none where the value is unknown."""
        if value is not None:
            kind = _BY_NAME[prefix + name]
            self._lines[kind.name].append(_sample(kind.name, kind.labels, labels, value))

    def _durations(self, name: str, durations: Durations) -> None:
        full = f"marginwatch_{name}"
        lines = self._lines[full]
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), accumulate(durations.counts), strict=True):
            lines.append(_sample(f"{full}_bucket", ("le",), (bound,), count))
        lines.append(_sample(f"{full}_sum", (), (), durations.total_s))
        lines.append(_sample(f"{full}_count", (), (), sum(durations.counts)))


def _sample(name: str, labels: tuple[str, ...], values: tuple[str, ...], value: Decimal | float) -> str:
    pairs = [f'{label}="{text.translate(_ESCAPES)}"' for label, text in zip(labels, values, strict=True)]
    return f"{name}{{{','.join(pairs)}}} {float(value)!r}\n" if pairs else f"{name} {float(value)!r}\n"
