"""The parts of pictures that all of them share.

The text of an SVG file is built by hand: it depends on nothing, and is the same every time.
"""

import math
from collections.abc import Iterable, Iterator
from colorsys import hls_to_rgb
from html import escape

PALETTE = (
    "#3f6fd8", "#f07f1e", "#35a35a", "#d93a6a", "#8a5bd1", "#11a3ad", "#a0694a", "#c79a00",
)  # fmt: skip
INK, SOFT, FAINT, EMPTY, PAPER = "#1c2330", "#5f697d", "#d5dae3", "#f7f8fa", "#ffffff"
DARK = {INK: "#e9ecf1", SOFT: "#a3adbd", FAINT: "#3d4655", EMPTY: "#20262f", PAPER: "#14181f"}
"""What takes the place of a colour on a dark page; a viewer that knows no media query shows the
light picture."""

HATCHES = (
    "", "M-1 9L9 -1M-1 1L1 -1M7 9L9 7", "M0 4h8", "M-1 -1L9 9M7 -1L9 1M-1 7L1 9", "M4 0v8",
    "M0 4h8M4 0v8", "M0 2h4M4 6h4", "M-1 9L9 -1M-1 -1L9 9",
)  # fmt: skip
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
MARGIN = 28


def colour(rank: int) -> str:
    """Each of the first eight ranks has its own; further ones go round the colour circle."""
    if rank < len(PALETTE):
        return PALETTE[rank]
    hue, light, saturation = (
        rank * 137.508 % 360 / 360,
        0.42 + rank % 2 * 0.12,
        0.5 + rank % 3 * 0.12,
    )
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, light, saturation))


def document(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """The text of an SVG file of this size in pixels."""
    w, h = number(width), number(height)
    lines = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
        f'viewBox="0 0 {w} {h}" font-family="{FONT}">',
        f"<title>{escape(title, quote=False)}</title>",
        f"<style>@media(prefers-color-scheme:dark){{{dark_rules()}}}</style>",
        f'<rect width="{w}" height="{h}" fill="{PAPER}"/>',
        *parts,
        "</svg>",
    )
    return "\n".join(lines) + "\n"


def dark_rules() -> str:
    """Rules that repaint what is painted in a colour of DARK."""
    return "".join(
        f'[{what}="{light}"]{{{what}:{dark}}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )


def hatch(name: str, colour: str, number: int) -> str:
    """A pattern for `fill="url(#name)"`: the colour, and a hatch so that it is not told by that
    alone; the first of eight has none."""
    return (
        f'<pattern id="{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<path d="M0 0h8v8h-8z" fill="{colour}"/>'
        f'<path d="{HATCHES[number % len(HATCHES)]}" stroke="{ink_on(colour)}" '
        'stroke-opacity=".22"/></pattern>'
    )


def labels(size: int, texts: Iterable[tuple[float, float, str, str]]) -> Iterator[str]:
    """Words around many places, from (x, y, words, colour); those of a colour together."""
    groups: dict[str, list[str]] = {}
    for x, y, words, fill in texts:
        written = f'<text x="{number(x)}" y="{number(y)}">{escape(words, quote=False)}</text>'
        groups.setdefault(fill, []).append(written)
    for fill, group in groups.items():
        yield f'<g font-size="{size}" text-anchor="middle" fill="{fill}">{"".join(group)}</g>'


def box(x: float, y: float, width: float, height: float) -> str:
    """A rectangle in the data of a path."""
    across = number(width)
    return f"M{point(x, y)}h{across}v{number(height)}h-{across}z"


def round_step(least: float) -> float:
    """Between the ticks of an axis: the smallest of 1, 2 and 5 times a power of ten that is no
    less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour #rrggbb, on any page."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2  # as in WCAG 2
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def headings(title: str, facts: Iterable[str]) -> tuple[str, str]:
    """The title of a picture and, below it, the facts in a row."""
    row = text(MARGIN, 65, " \u00b7 ".join(facts), size=13, fill=SOFT)
    return text(MARGIN, 42, title, size=20, weight=600), row


def text(
    x: float, y: float, words: str, *, size: int, fill: str = INK, weight: int = 400, at: str = ""
) -> str:
    """Words at a place; `at`: "middle" or "end" of them instead of their start."""
    anchor = f' text-anchor="{at}"' if at else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}"{anchor}>{escape(words, quote=False)}</text>'
    )


def counted(count: int, noun: str, ending: str = "s") -> str:
    """1 rank, 2 ranks."""
    return f"{count} {noun}" + ("" if count == 1 else ending)


def number(value: float) -> str:
    """As short as it can be, with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def point(x: float, y: float) -> str:
    """A place in the data of a path."""
    return f"{number(x)} {number(y)}"
