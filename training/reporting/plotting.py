"""Shared by all plots: their colours, plain axes, and SVG whose colours follow the reader's theme.

matplotlib is imported only when something is drawn, never with this module.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _palette(ink: str, muted: str, grid: str, published: str, *series: str) -> dict[str, str]:
    """Colours of text, secondary text, grid lines, the published curve, and the runs in order."""
    named = {"ink": ink, "muted": muted, "grid": grid, "published": published}
    return named | {f"series-{number}": colour for number, colour in enumerate(series)}


# Plots are drawn in the light colours. No more than six runs can be told apart on a small chart.
SERIES = ("#1f66b8", "#d1541c", "#0f8a6c", "#8a3fb0", "#b3283f", "#7a6a00")
LIGHT = _palette("#1c2430", "#5b6675", "#e3e7ec", "#98a2b0", *SERIES)
DARK = _palette(
    *("#e6eaf0", "#9aa6b6", "#2a323d", "#77828f"),
    *("#6fb1ff", "#ff9d66", "#4cd0ab", "#d093f5", "#ff8296", "#d9c84a"),
)


def variables(palette: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {colour}" for name, colour in palette.items())


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches that needs no display, and its axes, row by row."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(rows, columns, squeeze=False).flat)


def style_axes(axes: Axes, title: str, x_label: str) -> None:
    """Title and x label, thin grid lines, no frame."""
    axes.set_title(title, loc="left", fontsize=9.5, color=LIGHT["ink"])
    axes.set_xlabel(x_label, fontsize=8, color=LIGHT["muted"])
    axes.tick_params(which="both", labelsize=8, labelcolor=LIGHT["muted"], bottom=False, left=False)
    axes.grid(color=LIGHT["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LIGHT["grid"])
    axes.patch.set_alpha(0)


def svg(fig: Figure, key: str) -> str:
    """The figure as an ``<svg>`` element whose colours are CSS variables, the same bytes each time; ``key`` keeps its
    ids apart from other figures' on a page."""
    import matplotlib as mpl

    out = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": key}
    with mpl.rc_context(settings):  # type: ignore[arg-type]
        fig.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    element = out.getvalue()
    element = element[element.index("<svg") :].strip()
    # The ids of groups are unused, and the same in every figure; indentation is a tenth of the file.
    element = re.sub(r"\n +", "\n", re.sub(r'<g id="[^"]*"', "<g", element))
    for name, colour in LIGHT.items():
        element = element.replace(colour, f"var(--{name})")
    return element


def svg_file(fig: Figure, name: str, about: str) -> str:
    """A figure as an SVG file that says what it is ``about``: on white or, for readers who prefer that, dark."""
    element = svg(fig, name)
    style = (
        f":root {{ --paper: #ffffff; {variables(LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ --paper: #0d1117; {variables(DARK)} }} }}"
    )
    start = element.index(">") + 1
    head = f"<title>{name}</title><desc>{about}</desc><style>{style}</style>"
    return f'{element[:start]}{head}<rect width="100%" height="100%" style="fill: var(--paper)"/>{element[start:]}\n'
