"""What goes wrong when, and what is true meanwhile: all of it from one seed.

Storms, in which faults come and overlap, take turns with quiet times, which are long enough for everything to be right
again. A position goes into danger, or out of it, during a storm; so every phase has a quiet time in it, and is longer
than any outage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

LEAD_S = 3.0
QUIET_S = 7.0
STORM_S = (6.0, 9.0)
LONG_S = (5.2, 8.0)
"""Long enough that a link which is away must be told of."""
SHORT_S = (0.1, 1.5)

FAULTS = {
    "market-dropped": "market",
    "market-half-open": "market",
    "market-mute": "market",
    "garbage-market": "market",
    "private-dropped": "private",
    "private-half-open": "private",
    "private-mute": "private",
    "private-wrong-form": "private",
    "listen-key-expired": "private",
    "garbage-private": "private",
    "events-swapped": "private",
    "event-doubled": "private",
    "rest-503": "rest",
    "rest-cut": "rest",
    "rest-418": "rest",
    "rest-429": "rest",
    "rest-stale": "rest",
    "rest-slow": "rest",
    "exchange-killed": "exchange",
    "exchange-replaced": "exchange",
    "exchange-net-cut": "exchange-net",
    "exchange-net-frozen": "exchange-net",
    "exchange-net-slow": "exchange-net",
    "exchange-net-half-open": "exchange-net",
    "broker-killed": "broker",
    "broker-frozen": "broker",
    "broker-net-cut": "broker-net",
    "broker-net-frozen": "broker-net",
    "broker-net-slow": "broker-net",
    "broker-net-half-open": "broker-net",
    "daemon-killed": "daemon",
    "daemon-stopped": "daemon",
    "daemon-frozen": "daemon",
    "clock-ahead": "clock",
    "clock-back": "clock",
}
"""Fault → what it is done to; two are never done to the same thing at once."""
FORCED_FAULTS = {"listen-key-refused": "rest", "forced-orders-503": "rest", "forced-orders-418": "rest"}
"""What comes with a forced order alone, as others of COMPANIONS do."""
FAULTS |= FORCED_FAULTS
COMPANIONS = (*FORCED_FAULTS, "rest-503", "private-dropped", "private-mute", "private-half-open", "daemon-killed")
CLOCK_FAULTS = frozenset({"clock-ahead", "clock-back"})

POOLS = ("main/cross-usdt", "main/isolated-solusdt", "other/cross-usdt")
MONEY = ("transfer main", "transfer other", "margin main", "fill other", "funding other")


@dataclass(frozen=True)
class Fault:
    """A fault from `at_s` on, for so many seconds; 0 for what is over at once."""

    at_s: float
    name: str
    for_s: float


@dataclass(frozen=True)
class Flip:
    """A pool goes into danger, or out of it."""

    at_s: float
    pool: str
    danger: bool


@dataclass(frozen=True)
class Payment:
    """Money moves. amount: in cents, signed."""

    at_s: float
    what: str
    cents: int


@dataclass(frozen=True)
class Force:
    """The exchange sends an order in our name; those of one symbol are the steps of one story.

    Args:
        side: LONG, or SHORT; of what is auto-deleveraged the other leg stays.
        how: What it is: "liquidated" or "adl".
    """

    at_s: float
    symbol: str
    side: str
    how: str
    quantity: int


@dataclass(frozen=True)
class Schedule:
    """A story. quiet: the times in which nothing goes wrong, (begin, end)."""

    faults: list[Fault]
    flips: list[Flip]
    payments: list[Payment]
    quiet: list[tuple[float, float]]
    forces: list[Force]


def schedule(seed: int, seconds: float, skip: Collection[str] = ()) -> Schedule:
    """The story of a seed, at least one storm long.

    Args:
        seconds: How long it lasts, roughly: the last storm is over by then, and a quiet time follows it.
        skip: Faults that cannot be made here.
    """
    random = Random(seed)
    by_force = Random(f"forced {seed}")  # its own: all else of a seed is as it would be without
    made = Schedule([], [], [], [], [])
    danger = dict.fromkeys(POOLS, False)
    at_s = LEAD_S
    deck: list[str] = []
    while at_s < seconds - QUIET_S - STORM_S[0] or not made.faults:
        storm_s = min(random.uniform(*STORM_S), max(seconds - QUIET_S - at_s, STORM_S[0]))
        made.faults.extend(_storm(random, at_s, storm_s, deck, skip))
        for pool in POOLS:
            if random.random() < 0.6:
                danger[pool] = not danger[pool]
                made.flips.append(Flip(at_s + random.uniform(0, storm_s), pool, danger[pool]))
        for _ in range(random.randrange(1, 6)):
            cents = random.choice((-1, 1)) * random.randrange(100, 999)
            # the last before the quiet time's end, so that what a snapshot shows can be told within it
            made.payments.append(Payment(at_s + random.uniform(0, storm_s + 1), random.choice(MONEY), cents))
        for _ in range(by_force.randrange(1, 3)):
            _force(by_force, at_s, storm_s, made)
        at_s += storm_s
        made.quiet.append((at_s, at_s + QUIET_S))
        at_s += QUIET_S
    made.payments.sort(key=lambda payment: payment.at_s)
    made.flips.sort(key=lambda flip: flip.at_s)
    return made


def _storm(random: Random, at_s: float, storm_s: float, deck: list[str], skip: Collection[str]) -> list[Fault]:
    """Faults that begin and end within a storm. Each kind comes once before any comes again."""
    found: list[Fault] = []
    busy: dict[str, float] = {}
    for _ in range(random.randrange(4, 9)):
        if not deck:
            deck.extend(sorted(set(FAULTS) - set(skip) - set(FORCED_FAULTS)))
            random.shuffle(deck)
        name = deck.pop()
        for_s = min(random.uniform(*(LONG_S if random.random() < 0.5 else SHORT_S)), storm_s)
        begin = max(at_s + random.uniform(0, storm_s - for_s), busy.get(FAULTS[name], 0.0))
        for_s = min(for_s, at_s + storm_s - begin)
        if for_s < SHORT_S[0]:
            deck.insert(0, name)
            continue
        busy[FAULTS[name]] = begin + for_s + 0.05
        found.append(Fault(begin, name, for_s))
    return sorted(found, key=lambda fault: fault.at_s)


def _force(random: Random, at_s: float, storm_s: float, made: Schedule) -> None:
    """A position is taken, in one order or several, and something fails then, unless it fails already."""
    symbol = f"F{len({force.symbol for force in made.forces}):02}USDT"
    how = random.choice(("liquidated", "liquidated", "adl"))
    side = "LONG" if how == "liquidated" else random.choice(("LONG", "SHORT"))
    steps = random.choice(((10,), (3, 7), (3, 3, 4))) if how == "liquidated" else (10,)
    first_s = next_s = at_s + random.uniform(0, storm_s - 2)
    for quantity in steps:
        made.forces.append(Force(next_s, symbol, side, how, quantity))
        next_s += random.uniform(0.05, 0.9)
    begin = max(at_s, first_s + random.uniform(-1, 0.1))
    end = min(begin + random.uniform(*(LONG_S if random.random() < 0.5 else SHORT_S)), at_s + storm_s)
    busy = {FAULTS[f.name] for f in made.faults if begin < f.at_s + f.for_s + 0.05 and f.at_s < end}
    if random.random() < 0.85:  # of a daemon that has just been started little can be demanded
        busy.add("daemon")
    free = [name for name in COMPANIONS if FAULTS[name] not in busy]
    if free:
        made.faults.append(Fault(begin, random.choice(free), end - begin))
