"""Which way of opening a private stream is tried next."""

from __future__ import annotations

from monitor.forms import Forms


def test_a_form_that_fails_is_followed_by_the_next_and_all_come_round() -> None:
    """None is given up: the exchange may change its mind."""
    forms = Forms(("query", "multi", "path"))
    tried = []
    for _ in range(5):
        tried.append(forms.first)
        forms.failed(forms.first)

    assert tried == ["query", "multi", "path", "query", "multi"]


def test_a_form_that_has_delivered_outlasts_a_few_failures() -> None:
    """An outage says nothing against it; the next form may well be open, and mute."""
    forms = Forms(("query", "multi"))
    forms.failed("query")
    forms.delivered("multi")
    tried = []
    for _ in range(4):
        tried.append(forms.first)
        forms.failed(forms.first)

    assert tried == ["multi", "multi", "multi", "query"]


def test_a_form_that_is_mute_is_the_last_to_be_tried_whatever_it_delivered_before() -> None:
    """And has to prove itself again."""
    forms = Forms(("query", "multi", "path"))
    forms.delivered("query")
    forms.mute("query")
    tried = []
    for _ in range(4):
        tried.append(forms.first)
        forms.failed(forms.first)

    assert tried == ["multi", "path", "query", "multi"]


def test_a_late_event_of_an_old_stream_brings_its_form_back() -> None:
    """What delivers is what counts."""
    forms = Forms(("query", "multi", "path"))
    forms.mute("query")
    forms.delivered("query")

    assert forms.first == "query"


def test_a_favourite_is_first_whatever_the_order_and_tried_again_when_that_risks_nothing() -> None:
    """What made it fail may be over; another that has delivered is not forgotten."""
    forms = Forms(("query", "path", "subscribe"), "subscribe")
    tried = [forms.first]
    forms.failed("subscribe")
    forms.delivered("query")
    tried.append(forms.first)
    forms.again()
    tried.append(forms.first)
    forms.failed("subscribe")
    tried.append(forms.first)

    assert tried == ["subscribe", "query", "subscribe", "query"]


def test_a_favourite_that_was_mute_is_none_any_more() -> None:
    forms = Forms(("query", "subscribe"), "subscribe")
    forms.mute("subscribe")
    forms.again()

    assert forms.first == "query"
