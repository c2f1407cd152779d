"""What waits for the broker: states of which only the newest counts, and events of which none may be lost.

Pure: it decides what is sent next; `shell/broker.py` sends. A topic is either a state or an event, never both. After
an outage the states go first (what is open, the worst before the others, and how it stands), then events, the most
severe first; the events of one rule and subject keep their order. Of very many accounts no alert waits for all their
states: some go first, and the others after the events. Figures of pools and positions, of which there may be thousands,
go after all that, and what can wait goes when nothing else does.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import count

from monitor.compressed import MANY, Compressor
from monitor.message import Message

_MOST_PATIENT = 8
"""How much of what can wait may be under way at once: an event that comes next finds room."""


_MOST_AHEAD = 64
"""So many states go before the events after an outage. Where the line is slow, or cut again and again, the states of
thousands of accounts would take minutes each time, and new ones come meanwhile."""


class _Line:
    """The events of one rule and subject, in order, with what has to be known of all that wait at any moment.

    ranks: The highest rank, and behind it those that will be the highest once those before them have gone.
    last: Incident → its newest event.
    """

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.ranks: deque[int] = deque()
        self.last: dict[str | None, str | None] = {}
        self._ids: set[str | None] = set()

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self._ids.add(message.event_id)
        while self.ranks and self.ranks[-1] < message.rank:
            self.ranks.pop()
        self.ranks.append(message.rank)
        self.last[message.incident_id] = message.event_id

    def popleft(self) -> None:
        message = self.messages.popleft()
        self._ids.discard(message.event_id)
        if self.ranks[0] == message.rank:
            self.ranks.popleft()
        if self.last.get(message.incident_id) == message.event_id:
            del self.last[message.incident_id]

    def holds(self, message: Message) -> bool:
        return message.event_id in self._ids


class Outbox:
    """Messages on their way to the broker.

    An event is sent only after `release`: once it is on disk, or once it is clear that it cannot be.
    """

    def __init__(self) -> None:
        self.states: dict[str, Message] = {}
        # Of a plain dict the first would be looked for anew behind all that have gone.
        self._due: OrderedDict[str, None] = OrderedDict()
        self._figures: OrderedDict[str, None] = OrderedDict()
        self._patient: OrderedDict[str, None] = OrderedDict()
        self._events: dict[str, _Line] = {}
        self.waiting_events = 0
        """Events that the broker does not have yet."""
        self._released: set[str | None] = set()
        self._heads: list[tuple[int, int, str]] = []
        self._order = count()
        self._flying: dict[str, Message] = {}
        self._compressor = Compressor()
        self._ahead = _MOST_AHEAD
        """So many states still go before the events."""

    def compact(self, events: tuple[Message, ...]) -> tuple[Message, ...]:
        """These events as they, and whoever else keeps them, are to wait: behind very many, with little memory."""
        if self.waiting_events < MANY:
            return events
        return tuple(event.compressed(self._compressor) for event in events)

    def put(self, messages: Iterable[Message]) -> None:
        """Take messages: a state replaces the one that waits for its topic, an event queues behind its incident."""
        for message in messages:
            if message.is_state:
                self.states[message.topic] = message
                self._place(message)[message.topic] = None
            else:
                self._events.setdefault(message.line, _Line()).append(message)
                self.waiting_events += 1

    def release(self, messages: Iterable[Message]) -> None:
        """These events may be sent now."""
        for message in messages:
            name = message.line
            line = self._events.get(name)
            if line is not None and line.holds(message) and message.event_id not in self._released:
                self._released.add(message.event_id)
                self._queue(name)

    def connected(self) -> None:
        """A new connection: what was under way goes again, and every state is said anew."""
        for message in self._flying.values():
            if not message.is_state:
                self._queue(message.line)
        self._flying.clear()
        for place in (self._due, self._figures, self._patient):
            place.clear()
        for topic, message in sorted(self.states.items(), key=lambda state: -state[1].rank):
            self._place(message)[topic] = None
        self._ahead = _MOST_AHEAD

    def renew(self) -> None:
        """Say all that can wait anew."""
        self._patient.update((topic, None) for topic, message in self.states.items() if message.can_wait)

    def take(self) -> Message | None:
        """The next message to send; None: nothing waits that could be sent now."""
        message = None
        if self._ahead:
            message = self._next_state(self._due)
            self._ahead = 0 if message is None else self._ahead - 1
        message = message or self._next_event() or self._next_state(self._due) or self._next_state(self._figures)
        message = message or self._next_patient()
        if message is not None:
            self._flying[message.event_id or message.topic] = message
        return message

    def acknowledged(self, message: Message) -> None:
        """The broker has it."""
        self._flying.pop(message.event_id or message.topic, None)
        if message.is_state:
            if not message.payload and self.states.get(message.topic) is message:
                del self.states[message.topic]
                for waiting_states in (self._due, self._figures, self._patient):
                    waiting_states.pop(message.topic, None)
            return
        self._released.discard(message.event_id)
        name = message.line
        waiting = self._events.get(name)
        if waiting is None:
            return  # acknowledged twice, over the old connection and over the new
        if waiting.messages[0].event_id == message.event_id:
            waiting.popleft()
            self.waiting_events -= 1
        if waiting.messages:
            self._queue(name)
        else:
            del self._events[name]

    def is_superseded(self, message: Message) -> bool:
        """Whether a newer event of the same incident waits behind this one."""
        line = self._events.get(message.line)
        last = None if line is None else line.last.get(message.incident_id)
        return last is not None and last != message.event_id

    @property
    def waiting(self) -> int:
        """Events and states that the broker does not have yet."""
        due = len(self._due) + len(self._figures) + len(self._patient)
        return self.waiting_events + due + sum(m.is_state for m in self._flying.values())

    @property
    def has_events(self) -> bool:
        """Whether the broker lacks any event."""
        return bool(self._events)

    @property
    def oldest_event_ms(self) -> int | None:
        """When the oldest event that waits has happened; None: none waits."""
        return min((line.messages[0].at_ms for line in self._events.values() if line.messages), default=None)

    def _place(self, message: Message) -> OrderedDict[str, None]:
        """Where a state waits. It has one place alone: where another waits for its topic, that one's is given up."""
        place = self._patient if message.can_wait else self._due if message.qos else self._figures
        for other in (self._due, self._figures, self._patient):
            if other is not place:
                other.pop(message.topic, None)
        return place

    def _queue(self, line: str) -> None:
        """Let an incident's first event compete, with the rank of the worst that waits behind it."""
        waiting = self._events.get(line)
        if waiting is not None and waiting.messages:
            heapq.heappush(self._heads, (-waiting.ranks[0], next(self._order), line))

    def _next_event(self) -> Message | None:
        while self._heads:
            rank, _, line = heapq.heappop(self._heads)
            waiting = self._events.get(line)
            if waiting is None or not waiting.messages or -rank > waiting.ranks[0]:
                continue  # its worst has gone since, and what is left has taken its own place
            first = waiting.messages[0]
            if first.event_id in self._released and first.event_id not in self._flying:
                return first.whole
        return None

    def _next_state(self, due: OrderedDict[str, None]) -> Message | None:
        for topic in due:
            if topic not in self._flying:  # of one topic, one at a time: an older state never overtakes
                del due[topic]
                return self.states[topic]
        return None

    def _next_patient(self) -> Message | None:
        if not self._patient or sum(message.can_wait for message in self._flying.values()) >= _MOST_PATIENT:
            return None
        return self._next_state(self._patient)
