"""What the exchange says beside marks and account changes: rates of collateral, terms, queues, funds, early signs."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from monitor.errors import DecodeError
from monitor.events import (
    AdlQuantilesRead,
    AdlRiskRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Bracket,
    BracketsRead,
    ContractChanged,
    ContractsRead,
    Event,
    ExchangeFigures,
    ExchangeStatusRead,
    Fill,
    FundingTermsRead,
    InsuranceFundRead,
    KeyPermissionsRead,
    MarkPrice,
    OrdersCancelled,
    PositionKey,
    PositionsRead,
    Side,
    StrategyEnded,
)
from monitor.venues import VENUES, PrivateForm, Request, Venue

D = Decimal
USDM = VENUES["binance-usdm"]
COINM = VENUES["binance-coinm"]

RATES_FRAME = (
    '[{"e":"assetIndexUpdate","E":1686749230000,"s":"ADAUSD","i":"0.27462452","b":"0.10000000","a":"0.10000000",'
    '"B":"0.24716207","A":"0.30208698","q":"0.05000000","g":"0.05000000","Q":"0.26089330","G":"0.28835575"},'
    '{"e":"assetIndexUpdate","E":1686749230000,"s":"USDTUSD","i":"0.99987691","b":"0.00010000","a":"0.00010000",'
    '"B":"0.99977692","A":"0.99997689","q":"0.00010000","g":"0.00010000","Q":"0.99977692","G":"0.99997689"}]'
)
CONTRACT_FRAME = (
    '{"e":"contractInfo","E":1669356423908,"s":"IOTAUSDT","ps":"IOTAUSDT","ct":"PERPETUAL","dt":4133404800000,'
    '"ot":1569398400000,"cs":"TRADING","st":1,"bks":[{"bs":1,"bnf":0,"bnc":5000,"mmr":0.01,"cf":0,"mi":21,"ma":50},'
    '{"bs":2,"bnf":5000,"bnc":25000,"mmr":0.025,"cf":75,"mi":11,"ma":20}]}'
)
ORDER_FRAME = (
    '{"e":"ORDER_TRADE_UPDATE","E":1568879465651,"T":1568879465650,"o":{"s":"BTCUSDT","c":"TEST","S":"SELL",'
    '"o":"LIMIT","f":"GTC","q":"0.001","p":"9000","ap":"0","sp":"0","x":"EXPIRED","X":"EXPIRED","i":8886774,"l":"0",'
    '"z":"0","L":"0","N":"USDT","n":"0","T":1568879465650,"t":0,"m":false,"R":false,"ps":"BOTH","rp":"0","er":"5"}}'
)
STRATEGY_FRAME = (
    '{"e":"STRATEGY_UPDATE","T":1669261797627,"E":1669261797628,"su":{"si":176054594,"st":"GRID","ss":"NEW",'
    '"s":"BTCUSDT","ut":1669261797627,"c":8007}}'
)


def pushed(text: str, venue: Venue = USDM) -> list[Event]:
    return venue.decode_market(text.encode(), "m", set())


def private(text: str, venue: Venue = USDM) -> list[Event]:
    return venue.decode_private(text.encode(), "main")


def read(path: str, body: str, venue: Venue = USDM) -> list[Event]:
    """The answer to the request of this path, whatever it is asked for."""
    [request] = {r for r in asked(venue) if r.path == path}
    return venue.decode_answer(request, body.encode(), "main", "m", 7)


def asked(venue: Venue) -> list[Request]:
    r = venue.requests
    some = [request for request in (r.rates, r.status) if request is not None]
    return [r.contracts, r.marks, *r.account, *r.reconcile, r.forced, *some, *r.market_facts, *r.account_facts]


# ---- rates of collateral ----


@pytest.mark.parametrize("envelope", ["{}", '{{"stream":"!assetIndex@arr","data":{}}}'], ids=["raw", "combined"])
def test_pushed_rates_are_those_that_collateral_is_valued_at(envelope: str) -> None:
    """`B` and `A`, with the buffers in them; the buffers of the automatic exchange are others."""
    rates = {"ADA": AssetRate(D("0.24716207"), D("0.30208698")), "USDT": AssetRate(D("0.99977692"), D("0.99997689"))}

    assert pushed(envelope.format(RATES_FRAME)) == [AssetRates("m", rates, 1686749230000)]


def test_the_rate_of_a_single_asset_comes_alone() -> None:
    """The stream of one asset carries no list."""
    one = '{"e":"assetIndexUpdate","E":5,"s":"BNBUSD","B":"570.1","A":"630.1"}'

    assert pushed(one) == [AssetRates("m", {"BNB": AssetRate(D("570.1"), D("630.1"))}, 5)]


def test_the_higher_of_the_two_rates_is_that_of_a_debt() -> None:
    """A debt that cost less than a balance is worth would make the figures of a pool contradict each other."""
    odd = '{"e":"assetIndexUpdate","E":5,"s":"BNBUSD","B":"630.1","A":"570.1"}'

    assert pushed(odd) == [AssetRates("m", {"BNB": AssetRate(D("570.1"), D("630.1"))}, 5)]


def test_asked_rates_are_marked_as_bridged() -> None:
    """They say nothing of the stream's health. The newest time stands for all."""
    ada = (
        '{"symbol":"ADAUSD","time":1635740268004,"index":"1.92957370","bidBuffer":"0.10000000",'
        '"askBuffer":"0.10000000","bidRate":"1.73661633","askRate":"2.12253107","autoExchangeBidBuffer":"0.05000000",'
        '"autoExchangeAskBuffer":"0.05000000","autoExchangeBidRate":"1.83309501","autoExchangeAskRate":"2.02605238"}'
    )
    old = '{"symbol":"BUSDUSD","time":1635740268003,"bidRate":"0.9","askRate":"1"}'
    rate = AssetRate(D("1.73661633"), D("2.12253107"))

    assert read("/fapi/v1/assetIndex", ada) == [AssetRates("m", {"ADA": rate}, 1635740268004, bridged=True)]
    assert read("/fapi/v1/assetIndex", f"[{old},{ada}]") == [
        AssetRates("m", {"BUSD": AssetRate(D("0.9"), D(1)), "ADA": rate}, 1635740268004, bridged=True)
    ]
    assert read("/fapi/v1/assetIndex", "[]") == []


