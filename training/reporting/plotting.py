"""Shared by all plots: colours for a light page, or CSS variables that a page fills in; plain axes; SVG text.

matplotlib is imported only when something is drawn, never with this module.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """Colours of text, secondary text, grid lines, the published curve, and the runs in order."""

    ink: str
    muted: str
    grid: str
    published: str
    series: tuple[str, ...]


# No more than six can be told apart on a small chart.
LIGHT = Palette(
    ink="#1c2430",
    muted="#5b6675",
    grid="#e3e7ec",
    published="#98a2b0",
    series=("#1f66b8", "#d1541c", "#0f8a6c", "#8a3fb0", "#b3283f", "#7a6a00"),
)
DARK = Palette(
    ink="#e6eaf0",
    muted="#9aa6b6",
    grid="#2a323d",
    published="#77828f",
    series=("#6fb1ff", "#ff9d66", "#4cd0ab", "#d093f5", "#ff8296", "#d9c84a"),
)
# matplotlib needs real colours: these stand for the CSS variables of a page, and occur nowhere else.
PAGE = Palette(
    ink="#010101", muted="#020202", grid="#030303", published="#040404", series=tuple(f"#0505{i:02x}" for i in range(6))
)


def variables(palette: Palette) -> str:
    """The colours as the CSS variables that :data:`PAGE` stands for."""
    named = {"ink": palette.ink, "muted": palette.muted, "grid": palette.grid, "published": palette.published}
    named |= {f"series-{i}": colour for i, colour in enumerate(palette.series)}
    return "; ".join(f"--{name}: {colour}" for name, colour in named.items())


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches that needs no display, and its axes, row by row."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(rows, columns, squeeze=False).flat)


def style_axes(axes: Axes, palette: Palette, title: str, x_label: str) -> None:
    """Title and x label, thin grid lines, no frame."""
    axes.set_title(title, loc="left", fontsize=9.5, color=palette.ink)
    axes.set_xlabel(x_label, fontsize=8, color=palette.muted)
    axes.tick_params(which="both", labelsize=8, labelcolor=palette.muted, bottom=False, left=False)
    axes.grid(color=palette.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.grid)
    axes.patch.set_alpha(0)


def svg(fig: Figure, key: str) -> str:
    """The figure as an ``<svg>`` element, the same bytes each time; ``key`` keeps its ids apart from other figures' on
    a page."""
    import matplotlib as mpl

    out = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": key}
    with mpl.rc_context(settings):  # type: ignore[arg-type]
        fig.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    element = out.getvalue()
    element = element[element.index("<svg") :].strip()
    # The ids of groups are unused, and the same in every figure; indentation is a tenth of the file.
    return re.sub(r"\n +", "\n", re.sub(r'<g id="[^"]*"', "<g", element))


def use_css_colors(element: str) -> str:
    """An ``<svg>`` drawn in :data:`PAGE`, with its colours replaced by CSS variables."""
    named = {PAGE.ink: "ink", PAGE.muted: "muted", PAGE.grid: "grid", PAGE.published: "published"}
    named |= {colour: f"series-{i}" for i, colour in enumerate(PAGE.series)}
    for colour, name in named.items():
        element = element.replace(colour, f"var(--{name})")
    return element


def svg_file(fig: Figure, name: str, about: str) -> str:
    """A figure drawn in :data:`PAGE` as an SVG file that says what it is ``about``: on white or, for readers who prefer
    that, dark."""
    element = use_css_colors(svg(fig, name))
    style = (
        f":root {{ --paper: #ffffff; {variables(LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ --paper: #0d1117; {variables(DARK)} }} }}"
    )
    start = element.index(">") + 1
    head = f"<title>{name}</title><desc>{about}</desc><style>{style}</style>"
    return f'{element[:start]}{head}<rect width="100%" height="100%" style="fill: var(--paper)"/>{element[start:]}\n'
