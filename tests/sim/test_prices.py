"""Price files as a market that moves."""

from decimal import Decimal
from pathlib import Path

from monitor.sim import Exchange, Scenario
from monitor.sim.prices import read_marks, steps
from tests.sim.wire import frames, stream

D = Decimal

PRICES = """\
t_ms,utc,open,high,low,close,volume
1000000,x,60000,60500,59000,59500,1
1400000,x,59500,61000,59400,60800,1
"""
FUNDING = """\
t_ms,utc,fundingRate
900000,x,9
1400000,x,1e-4
9900000,x,9
"""


def files(folder: Path) -> tuple[Path, Path]:
    """A price file of two rows, and a funding file with one rate in its time."""
    prices, funding = folder / "prices.csv", folder / "funding.csv"
    prices.write_text(PRICES)
    funding.write_text(FUNDING)
    return prices, funding


def test_a_row_gives_four_marks_in_the_order_of_its_direction(tmp_path: Path) -> None:
    """A falling row goes over its high first, a rising one over its low."""
    prices, _ = files(tmp_path)

    assert read_marks(prices) == [
        (1_000_000, D(60000)),
        (1_100_000, D(60500)),
        (1_200_000, D(59000)),
        (1_300_000, D(59500)),
        (1_400_000, D(59500)),
        (1_500_000, D(59400)),
        (1_600_000, D(61000)),
        (1_700_000, D(60800)),
    ]


def test_funding_falls_into_its_place_and_only_within_the_prices(tmp_path: Path) -> None:
    """The files' time orders the steps."""
    prices, funding = files(tmp_path)

    played = list(steps({"BTCUSDT": prices, "ETHUSDT": prices}, {"BTCUSDT": funding}))

    assert len(played) == 8
    assert [(step.at_ms, step.funding) for step in played if step.funding] == [(1_400_000, {"BTCUSDT": D("0.0001")})]
    assert set(played[0].marks) == {"BTCUSDT", "ETHUSDT"}


async def test_playing_pushes_each_mark_at_the_time_of_now_and_settles_funding(tmp_path: Path) -> None:
    """0.5 × 59500 × 0.0001 = 2.975 in the middle."""
    prices, funding = files(tmp_path)
    exchange = Exchange(Scenario.named("calm"), tick_s=None)
    async with exchange, stream(exchange, "/market/ws/btcusdt@markPrice@1s") as socket:
        count = await exchange.play({"BTCUSDT": prices}, {"BTCUSDT": funding}, step_s=0)
        told = await frames(socket, 8)

    assert count == 8
    assert [D(f["p"]) for f in told] == [60000, 60500, 59000, 59500, 59500, 59400, 61000, 60800]
    assert all(abs(f["E"] - exchange.now_ms()) < 10_000 for f in told)
    assert exchange.accounts["main"].income[-1]["income"] == "-2.97500000"


async def test_a_play_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Also across a restart: the place is part of the state."""
    prices, _ = files(tmp_path)
    exchange = Exchange(Scenario.named("calm"), tick_s=None)

    assert await exchange.play({"BTCUSDT": prices}, step_s=0, limit=3) == 3
    assert exchange.market["BTCUSDT"].mark == 59000
    assert await exchange.play({"BTCUSDT": prices}, step_s=0) == 5
    assert exchange.market["BTCUSDT"].mark == 60800


async def test_a_path_ends_at_its_points() -> None:
    """A scripted move."""
    exchange = Exchange(Scenario.named("calm"), tick_s=None)

    await exchange.path("BTCUSDT", [(0.02, "59000"), (0.04, "61000")], every_s=0.005)

    assert exchange.market["BTCUSDT"].mark == 61000