@pytest.mark.parametrize(
    "odd",
    [
        '"s":"EURUSD","B":"0","A":"1"',
        '"s":"EURUSD","B":"1","A":"-1"',
        '"s":"EURUSD","B":"NaN","A":"1"',
        '"s":"EURUSD","A":"1"',
        '"s":"EURUSDT","B":"1","A":"1"',
        '"s":"USD","B":"1","A":"1"',
        '"s":7,"B":"1","A":"1"',
    ],
)
def test_an_odd_rate_hides_no_other(odd: str) -> None:
    """Worth nothing, worth less, of no asset: unknown, which is not zero. Where none reads, the frame is wrong."""
    row = f'{{"e":"assetIndexUpdate","E":5,{odd}}}'
    good = '{"e":"assetIndexUpdate","E":5,"s":"BTCUSD","B":"1","A":"2"}'

    assert pushed(f"[{row},7,{good}]") == [AssetRates("m", {"BTC": AssetRate(D(1), D(2))}, 5)]
    with pytest.raises(DecodeError):
        pushed(f"[{row}]")


# ---- contracts ----


def test_changed_brackets_are_pushed_with_the_contract() -> None:
    """Bare numbers, exact; the year 2100 is no delivery."""
    brackets = (Bracket(1, D(0), D("0.01"), D(0)), Bracket(2, D(5000), D("0.025"), D(75)))
    expected = [ContractChanged("m", "IOTAUSDT", "TRADING", None, brackets, 1669356423908)]

    assert pushed(CONTRACT_FRAME) == expected
    assert pushed(f'{{"stream":"!contractInfo","data":{CONTRACT_FRAME}}}') == expected


