"""What waits for the broker: states of which the newest counts, events of which none is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.message import Message
from monitor.outbox import Outbox


def state(topic: str, payload: bytes = b"1") -> Message:
    return Message(topic, payload, True, 1)


def event(incident: str, number: int, rank: int = 3) -> Message:
    return Message(f"event/{rank}", f"{incident}.{number}".encode(), False, 1, rank, f"{incident}.{number}", incident)


def full(*messages: Message) -> Outbox:
    """An outbox whose first catching-up is over, with these waiting and released."""
    outbox = Outbox()
    assert outbox.take() is None
    put(outbox, *messages)
    return outbox


def put(outbox: Outbox, *messages: Message) -> None:
    outbox.put(messages)
    outbox.release(messages)


def drain(outbox: Outbox) -> list[bytes]:
    """Everything, each acknowledged before the next."""
    sent = []
    while (message := outbox.take()) is not None:
        sent.append(message.payload)
        outbox.acknowledged(message)
    return sent


def test_of_a_state_only_the_newest_is_sent() -> None:
    """A dashboard wants the present, and a broker that was away must not be flooded with the past."""
    outbox = full(state("a", b"1"), state("b", b"2"), state("a", b"3"))

    assert drain(outbox) == [b"3", b"2"]
    assert outbox.waiting == 0


def test_a_state_that_changes_while_it_is_under_way_is_sent_again_afterwards() -> None:
    """And not before its predecessor has arrived: an older state must not overtake a newer one."""
    outbox = full(state("a", b"1"))
    first = outbox.take()
    put(outbox, state("a", b"2"))

    assert first is not None
    assert outbox.take() is None
    outbox.acknowledged(first)
    assert drain(outbox) == [b"2"]


def test_every_event_of_an_incident_is_sent_in_order() -> None:
    """A story that begins with its end is none."""
    outbox = full(*(event("i", n) for n in range(1, 6)))
    assert drain(outbox) == [b"i.1", b"i.2", b"i.3", b"i.4", b"i.5"]


def test_the_next_event_of_an_incident_waits_for_the_one_before() -> None:
    """Two under way could be swapped by a reconnect."""
    outbox = full(event("i", 1), event("i", 2))
    first = outbox.take()
    assert first is not None
    assert outbox.take() is None

    outbox.acknowledged(first)
    assert drain(outbox) == [b"i.2"]


def test_across_incidents_the_most_severe_goes_first() -> None:
    """After an outage the liquidation is heard before the notices."""
    outbox = full(event("a", 1, rank=2), event("b", 1, rank=5), event("c", 1, rank=4))
    assert drain(outbox) == [b"b.1", b"c.1", b"a.1"]


def test_an_incident_goes_by_the_worst_that_waits_in_it() -> None:
    """Its critical end must not queue behind other incidents because its beginning was a notice."""
    outbox = full(event("a", 1, rank=3), event("b", 1, rank=2), event("b", 2, rank=5))
    assert drain(outbox) == [b"b.1", b"b.2", b"a.1"]


def test_equally_severe_incidents_go_in_order_of_arrival() -> None:
    """First come, first told."""
    outbox = full(event("b", 1), event("a", 1), event("c", 1))
    assert drain(outbox) == [b"b.1", b"a.1", b"c.1"]


def test_nothing_goes_out_before_it_is_released() -> None:
    """An event that is not on disk could be told, forgotten and told again under another name."""
    outbox = full()
    waiting = [event("i", 1), event("i", 2)]
    outbox.put(waiting)
    assert outbox.take() is None

    outbox.release(waiting[:1])
    assert drain(outbox) == [b"i.1"]
    assert outbox.waiting_events == 1
    outbox.release(waiting[1:])
    assert drain(outbox) == [b"i.2"]


def test_an_unreleased_beginning_holds_back_a_released_end() -> None:
    """Order within an incident is kept whatever order the disk answers in."""
    outbox = full()
    one, two = event("i", 1), event("i", 2)
    outbox.put([one, two])
    outbox.release([two])
    assert outbox.take() is None

    outbox.release([one])
    assert drain(outbox) == [b"i.1", b"i.2"]


def test_events_go_before_states_while_connected() -> None:
    """A dashboard can wait a few milliseconds, an alert cannot."""
    outbox = full(state("a", b"state"), event("i", 1))
    assert drain(outbox) == [b"i.1", b"state"]


def test_after_a_reconnect_every_state_goes_first() -> None:
    """Whoever reads the late event must find the present state, not that of an hour ago."""
    outbox = full(state("a", b"old"), state("b", b"b"))
    assert drain(outbox) == [b"old", b"b"]
    put(outbox, event("i", 1), state("a", b"new"))
    outbox.connected()

    assert drain(outbox) == [b"new", b"b", b"i.1"]


def test_after_a_reconnect_no_event_waits_for_the_states_of_thousands_of_accounts() -> None:
    """Over a slow line they take minutes, and new ones come; and where it is cut meanwhile, all of it begins anew."""
    incident = Message("incident", b"open", True, 1, rank=4)
    outbox = full(*(state(f"{n}", b"%d" % n) for n in range(2000)), incident)
    drain(outbox)
    put(outbox, event("i", 1))
    outbox.connected()

    before = []
    while (message := outbox.take()) is not None and message.event_id is None:
        before.append(message)
        put(outbox, state(f"new-{len(before)}"))
        outbox.acknowledged(message)
    assert message == event("i", 1)
    assert before[0] == incident
    assert len(before) < 100
    outbox.acknowledged(message)
    assert len(drain(outbox)) == 2000 + 1


def test_what_was_under_way_is_delivered_again_with_the_same_bytes() -> None:
    """At least once; and a consumer that knows the id can tell that it is the same."""
    outbox = full(event("i", 1), event("i", 2))
    lost = outbox.take()
    outbox.connected()
    again = outbox.take()

    assert again is lost
    assert again is not None
    outbox.acknowledged(again)
    assert drain(outbox) == [b"i.2"]


def test_a_late_acknowledgement_loses_nothing() -> None:
    """The old connection's answer may come when the new one has sent the same event already."""
    outbox = full(event("i", 1), state("a", b""))
    first, emptied = outbox.take(), outbox.take()
    assert first is not None
    assert emptied is not None
    outbox.connected()
    outbox.acknowledged(emptied)
    second = outbox.take()
    assert second is not None
    outbox.acknowledged(first)
    outbox.acknowledged(second)

    assert outbox.waiting == 0
    put(outbox, event("i", 2))
    assert drain(outbox) == [b"i.2"]


