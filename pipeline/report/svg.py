"""SVG inside a page: elements, a linear scale and axes. ElementTree escapes every text."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from profiles.statistics import Interval

WIDTH = 400.0
"""Of a drawing, its own pixels: two fit side by side on a desktop, one on a phone."""
LEFT, RIGHT = 56.0, 388.0
"""Where the plot of a drawing begins and ends."""
LARGEST = 1e300
"""Beyond it the span of an axis overflows."""
LEAST_SPAN = 1e-9
TICKS = 5


@dataclass(frozen=True)
class Drawing:
    """A finished SVG, which templates that escape take as it is."""

    root: Element

    def __html__(self) -> str:
        return tostring(self.root, encoding="unicode")


@dataclass(frozen=True)
class Scale:
    """Figures from `low` to `high` on pixels from `start` to `end`; others end at the edges."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round figures, about five."""
        step = self._step()
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [k * step for k in range(first, last + 1)]

    def text(self, tick: float) -> str:
        """A tick with as many decimals as tell it from its neighbours."""
        decimals = max(0, -math.floor(math.log10(self._step())))
        return f"{tick:.{decimals}f}" if 1e-4 < self._step() < 1e6 else f"{tick:.4g}"

    def _step(self) -> float:
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        return min((n * power for n in (1, 2, 5, 10)), key=lambda step: abs(step - rough))


def scale_over(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale over all values that can be drawn, and some room on either side; 0 is a side."""
    shown = [value for value in values if drawable(value)] or [0.0, 1.0]
    low, high = min(shown), max(shown)
    size = max(abs(low), abs(high))
    room = margin * (high - low) if high - low > 1e-6 * size else 0.05 * size
    room = max(room, LEAST_SPAN)
    return Scale(0.0 if low == 0 else low - room, high + room, start, end)


def drawable(*values: float) -> bool:
    """Whether all are figures that an axis can hold."""
    return all(math.isfinite(value) and abs(value) < LARGEST for value in values)


def spread(places: Sequence[float], gap: float, end: float) -> list[float]:
    """The places moved apart to at least `gap`, none beyond `end`, in their given order."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    found = list(places)
    for before, after in itertools.pairwise(order):
        found[after] = max(found[after], found[before] + gap)
    limit = end
    for k in reversed(order):
        found[k] = min(found[k], limit)
        limit = found[k] - gap
    return found


def canvas(title: str, description: str, height: float, width: float = WIDTH) -> Element:
    """An empty drawing, told in words for those who cannot see it."""
    root = Element("svg", {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img"})
    add(root, "title", title)
    add(root, "desc", description)
    return root


def add(parent: Element, tag: str, text: str = "", **attributes: str | float) -> Element:
    """A new child; `kind` is its class, numbers are pixels."""
    child = SubElement(parent, tag)
    for name, value in attributes.items():
        name = "class" if name == "kind" else name.replace("_", "-")
        child.set(name, value if isinstance(value, str) else f"{value:.1f}")
    child.text = text or None
    return child


def line(parent: Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    """A straight line."""
    add(parent, "line", kind=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def box(parent: Element, kind: str, x: float, y: float, width: float, height: float) -> None:
    """A rectangle, at least half a pixel wide so that it is seen."""
    add(parent, "rect", kind=kind, x=x, y=y, width=max(width, 0.5), height=height)


def words(parent: Element, kind: str, x: float, y: float, text: str, anchor: str = "start") -> None:
    """A line of text that begins, has its middle or ends at `x`."""
    add(parent, "text", text, kind=kind, x=x, y=y, text_anchor=anchor)


def name_words(parent: Element, x: float, y: float, name: str, most: int) -> None:
    """A name that ends at `x`; of a longer one than `most` letters the end, which tells more."""
    short = name if len(name) <= most else f"…{name[1 - most :]}"
    label = add(parent, "text", short, kind="name", x=x, y=y, text_anchor="end")
    if short != name:
        add(label, "title", name)


def marker(parent: Element, shape: str, kind: str, x: float, y: float) -> None:
    """A circle, a diamond or a ring around (x, y): shapes tell apart what colours may not."""
    if shape == "diamond":
        path = f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
        add(parent, "path", kind=f"mark {kind}", d=path)
    else:
        hollow = " ring" if shape == "ring" else ""
        add(parent, "circle", kind=f"mark {kind}{hollow}", cx=x, cy=y, r=4.5)


def bar_across(parent: Element, kind: str, scale: Scale, found: Interval, y: float) -> None:
    """A figure's interval from left to right; none where there is no bound."""
    if not (math.isnan(found.lower) or math.isnan(found.upper)):
        line(parent, f"bar {kind}", scale(found.lower), y, scale(found.upper), y)


def bar_up(parent: Element, kind: str, scale: Scale, found: Interval, x: float) -> None:
    """The same from bottom to top."""
    if not (math.isnan(found.lower) or math.isnan(found.upper)):
        line(parent, f"bar {kind}", x, scale(found.lower), x, scale(found.upper))


def axis_across(parent: Element, scale: Scale, top: float, bottom: float, label: str) -> None:
    """Grid lines from `top` to `bottom`, their figures below, and what they are of."""
    for tick in scale.ticks():
        line(parent, "grid", scale(tick), top, scale(tick), bottom)
        words(parent, "tick", scale(tick), bottom + 15, scale.text(tick), "middle")
    line(parent, "axis", scale.start, bottom, scale.end, bottom)
    words(parent, "label", max(scale.start, scale.end), bottom + 32, label, "end")


def axis_up(parent: Element, scale: Scale, label: str) -> None:
    """Grid lines across the plot, their figures on the left, and above what they are of."""
    for tick in scale.ticks():
        line(parent, "grid", LEFT, scale(tick), RIGHT, scale(tick))
        words(parent, "tick", LEFT - 6, scale(tick) + 4, scale.text(tick), "end")
    words(parent, "label", 4, scale.end - 10, label)
