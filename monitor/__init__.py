"""marginwatch: a live position risk monitor for crypto futures.

One price from socket to alert: `venues/` turns bytes into events, `market.py` and `book.py` keep what the exchange last
said, `risk/` computes the numbers, `judges/` hold them against `rules.py`, `incidents.py` decides what is told of that
and `telling.py` how. `core.py` is all of it as one function. `encoder.py` gives what it says topics and payloads;
`shell/` brings the bytes, and carries the messages to the broker.
"""

__version__ = "0.1.0"