def test_a_late_event_knows_that_a_newer_one_follows() -> None:
    """Its body is unchanged, but a phone may show it more quietly."""
    outbox = full(event("i", 1), event("i", 2))
    first = outbox.take()
    assert first is not None
    assert outbox.is_superseded(first)
    outbox.acknowledged(first)

    second = outbox.take()
    assert second is not None
    assert not outbox.is_superseded(second)
    assert not outbox.is_superseded(state("a"))


def test_a_notice_follows_its_event_and_supersedes_nothing() -> None:
    """It is the same news once more; only a newer event makes an event old news."""
    incident = "main.cross-usdt.margin_ratio.1"
    notice = Message("notice/3", b"in words", False, 1, 3, f"{incident}.1/notice", f"{incident}/notice")
    outbox = full(event(incident, 1), notice)
    first = outbox.take()

    assert first is not None
    assert not outbox.is_superseded(first)
    assert outbox.take() is None
    outbox.acknowledged(first)
    assert drain(outbox) == [b"in words"]


def test_an_emptied_state_is_sent_once_and_then_forgotten() -> None:
    """It clears the broker's copy; saying it anew at each reconnect would never end."""
    outbox = full(state("a", b""))
    assert drain(outbox) == [b""]

    outbox.connected()
    assert drain(outbox) == []
    assert outbox.states == {}


def test_a_state_that_fills_again_while_its_emptying_is_under_way_stays() -> None:
    """Closed and reopened within a second: the topic ends full."""
    outbox = full(state("a", b""))
    emptied = outbox.take()
    put(outbox, state("a", b"back"))
    assert emptied is not None
    outbox.acknowledged(emptied)

    assert drain(outbox) == [b"back"]
    outbox.connected()
    assert drain(outbox) == [b"back"]


