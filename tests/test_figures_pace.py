"""Where there are more pools than a broker should be told of each second, each has its turn, and danger more often."""

from __future__ import annotations

from collections import Counter

from monitor.effects import Effect, PoolState, PositionState, Story, SummaryState
from monitor.events import Tick
from monitor.message import Message
from monitor.outbox import Outbox
from tests.watched import Crowd, row


class Many(Crowd):
    """Their figures change with every mark: three states each."""

    def __init__(self, accounts: int, figures_per_s: float) -> None:
        super().__init__(accounts, "20000", figures_per_s=figures_per_s)

    def seconds(self, count: int, price: int) -> list[list[Effect]]:
        return [self.step(self.mark(str(price + n)), Tick()) for n in range(count)]


def pools(effects: list[Effect]) -> list[str]:
    return [e.account.name for e in effects if isinstance(e, PoolState)]


def states(effects: list[Effect]) -> int:
    return sum(isinstance(e, PoolState | PositionState | SummaryState) for e in effects)


def test_a_few_pools_are_published_whenever_they_change() -> None:
    """Nothing waits that need not."""
    core = Many(10, 1000)

    for effects in core.seconds(5, 50_000):
        assert sorted(pools(effects)) == sorted(core.names)


def test_of_many_each_has_its_turn_and_no_second_has_more_than_it_may() -> None:
    """A hundred pools, three states each, thirty a second: each once in ten seconds, and not all in the same one."""
    core = Many(100, 30)
    first = core.seconds(12, 50_000)

    told = core.seconds(40, 51_000)

    assert Counter(name for effects in first for name in pools(effects)).keys() == set(core.names)
    assert max(len(pools(effects)) for effects in first) <= 13  # every account says that it is alive besides

    shown = Counter(name for effects in told for name in pools(effects))
    assert set(shown) == set(core.names)
    assert (min(shown.values()), max(shown.values())) in ((3, 4), (4, 4))
    assert sum(map(states, told)) / len(told) <= 30 * 1.15
    assert max(map(states, told)) <= 30 * 1.3


def test_a_pool_with_an_open_incident_is_shown_more_often() -> None:
    """Whoever looks at the page in a fall looks at those."""
    core = Many(100, 30)
    core.step(core.changed("WITHDRAW", "1800", account="a7"))
    core.seconds(12, 50_000)

    told = core.seconds(20, 50_000)

    shown = Counter(name for effects in told for name in pools(effects))
    assert shown["a7"] >= 19
    assert max(count for name, count in shown.items() if name != "a7") <= 3


def test_alerts_never_wait_for_figures() -> None:
    """What is told is told at once, whosever turn it is."""
    core = Many(60, 3)
    core.seconds(3, 50_000)
    core.step(*(core.changed("WITHDRAW", "1790", account=name) for name in core.names))

    stories = [e for e in core.step(core.mark("48225"), Tick()) if isinstance(e, Story)]

    assert {s.account.name for s in stories if s.change.incident.rule == "margin_ratio"} == set(core.names)


def test_after_an_outage_events_do_not_wait_for_thousands_of_figures() -> None:
    """What stands open goes first, then what happened, then figures."""
    outbox = Outbox()
    event = Message("m/a/event/warning/r", b"{}", False, 1, 3, "a.p.r.1.1", "a.p.r.1", 1, 1)
    figures = [Message(f"m/a/pool/p{n}", b"{}", True, 0) for n in range(100)]
    incident = Message("m/a/incident/r/p", b"{}", True, 1)
    outbox.put([*figures, event, incident])
    outbox.release([event])

    outbox.connected()
    order = [message.topic for _ in range(102) if (message := outbox.take()) is not None]

    assert order[:2] == [incident.topic, event.topic]
    assert len(order) == 102


def test_nobody_waits_for_a_pool_that_went_before_it_was_ever_shown() -> None:
    core = Many(30, 9)
    gone = set(core.names[15:]) - set(pools(core.step(Tick())))
    core.step(
        *(core.changed("ORDER", "20000", row("BTCUSDT", "0", "0", at_ms=10**15), account=n) for n in sorted(gone))
    )

    shown = Counter(name for effects in core.seconds(60, 50_000) for name in pools(effects))

    assert gone
    assert min(shown[name] for name in core.names if name not in gone) >= 10
