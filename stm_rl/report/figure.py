"""Figures of a report: SVG inside the page, in its colours, light or dark; PNG on their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

INK, FAINT = "#1b1f24", "#8a9099"
COLOURS = {
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "amber": "#e69f00",
    "grey": "#767c85",
}
"""Okabe and Ito's colours, which colour-blind readers tell apart; the page has lighter ones on dark ground."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
HATCHES = ("", "///", "\\\\\\", "xxx", "---", "|||", "++")
STYLES = tuple(zip(COLOURS.values(), LINES, MARKERS, HATCHES, strict=True))
"""Colour, line, marker and hatch of the first, second ... thing in a figure; no two share any of them."""

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of agents may hold a $
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


@dataclass(slots=True)
class Figure:
    """A figure that is drawn.

    Attributes:
        name: Names its PNG file, such as ``learning-1``.
        caption: What it shows, in a sentence or two.
        canvas: What it is drawn on.
        titles: Texts shown on hover, by the ``gid`` of what they belong to.
    """

    name: str
    caption: str
    canvas: Canvas
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Its width in CSS pixels at which its text is as large as that of the page."""
        return round(self.canvas.get_figwidth() * 96)

    def svg(self) -> str:
        """Return it as an SVG element whose colours are those of the page."""
        out = StringIO()
        with mpl.rc_context({**_RC, "svg.hashsalt": self.name}):
            self.canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'(id="|xlink:href="#|url\(#)', lambda found: f"{found[0]}{self.name}-", text)
        for gid, title in self.titles.items():
            tag = f'<g id="{self.name}-{gid}">'
            text = text.replace(tag, f"{tag}<title>{escape(title)}</title>", 1)
        for name, colour in {"ink": INK, "faint": FAINT, **COLOURS}.items():
            text = text.replace(colour, f"var(--{name})")
        label = f'<svg role="img" aria-label="{escape(self.caption)}" '
        return re.sub(r"<svg ", lambda _: label, text, count=1)

    def save(self, path: Path) -> None:
        """Write it as PNG."""
        out = BytesIO()
        with mpl.rc_context(_RC):
            self.canvas.savefig(out, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        path.write_bytes(out.getvalue())


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Canvas, Any]]:
    """Give a canvas of this size in inches, and its axes, to draw on in the style of the report."""
    with mpl.rc_context(_RC):
        drawn = Canvas(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots(1, columns, squeeze=False, **options)