def test_a_changed_status_says_nothing_of_brackets() -> None:
    """Absent, null or empty: they are what they were."""
    expected = [ContractChanged("m", "ABCUSDT", "SETTLING", 1795248000000, None, 5)]
    frame = '{{"e":"contractInfo","E":5,"s":"ABCUSDT","dt":1795248000000,"cs":"SETTLING"{}}}'

    assert [pushed(frame.format(more)) for more in ("", ',"bks":null', ',"bks":[]')] == [expected] * 3


@pytest.mark.parametrize("never", ["4133404800000", '"4133404800000"', "0", '"0"', "null", '""'])
def test_a_contract_without_an_end_is_not_delivered(never: str) -> None:
    """Perpetuals have the year 2100 for it. As 0 it would be of 1970, and whoever holds one be told of a delivery."""
    [change] = pushed(f'{{"e":"contractInfo","E":5,"s":"BTCUSD_PERP","cs":"TRADING","dt":{never}}}')
    row = f'{{"symbol":"A","baseAsset":"A","marginAsset":"USDT","status":"TRADING","deliveryDate":{never}}}'
    [contracts] = read("/fapi/v1/exchangeInfo", f'{{"symbols":[{row}]}}')

    assert isinstance(change, ContractChanged)
    assert isinstance(contracts, ContractsRead)
    assert change.delivery_ms is None
    assert contracts.contracts["A"].delivery_ms is None


def test_contracts_of_the_other_market_are_not_ours() -> None:
    """The stream carries both markets on both hosts."""
    coin = (
        '{"e":"contractInfo","E":1669647330375,"s":"APTUSD_PERP","ps":"APTUSD","ct":"PERPETUAL","dt":4133404800000,'
        '"cs":"TRADING","st":2,"bks":[{"bs":1,"bnf":0,"bnc":5000,"mmr":0.01,"cf":0}]}'
    )
    brackets = (Bracket(1, D(0), D("0.01"), D(0)),)

    assert pushed(coin) == []
    assert pushed(coin, COINM) == [ContractChanged("m", "APTUSD_PERP", "TRADING", None, brackets, 1669647330375)]
    assert pushed(CONTRACT_FRAME, COINM) == []


@pytest.mark.parametrize(
    "bad",
    [
        '"s":"A","cs":"TRADING","bks":[{"bs":1,"bnf":0,"mmr":1.5,"cf":0}]',
        '"s":"A","cs":"TRADING","bks":[{"bs":1,"bnf":0,"mmr":0.1}]',
        '"s":"A","cs":"TRADING","bks":5',
        '"s":"A","cs":5',
        '"s":"A"',
        '"cs":"TRADING"',
        '"s":"A","cs":"TRADING","dt":"soon"',
    ],
)
def test_a_contract_that_misreads_is_refused(bad: str) -> None:
    """Half of what changed would pass for all of it."""
    with pytest.raises(DecodeError):
        pushed(f'{{"e":"contractInfo","E":5,"dt":4133404800000,{bad}}}')


def test_a_mark_beside_other_frames_is_read_as_ever() -> None:
    """The way of the marks is its own."""
    raw = '{"stream":"x","data":{"e":"markPriceUpdate","E":5,"s":"A","p":"7"}}'

    assert USDM.decode_market(raw.encode(), "m", {"A"}) == [MarkPrice("m", "A", D(7), 5, None, None)]


def contracts(assets: str) -> ContractsRead:
    row = '{"symbol":"A","baseAsset":"X","marginAsset":"USDT","status":"TRADING"}'
    [event] = read("/fapi/v1/exchangeInfo", f'{{"symbols":[{row}]{assets}}}')
    assert isinstance(event, ContractsRead)
    return event


