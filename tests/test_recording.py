"""Session lines: exact, free of secrets, and robust against whatever a file holds."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from datetime import time
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.core import Kept, Setup
from monitor.effects import AccountSetup
from monitor.errors import DecodeError
from monitor.judges.daily import Daily
from monitor.recording import (
    LONGEST_LINE,
    Line,
    Opening,
    Secrets,
    decode,
    decode_opening,
    encode,
    encode_opening,
)
from monitor.replaying import Replay, Sent, Session, accounts_of
from monitor.rules import DEFAULTS, LiquidationDistanceRule, Match, RuleBook, Severity, Step
from monitor.venues import VENUES

D = Decimal
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
NO_SECRETS = Secrets()
SETUP = Setup((AccountSetup("main", "binance-usdm", "market-binance-usdm"),))
MARK = (
    b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1764000000100,"s":"BTCUSDT",'
    b'"p":"90000.10000000","r":"0.00010000","T":1764028800000,"st":1}}'
)


def line(raw: bytes = b"{}", source: str = "private", at_ms: int = 1764000000123, **keys: object) -> Line:
    return Line(at_ms, "binance-usdm", "main", source, raw, **keys)  # type: ignore[arg-type]


def replayed(*lines: bytes, opening: Opening | None = None) -> list[Sent]:
    """What a file of these lines sends."""
    first = encode_opening(opening or Opening(1764000000000, setup=SETUP))
    session = Session([first, *lines])
    setup = session.opening.setup or Setup(accounts_of(session))
    session = Session([first, *lines])
    return list(Replay(session.opening, setup, "boot").run(session))


# ---- the codec ----


def test_a_line_is_written_as_documented() -> None:
    """Other programs read these files."""
    written = encode(Line(1764000000123, "binance-usdm", None, "market", MARK), NO_SECRETS)

    assert json.loads(written) == {
        "at_ms": 1764000000123,
        "venue": "binance-usdm",
        "account": None,
        "from": "market",
        "data": json.loads(MARK),
    }
    assert written.endswith(b"}\n")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"maintMarginRatio":0.0040,"cum":1E+3,"big":123456789012345678901234567890.10}',
        b'{\n  "a": [1, 2],\r\n "b": "x\\ny"}',
        b"<html>\xff not JSON</html>",
        b'{"cut":',
        b'{"bad":"\xff"}',
        b"",
        b"null",
    ],
    ids=["digits", "line breaks", "page", "cut", "not UTF-8", "empty", "null"],
)
def test_what_is_read_is_what_was_written(raw: bytes) -> None:
    """A price that lost a digit on the way to the file would be another price; only white space may go."""
    written = encode(line(raw, request="GET /fapi/v3/account", source="rest", sent_ms=5, market="m"), NO_SECRETS)
    again = decode(written)

    assert written.count(b"\n") == 1
    assert again.raw.translate(None, b" \r\n") == raw.translate(None, b" \r\n")
    assert (again.at_ms, again.account, again.request, again.sent_ms, again.market) == (
        1764000000123,
        "main",
        "GET /fapi/v3/account",
        5,
        "m",
    )


def test_the_first_line_holds_rules_and_what_was_kept() -> None:
    """A bundle is replayed with the rules of that night, on whichever machine."""
    narrow = LiquidationDistanceRule(steps=(Step(D("0.15"), D("0.18"), Severity.WARNING),), clear_for_s=1)
    rules = RuleBook(
        {**DEFAULTS, "liquidation_distance": narrow},
        {"liquidation_distance": (Match(narrow, symbol="PEPE*", labels={"desk": "a*"}, min_notional=D(5)),)},
    )
    accounts = (AccountSetup("main", "binance-usdm", "market-binance-usdm", {"desk": "alpha"}),)
    setup = Setup(accounts, rules, 7, daily=Daily(time(21, 30), ZoneInfo("Europe/Berlin")))
    opening = Opening(5, "0.1.0", "vps1", setup, Kept((b"\xff row",), {"main/cross-usdt": b"{}"}))
    of_another_version = encode_opening(opening).replace(b'"drift":', b'"of_later":')

    assert decode_opening(encode_opening(opening)) == opening
    assert decode_opening(of_another_version) == opening  # what is not known is left out, what is missing the default


# ---- secrets ----


@pytest.mark.parametrize(
    ("raw", "source"),
    [
        (f'{{"listenKey":"{KEY}"}}', "rest"),
        (f'{{"e":"listenKeyExpired","E":"1736996475556","listenKey": "{KEY}"}}', "private"),
        (f'{{"stream":"{KEY}","data":{{"e":"ACCOUNT_UPDATE"}}}}', "private"),
        (f"GET https://x/fapi?timestamp=17&signature={KEY} refused", "link"),
        (f'{{"link":"private","state":"down","note":"wss://x/ws?listenKey={KEY}&events=A"}}', "link"),
        (f'{{"apiKey" : "{KEY}"}}', "rest"),
        (f"<html>{KEY}</html>", "rest"),
    ],
)
def test_no_secret_gets_into_a_line(raw: str, source: str) -> None:
    """These files are sent to others when help is needed."""
    secrets = Secrets([KEY] if "<html>" in raw else [])
    written = encode(line(raw.encode(), source, request="GET /x"), secrets)

    assert KEY.encode() not in written
    assert base64.b64encode(KEY.encode())[:20] not in written
    assert b"REMOVED" in decode(written).raw


def test_a_key_once_seen_is_removed_wherever_it_appears_later() -> None:
    """The exchange repeats it in places that nobody has documented."""
    secrets = Secrets()
    encode(line(f'{{"listenKey":"{KEY}"}}'.encode(), "rest", request="POST /fapi/v1/listenKey"), secrets)

    assert encode(line(f'{{"note":"{KEY} again"}}'.encode()), secrets).count(b"REMOVED again") == 1


_ALPHABET = "ab-_.é/"


@given(
    secrets=st.lists(st.text(_ALPHABET, min_size=8, max_size=12), max_size=6),
    parts=st.lists(st.text(_ALPHABET + ' "{', max_size=9), min_size=1, max_size=6),
    chosen=st.lists(st.integers(0, 5), max_size=4),
)
def test_wherever_a_secret_stands_it_is_removed_and_all_else_stays(
    secrets: list[str], parts: list[str], chosen: list[int]
) -> None:
    """Within a word, beside another secret, or a part of it; of thousands as of one."""
    hidden = [secrets[n % len(secrets)] for n in chosen] if secrets else []
    text = "".join(a + b for a, b in zip([*parts, *[""] * len(hidden)], [*hidden, *[""] * len(parts)], strict=True))
    for others in ([], [f"of-another-account-{n}" for n in range(100)]):
        written = Secrets([*secrets, *others]).removed(text.encode(), "rest")

        assert not any(secret.encode() in written for secret in secrets)
        if not any(secret in text for secret in secrets):
            assert written == text.encode()


def test_names_of_accounts_stay() -> None:
    """Without them nobody could tell whose line it is."""
    assert decode(encode(line(b'{"note":"main"}'), Secrets(["main", KEY]))).raw == b'{"note":"main"}'


# ---- hostile files ----


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"not a line\n", "line 3: not a session line"),
        (b'{"at_ms":-1,"venue":"binance-usdm","account":null,"from":"market","data":{}}\n', "line 3: .*at_ms"),
        (b'{"at_ms":1764000000500,"venue":"mtgox","account":null,"from":"market","data":{}}\n', "known are binance"),
        (b'{"at_ms":1764000000500,"venue":"binance-usdm","account":"x","from":"private","data":{}}\n', "there is main"),
        (b'{"at_ms":1764000000500,"venue":"binance-usdm","account":null,"from":"market"}\n', 'needs "data"'),
        (b'{"at_ms":1764000000500,"venue":"binance-usdm","account":null,"from":"rest","data":1}\n', 'its "request"'),
        (
            b'{"at_ms":1864000000500,"venue":"binance-usdm","account":null,"from":"market","data":1}\n',
            "more than a day",
        ),
    ],
)
def test_a_bad_line_is_named_by_its_number(bad: bytes, said: str) -> None:
    """Whoever edits a file by hand has to find what is wrong with it."""
    good = encode(Line(1764000000200, "binance-usdm", None, "market", MARK), NO_SECRETS)

    with pytest.raises(DecodeError, match=said) as raised:
        replayed(good, bad, good)
    assert str(raised.value).startswith("line 3: ")


@pytest.mark.parametrize(
    "first", [b"", b"\n", b"{}\n", b'{"schema":"marginwatch.session/2","at_ms":1}\n', b'{"at_ms":1}\n', b"\xff\n"]
)
def test_a_file_that_is_none_is_refused_with_the_remedy(first: bytes) -> None:
    """The wrong file is the most likely mistake."""
    with pytest.raises(DecodeError, match=r"^line 1: .*marginwatch\.session/1.*marginwatch record --out FILE"):
        Session([first])


@pytest.mark.parametrize("setup", ['{"accounts":[{"name":"a/b","venue":"binance-usdm","market":"m"}]}', "[]", '"x"'])
def test_a_setup_that_cannot_be_is_refused(setup: str) -> None:
    """A name is part of topics."""
    with pytest.raises(DecodeError, match=r"^line 1: "):
        Session([f'{{"schema":"marginwatch.session/1","at_ms":1,"setup":{setup}}}\n'.encode()])


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    """A writer that is killed leaves half a line."""
    good = encode(Line(1764000000200, "binance-usdm", None, "market", MARK), NO_SECRETS)
    session = Session([encode_opening(Opening(1764000000000, setup=SETUP)), good, good[:-20]])

    assert len(list(session)) == 1
    assert (session.is_cut, session.number) == (True, 3)


def test_half_a_line_in_the_middle_is_no_cut() -> None:
    """What is missing there would be missed without anybody knowing."""
    good = encode(Line(1764000000200, "binance-usdm", None, "market", MARK), NO_SECRETS)

    with pytest.raises(DecodeError, match=r"^line 2: "):
        replayed(good[:-20] + b"\n", good)


def test_a_line_of_five_megabytes_is_a_line() -> None:
    """The exchange's largest answers are of this size."""
    body = b'{"symbols":[],"filler":"' + b"x" * 5 * 2**20 + b'"}'
    written = encode(line(body, "rest", request="GET /fapi/v1/exchangeInfo"), NO_SECRETS)

    assert len(written) < LONGEST_LINE
    assert decode(written).raw == body
    assert replayed(written)


