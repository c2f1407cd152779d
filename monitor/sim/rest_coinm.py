"""COIN-M endpoints: /dapi. There is no version 3, no multi-assets mode, and no symbol filter on positions."""

from monitor.sim import answers, coinm, margin
from monitor.sim.account import Account
from monitor.sim.endpoints import ApiError, Endpoint, Endpoints, Params, Table, known, own


class CoinmEndpoints(Endpoints):
    """What COIN-M has in a shape of its own."""

    market = "coinm"
    prefix = "/dapi"
    income_weight = 20

    def own_rows(self) -> Table:
        """The account in coin, brackets by quantity, and the market's listings."""
        e = self._engine
        return {
            ("GET", "/v1/exchangeInfo"): Endpoint(
                lambda a, p: coinm.exchange_info(e.market, e.now_ms(), self._weight_limit()), 1, "none"
            ),
            ("GET", "/v1/premiumIndex"): Endpoint(self._premium_index, 10, "none"),
            ("GET", "/v2/leverageBracket"): Endpoint(self._brackets, 1, "signed", 2),
            ("GET", "/v1/leverageBracket"): Endpoint(self._brackets_by_pair, 1),
            ("GET", "/v1/account"): Endpoint(
                own(lambda a: coinm.account(e.book(a), e.market, e.faults.coinm_extra_fields)), 5
            ),
            ("GET", "/v1/balance"): Endpoint(own(lambda a: coinm.balances(e.book(a), e.market)), 1),
            ("GET", "/v1/positionRisk"): Endpoint(self._position_risk, 1),
        }

    def _premium_index(self, account: Account | None, params: Params) -> object:
        """Always an array."""
        pair = params.get("pair")
        found = [c for c in self.contracts(params) if pair in (None, c.pair)]
        if not found:
            raise ApiError(400, -1121, "Invalid symbol.")
        return [coinm.mark_row(contract, self._engine.now_ms()) for contract in found]

    def _brackets(self, account: Account | None, params: Params) -> object:
        tables = self._engine.market.brackets(self.market)
        key = self._engine.faults.bracket_floor_key
        rows = {}
        for name, brackets in tables.items():
            shown, extra = answers.printed_brackets(known(account), name, brackets)
            rows[name] = {"symbol": name, **extra, "brackets": coinm.bracket_rows(shown, key)}
        if "symbol" not in params:
            return list(rows.values())
        if params["symbol"] not in rows:
            raise ApiError(400, -1121, "Invalid symbol.")
        row = rows[params["symbol"]]
        return [row] if self._engine.faults.bracket_list else row

    def _brackets_by_pair(self, account: Account | None, params: Params) -> object:
        """Of each pair, those of the first contract listed: which one is not said, so that version 2 is better."""
        key = self._engine.faults.bracket_floor_key
        tables: dict[str, object] = {}
        for contract in self._engine.market.of(self.market):
            if params.get("pair", contract.pair) == contract.pair:
                tables.setdefault(contract.pair, coinm.bracket_rows(contract.brackets, key))
        return [{"pair": pair, "brackets": rows} for pair, rows in tables.items()]

    def _position_risk(self, account: Account | None, params: Params) -> object:
        """Every symbol, flat ones too; marginAsset and pair narrow it, and a symbol is not looked at."""
        engine = self._engine
        book = engine.book(known(account))
        wanted = {
            contract.symbol
            for contract in engine.market.of(self.market)
            if params.get("pair", contract.pair) == contract.pair
            and params.get("marginAsset", contract.margin_asset) == contract.margin_asset
        }
        return [
            coinm.position_risk(book, position, engine.market, engine.faults.coinm_extra_fields)
            for position in margin.every_position(book, engine.market)
            if position.symbol in wanted
        ]
