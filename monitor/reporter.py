"""The open incidents, and what follows from each change of one: a story, retained state, a row to keep."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal

from msgspec import structs

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.effects import AccountSetup, Ages, Answered, Effect, IncidentOver, Save, Story
from monitor.events import Acknowledge, Now, Silence
from monitor.incident import Change, Incident, IncidentKey
from monitor.incidents import Incidents, saved
from monitor.links import Links
from monitor.publication import Published
from monitor.risk.pool import Pool
from monitor.rules import DEFAULTS, Severity
from monitor.silences import Silences
from monitor.telling import in_words, unwatched_story

_KEPT_AT_ONCE = 200
_UNKNOWN = Ages("stale", None, None)


class Reporter:
    """Tells the stories of all judges, and keeps the incidents that they belong to.

    Args:
        links: What they say of themselves decides how fresh a story is.
        published: Whose summary is due because something was told.
    """

    def __init__(self, links: Links, published: Published) -> None:
        self.links = links
        self.incidents = Incidents()
        self.effects: list[Effect] = []
        self.silences = Silences()
        self.group_of: Callable[[Story, Now], str | None] = lambda story, now: None
        self.published = published
        self._seq = 0
        self._unconfirmed: set[IncidentKey] = set()
        self._kept_worst: dict[IncidentKey, Decimal | None] = {}
        self._next_kept = 0

    def restore(
        self, rows: Iterable[bytes], now: Now, last_named_ms: int, is_watched: Callable[[Incident], bool]
    ) -> None:
        """Take back what an earlier run kept; what nobody watches any more ends, as where an account goes later."""
        self.incidents.restore(list(rows), now, last_named_ms)
        for incident in [incident for incident in self.incidents if not is_watched(incident)]:
            if incident.rule in DEFAULTS and incident.venue:
                setup = AccountSetup(incident.account, incident.venue, "", incident.labels)
                self.end_unwatched(setup, [incident.key], _UNKNOWN, now)
            else:  # of another version, which has words for it
                self.incidents.drop(incident.key)
                self._over(incident.key)
        self._unconfirmed = set(self.incidents.open)

    def of(self, account: str, *rules: str) -> list[Incident]:
        """The open incidents of an account, of these rules."""
        return [i for i in self.incidents.of(account) if i.rule in rules]

    def is_unconfirmed(self, key: IncidentKey) -> bool:
        """Whether it is open since an earlier run, and nothing has been published of it in this one."""
        return key in self._unconfirmed

    def retained(self, key: IncidentKey, value: Decimal | None = None) -> Change:
        """The state of an open incident, published again while nobody is told."""
        return Change("retained", self.incidents.copy(key), value)

    def or_retained(self, change: Change | None, key: IncidentKey, value: Decimal | None = None) -> Change | None:
        """A change; where there is none, the state of an incident of which nothing has been published in this run."""
        return self.retained(key, value) if change is None and self.is_unconfirmed(key) else change

    def warned(self, key: IncidentKey, now: Now) -> Change | None:
        """A warning of what lasts; None: it has been told. What a silence has kept back has not been."""
        is_told = key in self.incidents.open and not self.is_unconfirmed(key) and not self.incidents.is_owed(key, now)
        return None if is_told else self.incidents.begin(key, Severity.WARNING, now)

    def ages(self, account: WatchedAccount, pool: Pool | None, now: Now) -> Ages:
        return freshness.ages(account, pool, self.links, now)

    def emit(self, story: Story, now: Now) -> None:
        """Tell a story, and keep the incident that it belongs to."""
        change = story.change
        incident, key = change.incident, change.incident.key
        if change.kind == "noted" and not change.is_told:
            return
        self._seq += change.kind != "retained" and change.is_told
        seq = self._seq  # taken first: whoever is asked for its group may tell of another
        title, text = in_words(story)
        story = structs.replace(story, seq=seq, group_id=self.group_of(story, now), title=title, text=text)
        self._unconfirmed.discard(key)
        open_one = self.incidents.open.get(key) if change.kind != "noted" else None
        for one in (incident, open_one):
            if one is not None:
                one.title, one.text, one.symbol, one.side = title, text, story.symbol, story.side
                one.venue, one.labels = story.account.venue, story.account.labels
        self.effects.append(story)
        if change.kind == "resolved":
            self._over(key)
        elif change.kind != "noted":
            self._keep(key, incident, now)
        self.published.summary_due.add(incident.account)

    def end_unwatched(self, setup: AccountSetup, keys: Iterable[IncidentKey], ages: Ages, now: Now) -> None:
        """End incidents whose account or market is watched no more: how their condition ends, nobody will see."""
        for key in keys:
            change = self.incidents.resolve(key, "rule_changed", None, now)
            if change is not None:
                self.emit(unwatched_story(setup, change, ages, now), now)

    def acknowledge(self, event: Acknowledge, now: Now) -> Incident | None:
        """Somebody has seen an incident: its retained state says so. None: no such incident is open."""
        incident = self.incidents.acknowledge(event.incident_id, now)
        known = incident is not None
        self.effects.append(Answered(f"{event.incident_id} {'acknowledged' if known else 'is not open'}", known))
        if incident is not None:
            self._keep(incident.key, incident, now)
            self._unconfirmed.add(incident.key)  # its judge publishes it anew
        return incident

    def silence(self, event: Silence, now: Now) -> None:
        """Keep back what somebody does not want to hear of for a while."""
        before = list(self.silences.all)
        name, row = self.silences.begin(event, now)
        self.effects.append(Save("silence", name, row))
        if row is not None:
            until = f"{datetime.fromtimestamp(event.until_ms // 1000, UTC):%F %T}"
            self.effects.append(Answered(f"silence of {name} until {until} UTC", True))
        elif name in before:
            self.effects.append(Answered(f"silence of {name} over", True))
        else:
            others = f"there are {', '.join(before)}" if before else "there is none at all"
            self.effects.append(Answered(f"no silence of {name} to end; {others}", False))

    def end_silences(self, now: Now) -> None:
        self.effects += (Save("silence", name, None) for name in self.silences.over(now))

    def _over(self, key: IncidentKey) -> None:
        """Empty what is retained of an incident, and keep it no longer."""
        self._kept_worst.pop(key, None)
        self.effects += [IncidentOver(key), Save("incident", "/".join(key), None)]

    def _keep(self, key: IncidentKey, incident: Incident, now: Now) -> None:
        self._kept_worst[key] = incident.worst
        self.effects.append(Save("incident", "/".join(key), saved(incident, now)))

    def keep_worst(self, now: Now) -> None:
        """Keep the incidents whose worst value is another than the one that was kept; of very many some at a time, in
        turn: whoever is told next waits for it."""
        waiting = deque(self.incidents.open.items())
        waiting.rotate(-self._next_kept)
        kept = 0
        while waiting and kept < _KEPT_AT_ONCE:
            key, incident = waiting.popleft()
            if incident.worst is not None and incident.worst != self._kept_worst.get(key):
                self._keep(key, incident, now)
                kept += 1
        self._next_kept += len(self.incidents.open) - len(waiting)
