"""A test alert: in topic and shape like a real one, marked as a test, about nothing."""

from __future__ import annotations

from monitor.effects import AccountSetup, Ages, Story
from monitor.events import Now
from monitor.incident import IncidentKey
from monitor.incidents import Incidents
from monitor.rules import Severity

_RULE, _SUBJECT = "margin_ratio", "test"


def story(account: AccountSetup, severity: Severity, now: Now) -> Story:
    """What is told of an incident that does not exist: once, so that nobody waits for its end."""
    change = Incidents().note(IncidentKey(account.name, _RULE, _SUBJECT), severity, now)
    title = f"TEST: {account.name}: a {severity.word} alert would look like this"
    text = f"{title}. Nothing has happened to your positions; somebody has run `marginwatch check --test-alert`."
    return Story(
        account,
        change,
        now.wall_ms,
        None,
        seq=1,
        ages=Ages("live", None, None),
        is_test=True,
        title=title,
        text=text,
    )
