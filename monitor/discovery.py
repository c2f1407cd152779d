"""Home Assistant discovery: which entity reads which of our topics, and when it counts as gone.

Each entity has a retained config of its own, the form that old and new versions of Home Assistant understand. Three
things can fail, and none of them may look like "all fine":

- The daemon: its will makes everything unavailable. A broker that forgets the will tells nothing, so what is published
  at least every half minute expires without it too, and `alive` turns off.
- The feed: a figure is unavailable while its data is stale, since an old one looks like a good one. The problems stay,
  `data_stale` among them.
- A position or pool that ends: its entities go with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct

from monitor.effects import (
    INSTANCE,
    AccountSetup,
    Effect,
    HealthState,
    PoolGone,
    PoolState,
    PositionGone,
    PositionState,
    SummaryState,
)
from monitor.events import PositionKey, Side
from monitor.incident import Kind
from monitor.judges.daily import RULE as DAILY
from monitor.judges.groups import RULE as GROUP
from monitor.message import Identity, Message, emptied
from monitor.names import slug
from monitor.payloads.states import VALID_FOR_S
from monitor.risk.pools import UNKNOWN, row_slug
from monitor.rules import DEFAULTS, FactRule, ForcedOrderRule, RuleBook, Severity

Config = dict[str, Any]

PROBLEM_FROM = Severity.WARNING
"""Least severity of an open incident that makes its rule a problem; its attributes tell of milder ones."""


class _Entity(Struct, frozen=True):
    """One entity.

    Args:
        component: Its kind in Home Assistant: `sensor`, `binary_sensor`, `event`.
        object_id: Its name in topics and ids, unique within its device.
        is_amount: It shows money or a price.
    """

    component: str
    object_id: str
    config: Config
    is_amount: bool = False


class Discovery:
    """What Home Assistant has been told, and what it has to be told next.

    Args:
        amounts: Whether money and prices are shown, beside percentages and counts.
    """

    def __init__(
        self,
        identity: Identity,
        accounts: Sequence[AccountSetup],
        rules: RuleBook,
        *,
        amounts: bool = True,
    ) -> None:
        self._id = identity
        self._topics = identity.topics
        self._accounts = {account.name: account for account in accounts}
        self._rules = rules
        self._amounts = amounts
        self._shown: dict[tuple[str, str], dict[str, list[str]]] = {}

    def standing(self) -> list[Message]:
        """The entities that are there as long as we run."""
        messages = self._add(INSTANCE, "standing", "", self._of_instance())
        for name in self._accounts:
            messages += self._add(name, "standing", "", self._of_account(name))
        return messages + self.take_rules(self._rules)

    def take_accounts(self, accounts: Sequence[AccountSetup]) -> list[Message]:
        """Tell of these accounts, and remove the entities of all others."""
        wanted = {account.name: account for account in accounts}
        shown = [(name, kind) for name, kind in self._shown if name != INSTANCE and name not in wanted]
        self._accounts = wanted
        return [m for name, kind in shown for m in self._only(name, kind, (), self._problem)] + self.standing()

    def take_rules(self, rules: RuleBook) -> list[Message]:
        """A problem for each rule that is judged by now and can hold; none for those that only tell facts."""
        self._rules = rules
        lasting = [
            name
            for name, rule in rules.rules.items()
            if (not isinstance(rule, FactRule) or isinstance(rule, ForcedOrderRule))
            and (rule.enabled or any(match.rule.enabled for match in rules.matches.get(name, ())))
        ]
        return [message for name in self._accounts for message in self._only(name, "rule", lasting, self._problem)]

    def of(self, effect: Effect) -> list[Message]:
        """What an effect brings or takes away; nothing for most, for an entity is told of once.

        What has amounts is told of once its asset is known, since the unit stays.
        """
        if isinstance(effect, PoolState) and effect.risk.pool.asset != UNKNOWN:
            return self._add(effect.account.name, "pool", effect.risk.pool.id, self._of_pool(effect))
        if isinstance(effect, PoolGone):
            return self._remove(effect.account, "pool", effect.pool)
        if isinstance(effect, PositionState) and effect.asset != UNKNOWN:
            row = row_slug(effect.risk.position.key)
            return self._add(effect.account.name, "position", row, self._of_position(effect, row))
        if isinstance(effect, PositionGone):
            return self._remove(effect.account, "position", row_slug(effect.key))
        if isinstance(effect, SummaryState):
            return self._only(effect.account.name, "pnl", effect.unrealized_pnl, self._sum)
        if isinstance(effect, HealthState):
            return self._only(effect.account, "link", effect.links, self._link)
        return []

    # ---- coming and going ----

    def _only(
        self, account: str, kind: str, names: Collection[str], make: Callable[[str, str], Iterator[_Entity]]
    ) -> list[Message]:
        """Let there be entities for these names, and for no others of this kind.

        Args:
            make: Makes them, of account and name.
        """
        gone = [name for name in self._shown.get((account, kind), {}) if name not in names]
        messages = [message for name in gone for message in self._remove(account, kind, name)]
        for name in names:
            messages += self._add(account, kind, name, make(account, name))
        return messages

    def _add(self, account: str, kind: str, name: str, entities: Iterator[_Entity]) -> list[Message]:
        """Tell of these entities, unless that has been done."""
        shown = self._shown.setdefault((account, kind), {})
        if name in shown:
            return []
        messages = [self._message(account, entity) for entity in entities if self._amounts or not entity.is_amount]
        shown[name] = [message.topic for message in messages]
        return messages

    def _remove(self, account: str, kind: str, name: str) -> list[Message]:
        return [emptied(topic, can_wait=True) for topic in self._shown.get((account, kind), {}).pop(name, [])]

    def _message(self, account: str, entity: _Entity) -> Message:
        node = self._topics.node(account)
        setup = self._accounts.get(account)
        device: Config = {
            "identifiers": [node],
            "name": f"{self._id.prefix} {account}" if setup else self._id.prefix,
            "manufacturer": "marginwatch",
            "model": setup.venue if setup else "daemon",
            "sw_version": self._id.version,
        }
        if setup:
            device["via_device"] = self._topics.node(INSTANCE)
        config = {
            **entity.config,
            "unique_id": f"{node}_{entity.object_id}",
            "qos": 1,
            "device": device,
            "origin": {"name": "marginwatch", "sw_version": self._id.version},
        }
        topic = self._topics.discovery(entity.component, account, entity.object_id)
        return Message(topic, msgspec.json.encode(config), retain=True, qos=1, can_wait=True)

    # ---- entities ----

    def _of_instance(self) -> Iterator[_Entity]:
        health = self._topics.health(INSTANCE)
        alive = {
            "name": "Alive",
            "state_topic": health,
            "value_template": "{{ 'ON' if value_json is defined }}",
            "off_delay": VALID_FOR_S,  # off, not unavailable: it is there to tell of its own silence
            "device_class": "connectivity",
            "entity_category": "diagnostic",
        }
        yield _Entity("binary_sensor", "alive", alive)
        yield self._vital("loop_lag", "Event loop lag", "loop_lag_ms", _measurement("ms", 0, device_class="duration"))
        yield self._vital("memory", "Memory", "rss_bytes", _measurement("MiB", 0, device_class="data_size"), 1 << 20)
        yield self._events(INSTANCE)

    def _vital(self, object_id: str, name: str, key: str, measurement: Config, unit: int = 1) -> _Entity:
        """How the daemon fares. unit: how much of what is published is one of what is shown."""
        figure = f"(value_json.heartbeat or {{}}).get('{key}')"
        template = _value(f"None if {figure} is none else ({figure} / {unit}) | round(1)")
        config = {
            "name": name,
            **self._state(self._topics.health(INSTANCE), template),
            **measurement,
            "entity_category": "diagnostic",
        }
        return _Entity("sensor", object_id, config)

    def _of_account(self, account: str) -> Iterator[_Entity]:
        summary = self._topics.summary(account)
        severity = {
            "name": "Severity",
            **self._state(summary, _value("value_json.severity")),
            "device_class": "enum",
            "options": [severity.word for severity in Severity],
        }
        yield _Entity("sensor", "severity", severity)
        ratio = {
            "name": "Margin ratio",
            **self._figure(summary, _percent("worst_margin_ratio")),
            **_measurement("%", 1),
        }
        yield _Entity("sensor", "margin_ratio", ratio)
        distance = {"name": "Distance", **self._figure(summary, _percent("worst_distance")), **_measurement("%", 2)}
        yield _Entity("sensor", "distance", distance)
        positions = {
            "name": "Open positions",
            **self._figure(summary, _value("value_json.open_positions")),
            "state_class": "measurement",
        }
        yield _Entity("sensor", "open_positions", positions)
        data = {
            "name": "Data",
            **self._state(summary, _value("'ON' if value_json.freshness == 'live' else 'OFF'")),
            "device_class": "connectivity",
            "entity_category": "diagnostic",
        }
        yield _Entity("binary_sensor", "data", data)
        yield self._events(account)

    def _events(self, account: str) -> _Entity:
        """What is told, as it happens. Always available: the last thing told does not claim that all is well."""
        config = {
            "name": "Event",
            "state_topic": self._topics.all_told(account, "event" if self._amounts else "notice"),
            "event_types": [f"{rule}_{kind}" for rule in (*DEFAULTS, DAILY, GROUP) for kind in _TOLD],
        }
        return _Entity("event", "event", config)

    def _problem(self, account: str, rule: str) -> Iterator[_Entity]:
        summary = self._topics.summary(account)
        words = [severity.word for severity in Severity if severity >= PROBLEM_FROM]
        config = {
            "name": f"{rule.replace('_', ' ').capitalize()} problem",
            **self._state(summary, _value(f"'ON' if value_json.rules['{rule}'].severity in {words} else 'OFF'")),
            "json_attributes_topic": summary,
            "json_attributes_template": _attributes(f"value_json.rules['{rule}']"),
            "device_class": "problem",
        }
        yield _Entity("binary_sensor", f"rule_{rule}", config)

    def _sum(self, account: str, asset: str) -> Iterator[_Entity]:
        summary = self._topics.summary(account)
        config = {
            "name": f"Unrealized PnL {asset}",
            **self._figure(summary, _value(f"value_json.unrealized_pnl.get({asset!r})")),
            **_amount(asset),
        }
        yield _Entity("sensor", f"unrealized_pnl_{slug(asset)}", config, is_amount=True)

    def _link(self, account: str, link: str) -> Iterator[_Entity]:
        config = {
            "name": f"Link {link}",
            **self._state(self._topics.health(account), _value(f"value_json.links.get({link!r}, {{}}).get('state')")),
            "entity_category": "diagnostic",
        }
        yield _Entity("sensor", f"link_{slug(link)}", config)

    def _of_pool(self, state: PoolState) -> Iterator[_Entity]:
        pool = state.risk.pool
        topic = self._topics.pool(state.account.name, pool.id)
        yield from self._risk(topic, "pool", pool.id, pool.id, pool.asset)
        ratio = {
            "name": f"{pool.id} margin ratio",
            **self._figure(topic, _percent("margin_ratio")),
            **_measurement("%", 1),
        }
        yield _Entity("sensor", f"pool_{pool.id}_margin_ratio", ratio)

    def _of_position(self, state: PositionState, row: str) -> Iterator[_Entity]:
        name = _position_name(state.risk.position.key)
        topic = self._topics.position(state.account.name, row)
        yield from self._risk(topic, "position", row, name, state.asset)
        price = {
            "name": f"{name} liquidation price",
            **self._figure(topic, _value("value_json.liquidation_price")),
            "state_class": "measurement",
            "json_attributes_topic": topic,
            "json_attributes_template": _attributes(
                "dict(side=value_json.side, margin_mode=value_json.margin_mode, pool=value_json.pool)"
            ),
        }
        yield _Entity("sensor", f"position_{row}_liquidation_price", price, is_amount=True)

    def _risk(self, topic: str, kind: str, object_id: str, name: str, asset: str) -> Iterator[_Entity]:
        """What pools and positions have in common."""
        distance = {"name": f"{name} distance", **self._figure(topic, _percent("distance")), **_measurement("%", 2)}
        yield _Entity("sensor", f"{kind}_{object_id}_distance", distance)
        pnl = {
            "name": f"{name} unrealized PnL",
            **self._figure(topic, _value("value_json.unrealized_pnl")),
            **_amount(asset),
        }
        yield _Entity("sensor", f"{kind}_{object_id}_unrealized_pnl", pnl, is_amount=True)

    # ---- parts of a config ----

    def _state(self, topic: str, template: str) -> Config:
        """What is true as long as the daemon runs."""
        return {
            "state_topic": topic,
            "value_template": template,
            "availability": [{"topic": self._topics.status}],
            "expire_after": VALID_FOR_S,
        }

    def _figure(self, topic: str, template: str) -> Config:
        """What is true only while its data is live."""
        state = self._state(topic, template)
        live = "{{ 'online' if value_json is defined and value_json.freshness == 'live' else 'offline' }}"
        state["availability"].append({"topic": topic, "value_template": live})
        return {**state, "availability_mode": "all"}


_TOLD = tuple(kind for kind in get_args(Kind) if kind != "retained")
_GUARD = "{% if value_json is defined %}"
"""A topic is emptied when what it tells of ends; that is no value."""
_END = "{% endif %}"


def _value(expression: str) -> str:
    return f"{_GUARD}{{{{ {expression} }}}}{_END}"


def _attributes(expression: str) -> str:
    return f"{{{{ {expression} | tojson if value_json is defined else '{{}}' }}}}"


def _percent(key: str) -> str:
    """A fraction as percent."""
    return _value(f"None if value_json.{key} is none else (value_json.{key} * 100) | round(2)")


def _measurement(unit: str, digits: int, **more: str) -> Config:
    """A figure with its unit. digits: decimals that are shown."""
    return {
        "unit_of_measurement": unit,
        "state_class": "measurement",
        "suggested_display_precision": digits,
        **more,
    }


def _amount(asset: str) -> Config:
    """An amount; no `monetary`, which wants a state currency and takes no measurements."""
    return _measurement(asset, 2 if "USD" in asset else 6)


def _position_name(key: PositionKey) -> str:
    """`BTCUSDT`, in hedge mode with the side."""
    return key.symbol if key.side is Side.BOTH else f"{key.symbol} {key.side.value}"
