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
