"""What to do about an answer of Binance that is an error.

Source: Binance's documentation of error codes, and what its hosts answer in practice.
"""

from __future__ import annotations

_BY_CODE = {
    -1016: "the exchange is in maintenance: try again later",
    -1021: "this machine's clock is wrong: let it be synchronised (sudo timedatectl set-ntp true)",
    -1022: "the secret does not belong to the key: copy both once more; the secret is shown only when a key is made",
    -1109: "the account does not exist any more, or not yet: open the futures account",
    -2014: "this is no API key: copy it once more; key and secret may have changed places",
    -2015: "one of four: the key does not exist (deleted, or of another environment), it is bound to other addresses"
    " than this machine's, it was made before the futures account was opened (then make a new one), or the account is"
    " in portfolio margin mode, which is not supported",
    -4109: "the account is archived: transfer any amount to it",
}
_BY_STATUS = {
    401: "the key is refused: copy it once more, and see what it is bound to",
    403: "the exchange's firewall refuses this address: a country that it does not serve, a VPN or hosting network, or"
    " too many requests; check from the machine that the daemon will run on",
    404: "there is no such path: the address must be the base alone, without /fapi or /dapi, and of this venue",
    418: "this address is banned for a while: stop what else asks from here, and wait",
    429: "too many requests came from this address: stop what else asks from here, and wait",
    451: "the exchange does not serve the country of this address: run it where it does",
}
_OVERLOADED = "the exchange is overloaded or in maintenance: try again later"


def remedy(status: int | None, code: int | None) -> str:
    """What to do; empty where nothing is known.

    Args:
        status: Of HTTP; None: there was no answer.
        code: Of the exchange; None: the body had none.
    """
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status is not None and status >= 500:
        return _OVERLOADED
    return _BY_STATUS.get(status or 0, "")
