"""Charts as inline SVG strings: pure functions of numbers, no outside resource, no script.

Colour comes from the page: a mark of style "sft" has the class `m-sft`, whose `color` the page sets for light
and dark. Every chart is 340 units wide and shown no smaller, so that its 12-unit text never falls below 12
pixels. Its <title> names it for those who cannot see it; marks have titles of their own with their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340.0
TEXT = 12
LETTER = 6.7
"""Mean width of a letter at the text size: enough to place labels without measuring them."""
DIGIT = 8.4
"""Width of a digit in a wide face: what must not be cut off is given that much."""
MOST_POINTS = 200
"""Longer lines are averaged down to so many points."""

Point = tuple[float, float]
Form = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `low` and `high` are the ends of its interval, None where there is none."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    style: str = "plain"
    shown: str = ""
    """The number as text, with its interval."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line; with `marks` its points are drawn as dots."""

    label: str
    points: Sequence[Point]
    style: str = "plain"
    marks: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """A point of a trajectory: where on the shared axis, its height in both panels, and its label."""

    x: float
    upper: float
    lower: float
    label: str


@dataclass(frozen=True, slots=True)
class Trail:
    """A trajectory through both panels."""

    label: str
    stops: Sequence[Stop]
    style: str = "plain"


@dataclass(frozen=True, slots=True)
class Claim:
    """One point of a reliability diagram: a claimed chance, how often it came true, its interval, its
    pairs."""

    claimed: float
    found: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Axis:
    """Data from low to high on pixels from start to end; `form` writes its ticks, which may be whole numbers only."""

    low: float
    high: float
    start: float
    end: float
    form: Form = "{:g}".format
    whole: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value, kept within the axis."""
        span = self.high - self.low
        share = (min(max(value, self.low), self.high) - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values within the axis."""
        return [t for t in ticks(self.low, self.high, count) if not self.whole or t == round(t)]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) from low to high; just low where they are equal."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def bars(
    title: str,
    rows: Sequence[Bar],
    *,
    low: float = 0.0,
    high: float | None = None,
    form: Form = "{:g}".format,
    grid: int = 4,
    reference: float | None = None,
    reference_label: str = "",
) -> str:
    """Horizontal bars from zero (or `low`) with intervals as whiskers, about `grid` ticks, a dashed reference
    line."""
    ends = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    least, most = min([low, *ends]), max([*ends, low]) if high is None else high
    air = 0.08 * (most - least) or 1.0
    first, last = least if least == low else least - air, most if high is not None else most + air
    axis = Axis(first, last, 8, WIDTH - 12, form)
    head, row_height = (22 if reference is not None else 6), 42
    bottom = head + row_height * len(rows)
    parts = [_grid_x(axis, head, bottom, count=grid)]
    parts += [_bar(row, axis, max(low, 0.0), head + i * row_height) for i, row in enumerate(rows)]
    if reference is not None:
        x = axis.at(reference)
        parts.append(_line(x, head - 4, x, bottom, "reference"))
        anchor = "middle" if 90 < x < WIDTH - 90 else ("start" if x <= 90 else "end")
        parts.append(_text(x, 13, reference_label, anchor, "quiet"))
    for i, row in enumerate(rows):
        y = head + i * row_height + 16
        parts.append(_text(8, y, row.label, css="halo") + _text(WIDTH - 12, y, row.shown, "end", "strong halo"))
    return _svg(title, bottom + 24, parts)


