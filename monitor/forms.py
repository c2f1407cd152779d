"""In which way to open a private stream: there are several, and which of them deliver is known by trying alone."""

from __future__ import annotations

from collections.abc import Collection

from monitor.venues import PrivateForm

_FAILURES_OF_A_GOOD_FORM = 3


class Forms:
    """The ways to open a private stream, the most promising first. One that has delivered an event stays there, unless
    it turns out mute, or fails again and again.

    Args:
        forms: As they are to be tried at first.
    """

    def __init__(self, forms: Collection[PrivateForm]) -> None:
        self._forms = list(forms)
        self._good: PrivateForm | None = None
        self._failures = 0

    @property
    def first(self) -> PrivateForm:
        return self._forms[0]

    def delivered(self, form: PrivateForm) -> None:
        self._good, self._failures = form, 0
        self._forms.remove(form)
        self._forms.insert(0, form)

    def failed(self, form: PrivateForm) -> None:
        self._failures += 1
        if form != self._good or self._failures % _FAILURES_OF_A_GOOD_FORM == 0:
            self._last(form)

    def mute(self, form: PrivateForm) -> None:
        self._good = None if form == self._good else self._good
        self._last(form)

    def _last(self, form: PrivateForm) -> None:
        self._forms.remove(form)
        self._forms.append(form)
