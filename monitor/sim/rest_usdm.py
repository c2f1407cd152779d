"""USDⓈ-M endpoints: /fapi."""

from collections.abc import Sequence

from monitor.sim import answers, listings, margin
from monitor.sim.account import Account, Row
from monitor.sim.endpoints import ApiError, Endpoint, Endpoints, Params, Printed, Table, known, own, printed
from monitor.sim.market import Bracket


class UsdmEndpoints(Endpoints):
    """What only USDⓈ-M has, or has in this shape."""

    market = "usdm"
    prefix = "/fapi"
    income_weight = 30
    _shown: Sequence[object] = ()
    _printed = Printed("[]")

    def own_rows(self) -> Table:
        """Versions 2 and 3 of the account, its configuration, and the market's listings."""
        e = self._engine
        mine = Endpoint  # most answers are about the asking account
        return {
            ("GET", "/v1/exchangeInfo"): mine(
                lambda a, p: listings.exchange_info(e.market, e.now_ms(), self._weight_limit()), 1, "none"
            ),
            ("GET", "/v1/premiumIndex"): mine(self._premium_index, 1, "none", 10),
            ("GET", "/v1/assetIndex"): mine(self._asset_index, 1, "none", 10),
            ("GET", "/v1/leverageBracket"): mine(self._brackets, 1),
            ("GET", "/v1/symbolAdlRisk"): mine(self._adl_risk, 1, "none"),
            ("GET", "/v1/insuranceBalance"): mine(self._insurance, 1, "none"),
            ("GET", "/v1/accountConfig"): mine(own(account_config), 5),
            ("GET", "/v1/symbolConfig"): mine(self._symbol_config, 5),
            ("GET", "/v1/multiAssetsMargin"): mine(own(lambda a: {"multiAssetsMargin": a.multi_assets}), 30),
            ("GET", "/v3/account"): mine(own(lambda a: answers.account_v3(e.book(a), e.market)), 5),
            ("GET", "/v2/account"): mine(own(lambda a: answers.account_v2(e.book(a), e.market)), 5),
            ("GET", "/v3/balance"): mine(own(lambda a: answers.balances(e.book(a), e.market)), 5),
            ("GET", "/v2/balance"): mine(own(lambda a: answers.balances(e.book(a), e.market)), 5),
            ("GET", "/v3/positionRisk"): mine(self._position_risk, 5),
            ("GET", "/v2/positionRisk"): mine(self._position_risk_v2, 5),
        }

    def _premium_index(self, account: Account | None, params: Params) -> object:
        rows = [listings.premium_index(c, self._engine.now_ms()) for c in self.contracts(params)]
        return rows[0] if "symbol" in params else rows

    def _asset_index(self, account: Account | None, params: Params) -> object:
        now = self._engine.now_ms()
        rows = [listings.asset_index(index, now) for index in self._engine.market.asset_indexes.values()]
        if "symbol" not in params:
            return rows
        found = [row for row in rows if row["symbol"] == params["symbol"]]
        if not found:
            raise ApiError(400, -1121, "Invalid symbol.")
        return found[0]

    def _brackets(self, account: Account | None, params: Params) -> object:
        tables = self._engine.market.brackets(self.market)
        if "symbol" not in params and not known(account).coefs:
            return self._all_brackets(account, tables)
        if "symbol" not in params:
            return [self._bracket_row(account, symbol, rows) for symbol, rows in tables.items()]
        if params["symbol"] not in tables:
            raise ApiError(400, -1121, "Invalid symbol.")
        row = self._bracket_row(account, params["symbol"], tables[params["symbol"]])
        return [row] if self._engine.faults.bracket_list else row

    def _all_brackets(self, account: Account | None, tables: dict[str, list[Bracket]]) -> Printed:
        """What every account without multipliers of its own is told, printed once for all of them."""
        shown = [(symbol, *brackets) for symbol, brackets in tables.items()]
        if shown != self._shown:
            rows = [self._bracket_row(account, symbol, brackets) for symbol, brackets in tables.items()]
            self._printed = printed(rows)
            self._shown = shown
        return self._printed

    def _bracket_row(self, account: Account | None, symbol: str, brackets: list[Bracket]) -> Row:
        return listings.leverage_bracket(symbol, *answers.printed_brackets(known(account), symbol, brackets))

    def _adl_risk(self, account: Account | None, params: Params) -> object:
        rows = [listings.adl_risk(contract, self._engine.now_ms()) for contract in self.contracts(params)]
        return rows[0] if "symbol" in params else rows

    def _insurance(self, account: Account | None, params: Params) -> object:
        wanted = {contract.symbol for contract in self.contracts(params)}
        groups = listings.insurance_groups(self._engine.market, self._engine.insurance, self._engine.now_ms())
        return next(g for g in groups if wanted & set(g["symbols"])) if "symbol" in params else groups

    def _symbol_config(self, account: Account | None, params: Params) -> object:
        return [answers.symbol_config(known(account), contract) for contract in self.contracts(params)]

    def _position_risk(self, account: Account | None, params: Params) -> object:
        book, wanted = self._engine.book(known(account)), {c.symbol for c in self.contracts(params)}
        return [
            answers.position_risk(book, position, self._engine.market)
            for position in book.shown_positions()
            if position.symbol in wanted
        ]

    def _position_risk_v2(self, account: Account | None, params: Params) -> object:
        book, wanted = self._engine.book(known(account)), {c.symbol for c in self.contracts(params)}
        return [
            answers.position_risk_v2(book, position, self._engine.market)
            for position in margin.every_position(book, self._engine.market)
            if position.symbol in wanted
        ]


def account_config(account: Account) -> Row:
    """/fapi/v1/accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": True,
        "dualSidePosition": account.hedge,
        "updateTime": 0,
        "multiAssetsMargin": account.multi_assets,
        "tradeGroupId": -1,
    }