def test_a_session_without_accounts_takes_them_from_its_lines() -> None:
    """A file that was put together by hand needs no more than the two keys of its first line."""
    sent = replayed(encode(line(MARK, "private"), NO_SECRETS), opening=Opening(1764000000000))

    info = json.loads(sent[1].message.payload)
    assert info["accounts"] == [{"account": "main", "venue": "binance-usdm"}]


def test_time_that_goes_back_takes_nothing_from_what_has_passed() -> None:
    """A wall clock is set now and then; a tick stands at each whole second all the same."""
    times = [1764000000900, 1764000002100, 1763999990000, 1763999991500]
    lines = [encode(Line(t, "binance-usdm", None, "market", MARK), NO_SECRETS) for t in times]

    summaries = [sent.at_ms for sent in replayed(*lines) if sent.message.topic == "marginwatch/main/health"]

    assert summaries == sorted(summaries[:-1]) + summaries[-1:]
    assert set(summaries) <= {1764000001000, 1764000002000, 1763999991000}


REQUESTS = [str(request) for venue in VENUES.values() for request in (*venue.requests.account, venue.requests.time)]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["1.5", "BTCUSDT", "live", "-1e9"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["e", "E", "s", "p", "a", "B", "P", "m", "T", "data", "link", "state", "symbol", "assets"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
WIRES = st.fixed_dictionaries(
    {
        "at_ms": st.integers(1764000000000, 1764000009000) | st.integers(),
        "venue": st.sampled_from([*VENUES, "", "x"]),
        "account": st.sampled_from([None, "main", "_instance", "", "other"]),
        "from": st.sampled_from(["market", "private", "rest", "link", "x"]),
    },
    optional={
        "data": JSON,
        "raw": st.text(max_size=8) | st.just("PGh0bWw+"),
        "request": st.sampled_from([*REQUESTS, "DELETE /", ""]),
        "sent_ms": st.integers(),
        "market": st.text(max_size=5),
    },
)
LINES = st.lists(WIRES.map(lambda wire: json.dumps(wire).encode() + b"\n") | st.binary(max_size=40), max_size=12)


@given(LINES)
@example([b'{"at_ms":1764000000500,"venue":"binance-usdm","account":"main","from":"rest","request":"","data":1}\n'])
def test_whatever_a_file_holds_it_is_replayed_or_refused_in_words(lines: list[bytes]) -> None:
    """Files come from others; none may do more than be refused."""
    refused_in_words(lines)


def refused_in_words(lines: Iterable[bytes]) -> None:
    said = refusal(lambda: replayed(*lines))
    assert said is None or (said.startswith("line ") and "a bug" not in said), said


def refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except DecodeError as exc:
        return str(exc)
    return None


@given(st.dictionaries(st.sampled_from(["schema", "at_ms", "setup", "kept", "version", "instance"]), JSON))
def test_whatever_the_first_line_holds_it_is_read_or_refused(told: dict[str, object]) -> None:
    """The same for what stands before everything."""
    first = json.dumps({"schema": "marginwatch.session/1", "at_ms": 5, **told}).encode() + b"\n"
    said = refusal(lambda: Session([first]))

    assert said is None or said.startswith("line 1: ")