def _bar(row: Bar, axis: Axis, zero: float, top: float) -> str:
    start, end = sorted((axis.at(zero), axis.at(row.value)))
    middle = top + 29
    parts = [f"<title>{escape(f'{row.label}: {row.shown}')}</title>"]
    size = f'width="{max(1.0, end - start):.1f}" height="14"'
    parts.append(f'<rect x="{start:.1f}" y="{top + 22:.1f}" {size} rx="2"/>')
    if row.low is not None and row.high is not None:
        left, right = axis.at(row.low), axis.at(row.high)
        parts.append(_line(left, middle, right, middle, "whisker"))
        parts += [_line(x, middle - 5, x, middle + 5, "whisker") for x in (left, right)]
    return f'<g class="m-{escape(row.style)}">{"".join(parts)}</g>'


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    form: Form = "{:g}".format,
    reference: float | None = None,
    reference_label: str = "",
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Lines over a common axis, a legend above, a dashed reference line. Points that are no number are left
    out."""
    shown = [Series(s.label, thinned(_finite(s.points)), s.style, s.marks) for s in series]
    shown = [s for s in shown if s.points]
    legend, head = _legend([(s.label, s.style) for s in shown])
    xs = [x for s in shown for x, _ in s.points] or [0.0]
    ys = [y for s in shown for _, y in s.points] + ([] if reference is None else [reference])
    bottom = head + 140
    up = _padded(ys or [0.0], low, high, bottom, head + 8, form)
    widest = max(len(up.form(tick)) for tick in up.ticks())
    whole = all(x == round(x) for x in xs)  # there is no step 0.2
    across = Axis(min(xs), max(xs), max(48, DIGIT * widest + 8), WIDTH - 12, whole=whole)
    parts = [legend, _grid_x(across, head + 8, bottom), _grid_y(up, across), _axis_label(x_label, bottom)]
    if reference is not None:
        parts.append(_line(across.start, up.at(reference), across.end, up.at(reference), "reference"))
        parts.append(_text(across.end, up.at(reference) - 4, reference_label, "end", "quiet halo"))
    parts += [_curve(s, across, up) for s in shown]
    return _svg(title, bottom + 36, parts)


def _curve(series: Series, across: Axis, up: Axis) -> str:
    pixels = [(across.at(x), up.at(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    drawn = f'<polyline class="line" points="{path}"/>'
    if series.marks or len(pixels) == 1:
        drawn += "".join(
            _mark(series.style, px, py, f"{series.label}, {x:g}: {y:.4g}")
            for (px, py), (x, y) in zip(pixels, series.points, strict=True)
        )
    return f'<g class="m-{escape(series.style)}">{drawn}</g>'


def trails(title: str, series: Sequence[Trail], *, x_label: str, upper: str, lower: str) -> str:
    """Two panels, one above the other, over one shared axis: the same trajectories in two measures."""
    legend, head = _legend([(t.label, t.style) for t in series])
    stops = [s for t in series for s in t.stops]
    across = Axis(min([0.0, *(s.x for s in stops)]), max([1e-9, *(s.x for s in stops)]) * 1.04, 48, WIDTH - 16)
    height, gap = 150, 30
    parts = [legend]
    for place, (name, pick) in enumerate(((upper, _upper), (lower, _lower))):
        top = head + 22 + place * (height + gap)
        up = _padded([pick(s) for s in stops] or [0.0], None, None, top + height, top, "{:g}".format)
        parts += [
            _text(across.start, top - 8, name, css="strong"),
            _grid_x(across, top, top + height, numbers=place == 1),
        ]
        taken: list[tuple[float, float, str]] = []
        parts += [_grid_y(up, across), *(_trail(t, pick, across, up, taken) for t in series)]
    bottom = head + 22 + 2 * height + gap
    return _svg(title, bottom + 36, [*parts, _axis_label(x_label, bottom)])


def _upper(stop: Stop) -> float:
    return stop.upper


def _lower(stop: Stop) -> float:
    return stop.lower


def _trail(
    trail: Trail, pick: Callable[[Stop], float], across: Axis, up: Axis, taken: list[tuple[float, float, str]]
) -> str:
    """One trajectory in one panel; a label that would cover another, of any trajectory, is left out."""
    pixels = [(across.at(s.x), up.at(pick(s))) for s in trail.stops]
    parts = ['<polyline class="line" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels) + '"/>']
    for (x, y), stop in zip(pixels, trail.stops, strict=True):
        parts.append(_mark(trail.style, x, y, f"{trail.label}, {stop.label}: {stop.x:.2f}, {pick(stop):.3f}"))
        if any(abs(x - a) < 12 and abs(y - b) < 18 and label == stop.label for a, b, label in taken):
            continue
        for spot in (y - 8, y + 17):
            clash = any(abs(x - a) < 20 and abs(spot - b) < 14 for a, b, _ in taken)
            if not clash and up.end + 4 < spot < up.start:
                taken.append((x, spot, stop.label))
                parts.append(_text(x, spot, stop.label, "middle", "halo"))
                break
    return f'<g class="m-{escape(trail.style)}">{"".join(parts)}</g>'


def _mark(style: str, x: float, y: float, note: str = "") -> str:
    """A dot; a square or a diamond for the styles that must be told from it without colour."""
    inner = f"<title>{escape(note)}</title>" if note else ""
    if style in ("ppo", "prompted"):
        turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if style == "prompted" else ""
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"{turn}>{inner}</rect>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4">{inner}</circle>'


def reliability(title: str, claims: Sequence[Claim], *, style: str = "plain", x_label: str, y_label: str) -> str:
    """How often something came true against how sure the claim was. The diagonal is perfect; dots grow with
    their pairs."""
    head, bottom = 26.0, 226.0
    across = Axis(0.5, 1.0, 48, WIDTH - 16, "{:.0%}".format)
    least = min([0.5, *(c.low for c in claims)])
    up = Axis(math.floor(least * 10) / 10, 1.0, bottom, head, "{:.0%}".format)
    parts = [_grid_x(across, head, bottom), _grid_y(up, across), _text(8, 14, y_label, css="quiet")]
    parts.append(_line(across.at(0.5), up.at(0.5), across.at(1), up.at(1), "reference"))
    most = max([1, *(c.n for c in claims)])
    for claim in claims:
        x, y = across.at(claim.claimed), up.at(claim.found)
        ends = f"[{claim.low:.0%}, {claim.high:.0%}]"
        note = f"claimed {claim.claimed:.0%}, found {claim.found:.0%} {ends}, {claim.n} pairs"
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 5 * math.sqrt(claim.n / most):.1f}"/>'
        whisker = _line(x, up.at(claim.low), x, up.at(claim.high), "whisker")
        parts.append(f'<g class="m-{escape(style)}"><title>{escape(note)}</title>{dot}{whisker}</g>')
    return _svg(title, bottom + 36, [*parts, _axis_label(x_label, bottom)])


def histograms(title: str, series: Sequence[Series], *, x_label: str, bins: int = 24) -> str:
    """One row per series, all over one axis and to one height scale; only the x of the points counts."""
    values = [[x for x, _ in _finite(s.points)] for s in series]
    every = [x for row in values for x in row] or [0.0, 1.0]
    low, high = min(every), max(every)
    high = high if high > low else low + 1
    across = Axis(low, high, 12, WIDTH - 12)
    shares = [_shares(row, low, high, bins) for row in values]
    peak = max([1e-9, *(s for row in shares for s in row)])
    height, parts = 58, []
    bottom = float(height * len(series) + 6)
    parts.append(_grid_x(across, 4, bottom))
    width = (across.end - across.start) / bins
    for i, (one, row, found) in enumerate(zip(series, values, shares, strict=True)):
        base = height * (i + 1)
        steps = [
            f'<rect x="{across.start + n * width:.1f}" y="{base - tall:.1f}" width="{width - 1:.1f}" '
            f'height="{tall:.1f}"><title>{share:.0%} of {len(row)}</title></rect>'
            for n, share in enumerate(found)
            if (tall := 34 * share / peak)
        ]
        centre = sum(row) / len(row) if row else low
        mark = _line(across.at(centre), base - 36, across.at(centre), base, "whisker")
        text = _text(12, base - 40, f"{one.label}: mean {centre:+z.2f}, n = {len(row)}", css="halo")
        parts.append(f'<g class="m-{escape(one.style)}">{"".join(steps)}{mark if row else ""}{text}</g>')
    return _svg(title, bottom + 36, [*parts, _axis_label(x_label, bottom)])


def _shares(values: Sequence[float], low: float, high: float, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    return [count / max(1, len(values)) for count in counts]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: neighbours are averaged, so that a long line keeps its shape, not its noise."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _padded(
    values: Sequence[float], low: float | None, high: float | None, start: float, end: float, form: Form
) -> Axis:
    """An axis that leaves some air around the values, save where `low` or `high` fixes its end."""
    least, most = min(values), max(values)
    air = 0.12 * (most - least) or 0.1 * abs(most) or 0.5
    bottom, top = (
        least - air if low is None else min(low, least),
        most + air if high is None else max(high, most),
    )
    return Axis(bottom, top, start, end, form)


def _legend(entries: Sequence[tuple[str, str]]) -> tuple[str, float]:
    """The legend's markup and the height it takes; nothing for a single entry without a name."""
    named = [(label, style) for label, style in entries if label]
    if not named:
        return "", 0.0
    parts, x, y = [], 8.0, 14.0
    for label, style in named:
        width = 30 + LETTER * len(label)
        if x > 8 and x + width > WIDTH:
            x, y = 8.0, y + 18
        line = f'<polyline class="line" points="{x:.1f},{y - 4:.1f} {x + 18:.1f},{y - 4:.1f}"/>'
        parts.append(f'<g class="m-{escape(style)}">{line}{_mark(style, x + 9, y - 4)}{_text(x + 23, y, label)}</g>')
        x += width + 8
    return "".join(parts), y + 8


