"""marginwatch: a live position risk monitor for crypto futures.

One price from socket to alert: `venues/` turns bytes into events, `book.py` keeps what the exchange last said,
`risk/` computes the numbers, `rules.py` and `incidents.py` decide what is told, `core.py` is all of that as one
function, `messages.py` gives it topics and payloads, `shell/` carries it to the broker.
"""

__version__ = "0.1.0"
