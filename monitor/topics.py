"""Topics: what stands where at the broker, and what a topic stands for."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from monitor.incident import IncidentKey
from monitor.names import slug

_DEEPEST = 8
"""Levels below ours at which another daemon's status is looked for."""


class Place(Struct, frozen=True):
    """What a retained topic stands for.

    Args:
        kind: `status`, `info`, `summary`, `health`, `pool`, `position` or `incident`.
        account: Whose; empty for `status` and `info`.
        name: Which of them: a pool, a position, or the rule and subject of an incident; else empty.
    """

    kind: str
    account: str = ""
    name: str = ""


class Topics(Struct, frozen=True):
    """The topics of one daemon.

    Args:
        prefix: Above all of them.
        discovery_prefix: Below which Home Assistant looks for configs.
    """

    prefix: str
    discovery_prefix: str = "homeassistant"

    # ---- ours ----

    @property
    def below(self) -> str:
        """A filter for everything below the prefix."""
        return f"{self.prefix}/#"

    @property
    def status(self) -> str:
        return f"{self.prefix}/status"

    @property
    def info(self) -> str:
        return f"{self.prefix}/info"

    def summary(self, account: str) -> str:
        return f"{self.prefix}/{account}/summary"

    def health(self, account: str) -> str:
        return f"{self.prefix}/{account}/health"

    def pool(self, account: str, pool: str) -> str:
        return f"{self.prefix}/{account}/pool/{pool}"

    def position(self, account: str, row: str) -> str:
        return f"{self.prefix}/{account}/position/{row}"

    def incident(self, key: IncidentKey) -> str:
        return f"{self.prefix}/{key.account}/incident/{key.rule}/{key.subject}"

    def told(self, account: str, kind: str, severity: str, rule: str) -> str:
        """kind: `event` or `notice`."""
        return f"{self.prefix}/{account}/{kind}/{severity}/{rule}"

    def all_told(self, account: str, kind: str) -> str:
        """A filter for all events of an account, or for all its notices."""
        return f"{self.prefix}/{account}/{kind}/#"

    def command(self, name: str) -> str:
        """Where somebody wants something of us."""
        return f"{self.prefix}/cmd/{name}"

    def check(self, account: str, name: str) -> str:
        """Where the broker is tried out; nothing stays there."""
        return f"{self.prefix}/{account}/check/{name}"

    @property
    def at_a_glance(self) -> tuple[str, ...]:
        """Filters for how it stands, beside `status`. Of too much at once a broker throws away the last; of this that
        is what is said anew every half minute, or is asked for again."""
        return self.info, f"{self.prefix}/+/incident/#", self.summary("+")

    @property
    def everything(self) -> tuple[str, ...]:
        """Filters for all that is retained, beside `status`."""
        return *self.at_a_glance, self.health("+"), self.pool("+", "+"), self.position("+", "+")

    def place(self, topic: str) -> Place | None:
        """What a topic stands for; None: it is no retained topic of ours."""
        if not topic.startswith(f"{self.prefix}/"):
            return None
        match topic.removeprefix(f"{self.prefix}/").split("/"):
            case [("status" | "info") as kind]:
                return Place(kind)
            case [account, ("summary" | "health") as kind]:
                return Place(kind, account)
            case [account, ("pool" | "position") as kind, name]:
                return Place(kind, account, name)
            case [account, "incident", rule, subject]:
                return Place("incident", account, f"{rule}/{subject}")
        return None

    # ---- Home Assistant's ----

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self.discovery_prefix}/status"

    @property
    def _node_prefix(self) -> str:
        """A slug has no underscore, so that one prefix is never the beginning of another."""
        return f"{slug(self.prefix)}_"

    def node(self, account: str) -> str:
        """How an account's device is called at Home Assistant."""
        return f"{self._node_prefix}{account}"

    def discovery(self, component: str, account: str, object_id: str) -> str:
        return f"{self.discovery_prefix}/{component}/{self.node(account)}/{object_id}/config"

    # ---- what a daemon leaves at the broker ----

    @property
    def retained(self) -> tuple[str, str]:
        """Filters for everything of ours that may be retained; others' is among it."""
        return self.below, f"{self.discovery_prefix}/+/+/+/config"

    @property
    def one_of_each(self) -> tuple[str, str]:
        """Filters for what each account has one of, by which it is found if the config does not name it any more."""
        return self.summary("+"), f"{self.discovery_prefix}/sensor/+/severity/config"

    def all_of(self, account: str) -> tuple[str, str]:
        """Filters for everything of an account that may be retained."""
        return f"{self.prefix}/{account}/#", f"{self.discovery_prefix}/+/{self.node(account)}/+/config"

    @property
    def statuses(self) -> tuple[str, ...]:
        """Filters for the status of this daemon, and of those whose prefix lies below this one."""
        return tuple(f"{self.prefix}/{'+/' * below}status" for below in range(_DEEPEST))

    def account_of(self, topic: str) -> str | None:
        """The account of which a retained topic tells; None: of none, or it is not ours."""
        found = self.place(topic)
        if found is not None:
            return found.account or None
        head, _, rest = topic.partition(f"{self.discovery_prefix}/")
        parts = rest.split("/")
        is_ours = not head and len(parts) == 4 and parts[1].startswith(self._node_prefix) and parts[3] == "config"
        return parts[1].removeprefix(self._node_prefix) if is_ours else None

    def is_left(self, topic: str) -> bool:
        """Whether a retained topic belongs to this prefix, to an account or to none."""
        return topic.startswith(f"{self.prefix}/") or self.account_of(topic) is not None

    def neighbours(self, retained: Mapping[str, bytes]) -> list[str]:
        """Prefixes of other daemons that lie below this one. No account is called `status`.

        Args:
            retained: Payload by topic.
        """
        words = (b"online", b"offline")
        found = {topic.removesuffix("/status") for topic, payload in retained.items() if payload in words}
        return sorted(o for o in found if o.startswith(f"{self.prefix}/") and Topics(o).status in retained)