def test_the_terms_of_collateral_come_with_the_contracts() -> None:
    """The threshold is printed as a negative balance, and is null where nothing is exchanged."""
    found = contracts(
        ',"assets":[{"asset":"BTC","marginAvailable":true,"autoAssetExchange":"-0.10"},'
        '{"asset":"USDT","marginAvailable":true,"autoAssetExchange":"0"},'
        '{"asset":"BNB","marginAvailable":false,"autoAssetExchange":null},{"asset":"ODD","marginAvailable":"maybe"}]'
    )

    assert found.assets == {
        "BTC": AssetTerms(True, D("0.10")),
        "USDT": AssetTerms(True, D(0)),
        "BNB": AssetTerms(False, None),
    }


@pytest.mark.parametrize("assets", ["", ',"assets":null', ',"assets":5', ',"assets":[5]', ',"assets":{"a":1}'])
def test_terms_that_misread_cost_no_contract(assets: str) -> None:
    """Contracts are needed by every account, the terms by few."""
    found = contracts(assets)

    assert (list(found.contracts), found.assets) == (["A"], {})


@pytest.mark.parametrize(
    ("given", "coefs"),
    [
        ('"notionalCoef":1.50,', {"ETHUSDT": D("1.5")}),
        ('"notionalCoef":"2",', {"ETHUSDT": D(2)}),
        ('"notionalCoef":0.5,', {"ETHUSDT": D("0.5")}),
        ('"notionalCoef":null,', {}),
        ("", {}),
    ],
)
def test_brackets_say_by_what_they_were_adjusted(given: str, coefs: dict[str, Decimal]) -> None:
    """Only accounts with a multiplier of their own have one; the brackets stand as given."""
    body = f'[{{"symbol":"ETHUSDT",{given}"brackets":[{{"bracket":1,"FLOOR":0,"maintMarginRatio":0.0065,"cum":0.0}}]}}]'
    expected = [BracketsRead("main", {"ETHUSDT": (Bracket(1, D(0), D("0.0065"), D(0)),)}, coefs)]

    assert read("/fapi/v1/leverageBracket", body.replace("FLOOR", "notionalFloor")) == expected
    assert read("/dapi/v2/leverageBracket", body.replace("FLOOR", "qtylFloor"), COINM) == expected


# ---- auto-deleveraging, funds, funding ----


@pytest.mark.parametrize(("venue", "path"), [(USDM, "/fapi/v1/adlQuantile"), (COINM, "/dapi/v1/adlQuantile")])
def test_a_place_in_the_queue_is_that_of_a_side(venue: Venue, path: str) -> None:
    """`HEDGE` marks a cross hedge and is no place; in one-way mode all three sides are named."""
    body = (
        '[{"symbol":"ETHUSDT","adlQuantile":{"LONG":3,"SHORT":3,"HEDGE":0}},'
        '{"symbol":"BTCUSDT","adlQuantile":{"LONG":1,"SHORT":2,"BOTH":0}},'
        '{"symbol":"ODDUSDT","adlQuantile":{"LONG":9}},{"symbol":"OFFUSDT","adlQuantile":[1]}]'
    )
    expected = {
        PositionKey("ETHUSDT", Side.LONG): 3,
        PositionKey("ETHUSDT", Side.SHORT): 3,
        PositionKey("BTCUSDT", Side.LONG): 1,
        PositionKey("BTCUSDT", Side.SHORT): 2,
        PositionKey("BTCUSDT", Side.BOTH): 0,
    }

    assert read(path, body, venue) == [AdlQuantilesRead("main", expected)]
    assert read(path, "[]", venue) == [AdlQuantilesRead("main", {})]


