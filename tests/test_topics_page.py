"""docs/topics.md says what the schemas say, for people."""

from __future__ import annotations

import re

from tests.rig import ROOT
from tests.schemas import NAMES
from tests.schemas import TOPICS as PATTERNS
from tests.topics_page import PAGE, TOPICS, page


def test_the_page_is_what_the_schemas_say() -> None:
    """A page that was true once misleads whoever writes a consumer by it."""
    assert PAGE.read_text("utf-8") == page(), "run `python -m tests.topics_page`"


def test_every_key_has_a_meaning_and_every_link_a_place() -> None:
    """No row without a word in it."""
    text = page()
    places = {heading.lower() for heading in re.findall(r"^### (.*)$", text, re.MULTILINE)}

    assert re.findall(r"^.*\|\s*\|\s*$", text, re.MULTILINE) == []
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= places


def test_every_payload_stands_on_the_page_and_every_topic_in_the_readme() -> None:
    """The short table and the long page tell of the same topics, retained alike, with the same QoS."""
    rows = re.findall(r"^\| `(.*?)` \| \**(\w+)\** \| (\d) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)

    assert {name for *_, name in TOPICS} == {None, *NAMES}
    assert len(TOPICS) == len(PATTERNS)
    assert rows == [(topic.replace("|", "\\|"), retained, str(qos)) for topic, retained, qos, _ in TOPICS]
