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
        favourite: One of them that goes before all others, and is tried again after it has failed.
    """

    def __init__(self, forms: Collection[PrivateForm], favourite: PrivateForm | None = None) -> None:
        self._forms = sorted(forms, key=lambda form: form != favourite)
        self._favourite = favourite
        self._good: PrivateForm | None = None
        self._failures = 0

    @property
    def first(self) -> PrivateForm:
        return self._forms[0]

    def again(self) -> None:
        """Try the favourite next: what made it fail may be over. One that was mute is none any more."""
        if self._favourite is not None:
            self._forms.remove(self._favourite)
            self._forms.insert(0, self._favourite)

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
        self._favourite = None if form == self._favourite else self._favourite
        self._last(form)

    def _last(self, form: PrivateForm) -> None:
        self._forms.remove(form)
        self._forms.append(form)