@pytest.mark.parametrize(
    ("adl", "quantile"),
    [(',"adl":2', 2), (',"adl":"4"', 4), ("", None), (',"adl":null', None), (',"adl":7', None), (',"adl":"x"', None)],
)
def test_a_position_row_has_its_place_in_the_queue(adl: str, quantile: int | None) -> None:
    """An odd one is unknown, and costs no position."""
    row = (
        '{"symbol":"ADAUSDT","positionSide":"BOTH","positionAmt":"30","entryPrice":"0.385","markPrice":"0.41047590",'
        f'"unRealizedProfit":"0.76427700","liquidationPrice":"0","maintMargin":"0.08004280"{adl}}}'
    )

    [event] = read("/fapi/v3/positionRisk", f"[{row}]")
    assert isinstance(event, PositionsRead)
    [(_, figures)] = event.rows
    assert figures == ExchangeFigures(D("0.4104759"), D("0.764277"), D("0.0800428"), None, quantile)


@pytest.mark.parametrize(
    ("printed", "price"),
    [
        ('"2260.56757210"', D("2260.5675721")),
        ('"0.00000312"', D("0.00000312")),
        ('"0"', None),
        ('"151234567890123.4"', None),
        ('"-"', None),
    ],
)
def test_a_liquidation_price_of_whatever_size_costs_no_position(printed: str, price: Decimal | None) -> None:
    """A short of COIN-M that coins all but cover has one beyond all measure; nothing of ours follows from it."""
    row = (
        '{"symbol":"BTCUSD_PERP","positionSide":"BOTH","positionAmt":"-100","entryPrice":"50000.0","markPrice":"50000",'
        f'"unRealizedProfit":"0.00000000","liquidationPrice":{printed},"marginType":"cross","isolatedMargin":"0"}}'
    )

    [event] = read("/dapi/v1/positionRisk", f"[{row}]", COINM)
    assert isinstance(event, PositionsRead)
    [(position, figures)] = event.rows
    assert position.quantity == -100
    assert figures == ExchangeFigures(D(50000), D(0), None, price, None)


@pytest.mark.parametrize(
    ("form", "begin"),
    [
        ("query", "wss://fstream.binance.com/private/ws?listenKey=KEY&events=ACCOUNT_UPDATE/ORDER_TRADE_UPDATE/"),
        ("path", "wss://fstream.binance.com/private/ws/KEY"),
        ("multi", "wss://fstream.binance.com/private/stream?listenKey=KEY&events=ACCOUNT_UPDATE/ORDER_TRADE_UPDATE/"),
        ("subscribe", "wss://fstream.binance.com/private/stream"),
    ],
)
def test_a_private_stream_is_opened_where_it_is_documented(form: PrivateForm, begin: str) -> None:
    """Elsewhere it opens too, and never tells anything."""
    url, first = USDM.private_url(USDM.environments["live"].private_url, "KEY", form)

    assert url.startswith(begin)
    assert ("events=" in url) == ("events=" in begin)
    assert (first is None) == (form != "subscribe")
    assert first is None or json.loads(first) == {"method": "SUBSCRIBE", "params": ["KEY"], "id": 1}


def test_the_risk_of_a_market_is_one_of_three_words() -> None:
    """A list of all, or the one that was asked for; a fourth word is unknown."""
    low = '{"symbol":"BTCUSDT","adlRisk":"low","updateTime":1597370495002}'
    odd = '{"symbol":"ETHUSDT","adlRisk":"extreme"}'
    high = '{"symbol":"0GUSDT","adlRisk":"HIGH"}'

    assert read("/fapi/v1/symbolAdlRisk", low) == [AdlRiskRead("m", {"BTCUSDT": "low"})]
    assert read("/fapi/v1/symbolAdlRisk", f"[{odd},{low},{high}]") == [
        AdlRiskRead("m", {"BTCUSDT": "low", "0GUSDT": "high"})
    ]


