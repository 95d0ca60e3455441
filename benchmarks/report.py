"""What was measured, as a table, as JSON and as a picture.  A ratio above 1 always means: Flow-Gate is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import median

from benchmarks.rows import US, Row


@dataclass
class Measured:
    """The numbers of one row, by target: one for each round that went well, and what went wrong in the others.

    :ivar cpu: seconds of CPU that the server used for each message, about: the time of the whole job, and what its rate
        makes in that time.
    """

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def median(self, target: str) -> float | None:
        values = self.values.get(target)
        return median(values) if values else None


def ratios(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Our median beside each peer's, by row and peer; a row without a comparison is left out.

    Whoever has run the row itself is compared by that, also where the others are by another row.
    """
    by_name = {one.row.name: one for one in measured}
    found: dict[str, dict[str, float]] = {}
    for one in measured:
        peers, ours = by_name.get(one.row.against or one.row.name, one), one.median(US)
        if not ours:
            continue
        for target in dict.fromkeys((*one.values, *peers.values)):
            theirs = one.median(target) or peers.median(target)
            if target != US and theirs:
                ratio = theirs / ours if one.row.less_is_better else ours / theirs
                found.setdefault(one.row.name, {})[target] = ratio
    return found


def cpu_table(measured: Sequence[Measured], targets: Sequence[str]) -> str:
    """The least microseconds of CPU for each message, and how many times as much as ours the others used."""
    lines = [["least CPU, µs each", *targets, *(f"÷ {US}" for name in targets if name != US)]]
    for one in measured:
        least = {name: min(one.cpu[name]) for name in targets if one.cpu.get(name)}
        cells = [number(least[name] * 1e6) if name in least else "–" for name in targets]
        ours = least.get(US)
        times = [number(least[name] / ours if ours and name in least else None) for name in targets if name != US]
        lines.append([one.row.title, *cells, *times])
    return _aligned(lines)


def number(value: float | None) -> str:
    """A number as people read it: three digits are enough."""
    if value is None:
        return "–"
    if abs(value) < 100:
        return f"{value:.3g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.0f}"


def table(measured: Sequence[Measured], targets: Sequence[str]) -> str:
    """The medians and the ratios, one line for each row, then what went wrong."""
    peers = [name for name in targets if name != US] if US in targets else []
    found = ratios(measured)
    lines = [["medians", *targets, *(f"× {peer}" for peer in peers)]]
    for one in measured:
        cells = ["error" if name in one.errors else number(one.median(name)) for name in targets]
        rates = [number(found.get(one.row.name, {}).get(peer)) for peer in peers]
        lines.append([f"{one.row.title}, {one.row.unit}", *cells, *rates])
    failed: dict[str, list[str]] = {}
    for one in measured:
        for name, errors in one.errors.items():
            for error in dict.fromkeys(errors):
                failed.setdefault(f"{name}: {error}", []).append(one.row.name)
    return _aligned(lines) + "".join(f"{error} ({', '.join(rows)})\n" for error, rows in failed.items())


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text) + "\n"


def document(measured: Sequence[Measured], about: Mapping[str, object]) -> dict[str, object]:
    """Everything, for a program: ``about`` and then the rows with each round's value."""
    found = ratios(measured)
    return {
        **about,
        "rows": [
            {
                "name": one.row.name,
                "title": one.row.title,
                "unit": one.row.unit,
                "less_is_better": one.row.less_is_better,
                "against": one.row.against,
                "values": one.values,
                "cpu": one.cpu,
                "medians": {target: one.median(target) for target in one.values},
                "ratios": found.get(one.row.name, {}),
                "errors": one.errors,
            }
            for one in measured
        ],
    }


_COLOURS = ("#1f6f8b", "#e07b39", "#5b8c5a", "#8d5a97")
_LABELS, _BARS, _BAR, _TOP = 380, 480, 13, 70


def picture(measured: Sequence[Measured], subtitle: str) -> str:
    """An SVG with a bar for each ratio, on a logarithmic scale around 1."""
    found = ratios(measured)
    rows = [one.row for one in measured if one.row.name in found]
    peers = sorted({peer for row in rows for peer in found[row.name]})
    every = [ratio for by_peer in found.values() for ratio in by_peer.values()]
    low = math.floor(math.log10(min([*every, 0.5])))
    high = math.ceil(math.log10(max([*every, 2.0])))

    def x(ratio: float) -> float:
        return _LABELS + _BARS * (math.log10(ratio) - low) / (high - low)

    step = _BAR * max(1, len(peers)) + 12
    width, bottom = _LABELS + _BARS + 60, _TOP + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 40}" font-family="sans-serif">',
        f'<rect width="{width}" height="{bottom + 40}" fill="white"/>',
        '<text x="16" y="26" font-size="17">Flow-Gate beside its peers: more than 1 is better</text>',
        f'<text x="16" y="46" font-size="11" fill="#555">{escape(subtitle)}</text>',
    ]
    for index, peer in enumerate(peers):
        left = _LABELS + index * 132
        parts.append(f'<rect x="{left}" y="52" width="11" height="11" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{left + 16}" y="62" font-size="12">ratio to {escape(peer)}</text>')
    for exponent in range(low, high + 1):
        at, bold = x(10.0**exponent), exponent == 0
        stroke = "#333" if bold else "#ccc"
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}" stroke="{stroke}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 18}" font-size="11" text-anchor="middle">{10.0**exponent:g}×</text>'
        )
    for line, row in enumerate(rows):
        top = _TOP + line * step + 6
        middle = top + _BAR * len(peers) / 2 + 4
        parts.append(
            f'<text x="{_LABELS - 12}" y="{middle:.1f}" font-size="12" text-anchor="end">{escape(row.title)}</text>'
        )
        for index, peer in enumerate(peers):
            ratio = found[row.name].get(peer)
            if ratio is None:
                continue
            start, end = sorted((x(1.0), x(ratio)))
            y, colour = top + index * _BAR, _COLOURS[index % len(_COLOURS)]
            parts.append(
                f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{_BAR - 2}" fill="{colour}"/>'
            )
            parts.append(f'<text x="{end + 4:.1f}" y="{y + _BAR - 4}" font-size="10">{number(ratio)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
