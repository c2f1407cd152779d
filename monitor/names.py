"""How names of the exchange become ids of ours."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)  # every symbol is asked for again and again, and there are some hundreds
def slug(name: str) -> str:
    """An exchange's name as a lower-case id of `[a-z0-9-]`, fit for a topic.

    ASCII letters and digits are kept in lower case, a hyphen is kept, any other character becomes the hexadecimal of
    its code point: `BTCUSDT` → `btcusdt`, `BTCUSD_PERP` → `btcusd5fperp`.
    """
    return "".join(c.lower() if c.isascii() and (c.isalnum() or c == "-") else f"{ord(c):x}" for c in name)
