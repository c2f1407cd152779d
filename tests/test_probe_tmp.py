import asyncio, time, json
from tests.rig import *
from tests import stories
async def test_flap(broker, listener, tmp_path):
    links = dict(tick_s=0.1, connect_timeout_s=1, first_frame_s=1, ping_interval_s=.3, ping_timeout_s=.3, close_timeout_s=.2, backoff_min_s=.05, backoff_max_s=3, reconcile_s=3, rest_timeout_s=1)
    rules = {"data_stale": {"stale_after_s": .5, "clear_for_s": .3, "rest_patience_s": 9, "steps":[{"at":1.5,"clear":.4,"severity":"warning"},{"at":6,"clear":.4,"severity":"critical"}]}}
    async with stories.exchange() as exchange, watching(write_config(tmp_path/"d", exchange, broker.port, links=links, rules=rules)) as log:
        await agreement(exchange, listener, "main")
        exchange.fault(mute_market=True)
        await asyncio.sleep(14)
        exchange.fault(mute_market=False)
        await agreement(exchange, listener, "main")
        print([ (e["at"][14:], e["event"], e["severity"]) for e in listener.events("data_stale")])
        print([ l[:160] for l in log.getvalue().splitlines() if "link" in l])
async def test_times(lasting_broker, tmp_path):
    links = dict(tick_s=1, connect_timeout_s=10, first_frame_s=10, ping_interval_s=3, ping_timeout_s=3, close_timeout_s=1, backoff_min_s=.5, backoff_max_s=30, keepalive_s=720, reconcile_s=30, refresh_s=3600, clock_s=600, rest_timeout_s=10, weight_per_minute=1200)
    rules = {"data_stale": {"stale_after_s": 5, "clear_for_s": 3, "rest_patience_s": 90, "steps":[{"at":15,"clear":4,"severity":"warning"},{"at":60,"clear":4,"severity":"critical"}]}}
    async with stories.exchange(tick_s=1.0) as exchange, Listener(lasting_broker.port) as listener, watching(write_config(tmp_path/"d", exchange, lasting_broker.port, links=links, rules=rules, mqtt=dict(timeout_s=5, reconnect_max_s=30, keepalive_s=15))) as log:
        await agreement(exchange, listener, "main")
        for price, kind in (("53000","opened"),("50500","worsened"),("49100","worsened"),("60000","resolved")):
            t=time.monotonic(); n=len(listener.events("liquidation_distance")); exchange.set_mark("BTCUSDT", price); exchange.pulse()
            if kind=="resolved": break
            await until(lambda: len(listener.events("liquidation_distance"))>n, kind)
            print("mark to listener's hand", kind, round((listener.heard and [h for h in listener.heard if "/event/" in h.topic][-1].at - t)*1000,2), "ms")
        def count(s): return log.getvalue().count(s)
        async def measure(name, begin, seen, end=None):
            t=time.monotonic(); n=count(seen); live=count('"link live"'); r=begin()
            if asyncio.iscoroutine(r): await r
            await until(lambda: count(seen)>n, seen, 60); noticed=time.monotonic()-t
            t=time.monotonic()
            if end:
                r=end()
                if asyncio.iscoroutine(r): await r
            await until(lambda: count('"link live"')>live, "live", 60)
            await agreement(exchange, listener, "main", within_s=60)
            print(f"{name}: noticed {noticed:.2f}s, recovered {time.monotonic()-t:.2f}s after the end")
        await measure("market dropped", lambda: exchange.drop("market"), '"link down"')
        await measure("private dropped", lambda: exchange.drop("private"), '"link down"')
        await measure("private half-open", lambda: exchange.fault(half_open_private=True), '"link down"', lambda: exchange.fault(half_open_private=False))
        await measure("market half-open", lambda: exchange.fault(half_open_market=True), '"link down"', lambda: exchange.fault(half_open_market=False))
        await measure("market mute", lambda: exchange.fault(mute_market=True), '"link down"', lambda: exchange.fault(mute_market=False))
        await measure("key expired", lambda: exchange.expire_listen_key("main"), '"link down"')
        await measure("exchange killed", exchange.kill, '"link down"', exchange.start)
        for name, b, e in (("broker killed", lasting_broker.kill, lasting_broker.start), ("broker frozen", lasting_broker.freeze, lasting_broker.thaw)):
            t=time.monotonic(); n=count("broker lost"); b()
            await until(lambda: count("broker lost")>n, "lost", 60); d=time.monotonic()-t
            t=time.monotonic(); c=count("broker connected"); r=e()
            if asyncio.iscoroutine(r): await r
            await until(lambda: count("broker connected")>c, "conn", 60)
            await agreement(exchange, listener, "main", within_s=60)
            print(f"{name}: noticed {d:.2f}s recovered {time.monotonic()-t:.2f}")