def _grid_x(axis: Axis, top: float, bottom: float, *, numbers: bool = True, count: int = 4) -> str:
    parts = []
    for tick in axis.ticks(count):
        x, label = axis.at(tick), axis.form(tick)
        parts.append(_line(x, top, x, bottom, "grid"))
        half = LETTER * len(label) / 2
        anchor = "start" if x - half < 2 else "end" if x + half > WIDTH - 2 else "middle"
        parts.append(_text(x, bottom + 15, label, anchor, "quiet") if numbers else "")
    return "".join(parts)


def _grid_y(axis: Axis, across: Axis) -> str:
    parts = []
    for tick in axis.ticks():
        y = axis.at(tick)
        parts.append(_line(across.start, y, across.end, y, "grid"))
        parts.append(_text(across.start - 6, y + 4, axis.form(tick), "end", "quiet"))
    return "".join(parts)


def _axis_label(label: str, bottom: float) -> str:
    return _text(WIDTH - 12, bottom + 31, label, "end", "quiet")


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    named = f' class="{css}"' if css else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}" height="{height:g}"'
    name = escape(title)
    return (
        f'<svg class="chart" role="img" aria-label="{name}" {box} font-size="{TEXT}"><title>{name}</title>'
        + "".join(parts)
        + "</svg>"
    )