def test_what_waits_is_counted() -> None:
    """A clean stop waits for it, and the log says what was left."""
    outbox = full(event("i", 1), event("j", 1), state("a"))
    assert (outbox.waiting, outbox.waiting_events) == (3, 2)
    flying = [outbox.take() for _ in range(3)]
    assert (outbox.waiting, outbox.waiting_events) == (3, 2)
    for message in flying:
        assert message is not None
        outbox.acknowledged(message)
    assert (outbox.waiting, outbox.waiting_events) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["event", "state", "release", "take", "ack", "reconnect"]),
            st.integers(0, 3),
            st.integers(1, 5),
        ),
        max_size=80,
    )
)
@settings(max_examples=400)
def test_no_event_is_ever_lost_or_out_of_order(happened: list[tuple[str, int, int]]) -> None:
    """Whatever the disk and the broker do in between: once all is well, everything has arrived, in order."""
    outbox = Outbox()
    numbers, unreleased, flying = [0] * 4, list[Message](), list[Message]()
    given_out, arrived, newest = list[bytes](), list[bytes](), dict[str, bytes]()
    shown: dict[str, bytes] = {}

    def arrive(message: Message) -> None:
        if message.event_id is None:
            shown[message.topic] = message.payload
        elif message.payload not in arrived:
            arrived.append(message.payload)
        outbox.acknowledged(message)

    for what, which, rank in happened:
        if what == "event":
            numbers[which] += 1
            message = event(f"i{which}", numbers[which], rank)
            given_out.append(message.payload)
            unreleased.append(message)
            outbox.put([message])
        elif what == "state":
            newest[f"t{which}"] = b"%d" % rank if rank < 5 else b""
            outbox.put([state(f"t{which}", newest[f"t{which}"])])
        elif what == "release" and unreleased:
            outbox.release([unreleased.pop(which % len(unreleased))])
        elif what == "take":
            taken = outbox.take()
            if taken is not None:
                flying.append(taken)
        elif what == "ack" and flying:
            arrive(flying.pop(which % len(flying)))
        elif what == "reconnect":
            flying.clear()
            outbox.connected()
    outbox.release(unreleased)
    outbox.connected()
    while (left := outbox.take()) is not None:
        arrive(left)

    assert sorted(arrived) == sorted(given_out)
    for which in range(4):
        mine = [payload for payload in arrived if payload.startswith(b"i%d." % which)]
        assert mine == sorted(mine, key=lambda payload: int(payload.partition(b".")[2]))
    assert {t: shown.get(t, b"") for t in newest} == newest
    assert outbox.waiting == 0


# ---- what can wait ----


def patient(topic: str, payload: bytes = b"1") -> Message:
    return Message(topic, payload, True, 1, can_wait=True)


def test_what_can_wait_goes_when_nothing_else_does() -> None:
    """Hundreds of configs for a dashboard must not stand before one alert."""
    outbox = full(patient("c", b"config"), state("a", b"state"), event("x", 1))

    assert drain(outbox) == [b"x.1", b"state", b"config"]


def test_what_can_wait_leaves_room_for_what_cannot() -> None:
    """An event that comes while a burst of configs is under way does not wait for all of them to be acknowledged."""
    outbox = full(*(patient(f"c/{number}") for number in range(100)))
    under_way = [message for _ in range(100) if (message := outbox.take()) is not None]

    assert 0 < len(under_way) < 16
    put(outbox, event("x", 1))
    assert outbox.take() == event("x", 1)
    assert outbox.take() is None
    for message in under_way:
        outbox.acknowledged(message)
    assert len(drain(outbox)) == 100 - len(under_way)


def test_over_a_new_connection_what_can_wait_comes_last_and_whole() -> None:
    """The broker may have forgotten all of it; an alert that was late already must not become later."""
    outbox = full(patient("c", b"config"), state("a", b"state"))
    drain(outbox)
    put(outbox, event("x", 1))
    outbox.connected()

    assert drain(outbox) == [b"state", b"x.1", b"config"]


def test_what_can_wait_is_said_anew_when_somebody_asks() -> None:
    """Removed ones are not: an empty payload that has arrived is forgotten."""
    outbox = full(patient("c", b"config"), patient("d", b"gone soon"), state("a", b"state"))
    drain(outbox)
    put(outbox, patient("d", b""))
    drain(outbox)
    outbox.renew()

    assert outbox.waiting == 1
    assert drain(outbox) == [b"config"]