def test_a_fund_is_that_of_each_symbol_in_its_group() -> None:
    """Groups share a fund; where a symbol is in two, it has both."""
    group = (
        '{"symbols":["BNBUSDT","BTCUSDT"],"assets":[{"asset":"USDT","marginBalance":"793930579.315848",'
        '"updateTime":1745366402000},{"asset":"USDC","marginBalance":"5.5"},{"asset":"ODD","marginBalance":"much"}]}'
    )
    other = '{"symbols":["BTCUSDT"],"assets":[{"asset":"BTC","marginBalance":"61.7"}]}'
    usd = {"USDT": D("793930579.315848"), "USDC": D("5.5")}

    assert read("/fapi/v1/insuranceBalance", group) == [InsuranceFundRead("m", {"BNBUSDT": usd, "BTCUSDT": usd})]
    assert read("/fapi/v1/insuranceBalance", f"[{group},5,{other}]") == [
        InsuranceFundRead("m", {"BNBUSDT": usd, "BTCUSDT": {**usd, "BTC": D("61.7")}})
    ]


@pytest.mark.parametrize(("venue", "path"), [(USDM, "/fapi/v1/fundingInfo"), (COINM, "/dapi/v1/fundingInfo")])
def test_only_adjusted_intervals_are_listed(venue: Venue, path: str) -> None:
    """An empty list is an answer: everything is funded every 8 hours."""
    body = (
        '[{"symbol":"BLZUSDT","adjustedFundingRateCap":"0.02500000","adjustedFundingRateFloor":"-0.02500000",'
        '"fundingIntervalHours":4,"disclaimer":false},{"symbol":"A","fundingIntervalHours":0},'
        '{"symbol":"B","fundingIntervalHours":8000},{"symbol":"C"}]'
    )

    assert read(path, body, venue) == [FundingTermsRead("m", {"BLZUSDT": 4})]
    assert read(path, "[]", venue) == [FundingTermsRead("m", {})]


FACTS = ("assetIndex", "symbolAdlRisk", "insuranceBalance", "fundingInfo", "adlQuantile")


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize(
    "body", ['{"code":-2015,"msg":"Invalid API-key"}', '[{"a":1},{"b":2}]', "5", "null", '"<html>"', "<html>", "[[]]"]
)
def test_an_answer_of_which_nothing_reads_is_refused(name: str, body: str) -> None:
    """An error body or another format must not pass for "there is nothing"."""
    with pytest.raises(DecodeError):
        read(f"/fapi/v1/{name}", body)


# ---- signs of a liquidation ----


@pytest.mark.parametrize("code", ['"5"', "5"])
@pytest.mark.parametrize("execution", ["EXPIRED", "CANCELED"])
def test_own_orders_that_a_liquidation_ends_are_told(code: str, execution: str) -> None:
    """They are the first that is seen of it."""
    frame = ORDER_FRAME.replace('"er":"5"', f'"er":{code}').replace('"x":"EXPIRED"', f'"x":"{execution}"')

    assert private(frame) == [OrdersCancelled("main", "BTCUSDT", 8886774, 1568879465650)]
    assert private(frame, COINM) == [OrdersCancelled("main", "BTCUSDT", 8886774, 1568879465650)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"er":"5"', '"er":"0"'),
        ('"er":"5"', '"er":"7"'),
        ('"er":"5"', '"er":null'),
        (',"er":"5"', ""),
        ('"x":"EXPIRED"', '"x":"NEW"'),
    ],
)
def test_orders_end_for_other_reasons_too(old: str, new: str) -> None:
    """A delisting, or nothing at all, is no liquidation."""
    assert private(ORDER_FRAME.replace(old, new)) == []


def test_the_liquidation_order_itself_is_no_own_order() -> None:
    """It is announced as what it is, once."""
    [event] = private(ORDER_FRAME.replace('"c":"TEST"', '"c":"autoclose-1568879465650"'))

    assert isinstance(event, Fill)


@pytest.mark.parametrize(("opcode", "liquidated"), [(8005, True), (8015, False)])
def test_a_strategy_that_ends_of_itself_is_told(opcode: int, liquidated: bool) -> None:
    """8005 is a liquidation; 8015 is one or an empty position, and does not say which."""
    expected = [StrategyEnded("main", "BTCUSDT", 176054594, liquidated, 1669261797627)]

    assert private(STRATEGY_FRAME.replace("8007", str(opcode))) == expected
    assert private(STRATEGY_FRAME.replace("8007", f'"{opcode}"')) == expected


