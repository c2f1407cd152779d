"""Panels of lines on logarithmic axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 30, 76
_COLOURS = ("#0b6e4f", "#c1440e", "#6a6a6a", "#5b8fb0")
_UNITS = ("1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s")
"""Of the powers of ten."""


def svg(panels: Mapping[str, Any]) -> str:
    """Two panels a row. Each has a `title`, `at` (its horizontal values) and `cpu_us` (line → values)."""
    rows = (len(panels) + 1) // 2
    size = f'width="{2 * _WIDTH}" height="{rows * _HEIGHT}" viewBox="0 0 {2 * _WIDTH} {rows * _HEIGHT}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    lines += ['<rect width="100%" height="100%" fill="#ffffff"/>']
    for i, panel in enumerate(panels.values()):
        lines += [f'<g transform="translate({i % 2 * _WIDTH},{i // 2 * _HEIGHT})">', *_panel(panel), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Mapping[str, Any]) -> Iterator[str]:
    every = [value for values in panel["cpu_us"].values() for value in values]
    least, most = max(0, math.floor(math.log10(min(every)))), math.ceil(math.log10(max(every)))
    first, last = math.log10(panel["at"][0]), math.log10(panel["at"][-1])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(value: float) -> float:
        return round(_LEFT + (math.log10(value) - first) / (last - first) * (right - _LEFT), 1)

    def up(value: float) -> float:
        return round(bottom - (math.log10(value) - least) / (most - least) * (bottom - _TOP), 1)

    yield f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(panel["title"])}</text>'
    for power in range(least, most + 1):
        at = up(10.0**power)
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{_UNITS[power]}</text>'
    for value in panel["at"]:
        yield f'<text x="{across(value)}" y="{bottom + 15}" text-anchor="middle">{value:,}</text>'
    for n, (name, values) in enumerate(panel["cpu_us"].items()):
        colour = _COLOURS[n]
        points = " ".join(f"{across(x)},{up(y)}" for x, y in zip(panel["at"], values, strict=True))
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for point in points.split():
            x, y = point.split(",")
            yield f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
        left, base = _LEFT + n % 2 * 170, bottom + 34 + n // 2 * 16
        yield f'<rect x="{left}" y="{base - 8}" width="12" height="4" fill="{colour}"/>'
        yield f'<text x="{left + 17}" y="{base}">{escape(name)}</text>'