def test_other_ends_of_a_strategy_are_its_owners() -> None:
    """A new grid order, a price out of bounds: nothing of risk."""
    assert private(STRATEGY_FRAME) == []


@pytest.mark.parametrize(
    "frame",
    [
        STRATEGY_FRAME.replace('"c":8007', '"c":"x"'),
        STRATEGY_FRAME.replace("8007", "8005").replace('"s":"BTCUSDT"', '"s":""'),
        STRATEGY_FRAME.replace('"su"', '"us"'),
        ORDER_FRAME.replace('"i":8886774', '"i":"many"'),
        ORDER_FRAME.replace('"s":"BTCUSDT"', '"s":null'),
    ],
)
def test_a_sign_that_misreads_is_refused(frame: str) -> None:
    """The feed then asks for the truth anew."""
    with pytest.raises(DecodeError):
        private(frame)


# ---- the wallet's host ----

PERMISSIONS = """{"ipRestrict":false,"createTime":1698645219000,"enableReading":true,"enableWithdrawals":%s,
"enableInternalTransfer":false,"enableMargin":false,"enableFutures":%s,"permitsUniversalTransfer":false,
"enableVanillaOptions":false,"enableFixApiTrade":false,"enableFixReadOnly":true,"enableSpotAndMarginTrading":false,
"enablePortfolioMarginTrading":%s}"""


@pytest.mark.parametrize("venue", [USDM, COINM], ids=lambda venue: venue.name)
def test_what_a_key_may_do_beside_reading_is_told_apart(venue: Venue) -> None:
    """To read is what it is for, by FIX too; the rest is to trade, or to move money away."""
    path = "/sapi/v1/account/apiRestrictions"

    assert read(path, PERMISSIONS % ("false", "false", "false"), venue) == [
        KeyPermissionsRead("main", (), (), ip_restricted=False, portfolio_margin=False)
    ]
    assert read(path, PERMISSIONS % ("true", "true", "true"), venue) == [
        KeyPermissionsRead(
            "main", ("enableFutures", "enablePortfolioMarginTrading"), ("enableWithdrawals",), False, True
        )
    ]


@pytest.mark.parametrize("body", ['{"enableFutures":true}', '{"ipRestrict":true,"enableFutures":"maybe"}', "[]", "{}"])
def test_permissions_that_misread_are_none(body: str) -> None:
    """Unknown must not look like read-only."""
    with pytest.raises(DecodeError):
        read("/sapi/v1/account/apiRestrictions", body)


def test_how_the_exchange_fares() -> None:
    """Zero is normal; whatever else it says is passed on."""
    path = "/sapi/v1/system/status"

    assert read(path, '{"status":0,"msg":"normal"}') == [ExchangeStatusRead("m", None)]
    assert read(path, '{"status":1,"msg":"system_maintenance"}') == [ExchangeStatusRead("m", "system_maintenance")]
    assert read(path, '{"status":2}') == [ExchangeStatusRead("m", "status 2")]


# ---- what is asked for ----


def test_what_a_start_costs_of_the_budget() -> None:
    """2400 a minute are for all accounts at one address; facts of the market are asked once for all of them."""

    def weight(venue: Venue) -> int:
        r = venue.requests
        start = (r.time, r.contracts, r.marks, *r.account, r.open_stream, *r.market_facts, *r.account_facts)
        return sum(r.weight for r in start if not r.path.startswith("/sapi/"))  # another host, another budget

    assert weight(USDM) == 41
    assert weight(COINM) <= 41


@pytest.mark.parametrize("venue", [USDM, COINM], ids=lambda venue: venue.name)
def test_every_answer_that_is_asked_for_can_be_read(venue: Venue) -> None:
    """A request without a reader would end the daemon the first time it is answered."""
    for request in asked(venue):
        with pytest.raises(DecodeError, match="in 5"):
            venue.decode_answer(request, b"5", "main", "m", 0)
