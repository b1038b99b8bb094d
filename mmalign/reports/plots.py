"""Training curves as SVG in the colors of the page: one drawing serves light, dark and paper."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]

# matplotlib wants real colors: these stand for the page's own and are exchanged once the drawing is done.
_COLORS = {"#000001": "--ink", "#000002": "--muted", "#000003": "--rule", "#000004": "--chosen",
           "#000005": "--rejected"}  # fmt: skip
INK, MUTED, RULE, CHOSEN, REJECTED = _COLORS

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found, and set in the page's font
    "figure.figsize": (4.4, 2.45),
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.columnspacing": 1.4,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Series:
    """One quantity of the log; its values on held-out records have ``eval_`` before the key."""

    key: str
    label: str
    color: str


@dataclass(frozen=True)
class Panel:
    """One small drawing: what it shows, and what a reader should know of it."""

    title: str
    unit: str
    note: str
    series: tuple[Series, ...]
    scale: float = 1.0
    bounds: tuple[float, float] | None = None
    shaded: bool = False  # whether the gap between two series means something


@dataclass(frozen=True)
class Plot:
    """A drawn panel; ``svg`` is safe to put into a page as it is."""

    title: str
    unit: str
    note: str
    svg: str


PANELS = (
    Panel("Loss", "", "What training makes smaller.", (Series("loss", "training", INK),)),
    Panel(
        "Reward",
        "nats",
        "Beta times how much likelier an answer is than under the reference model, on a log scale. The "
        "shaded gap is the margin of chosen over rejected.",
        (Series("rewards/chosen", "chosen", CHOSEN), Series("rewards/rejected", "rejected", REJECTED)),
        shaded=True,
    ),
    Panel(
        "Reward accuracy",
        "% of pairs",
        "Pairs whose chosen answer has the higher reward; a coin gives 50.",
        (Series("rewards/accuracies", "training", INK),),
        scale=100,
        bounds=(0, 104),
    ),
    Panel(
        "Log-probability",
        "nats per answer",
        "How likely the model finds whole answers; nearer zero is likelier.",
        (Series("logps/chosen", "chosen", CHOSEN), Series("logps/rejected", "rejected", REJECTED)),
    ),
)


def draw(curves: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """The panels for which the log has numbers.

    Args:
        curves: log lines, each with ``step``; values that are missing or not finite leave no point.
    """
    plots = []
    for panel in PANELS:
        lines = _lines(panel, curves)
        if lines:
            plots.append(Plot(panel.title, panel.unit, panel.note, _svg(panel, lines)))
    return plots


def _lines(panel: Panel, curves: Sequence[Mapping[str, Any]]) -> dict[tuple[Series, bool], Points]:
    """Points of each series by (series, held out), without the empty ones."""
    found = {}
    for held_out in (False, True):
        for series in panel.series:
            points = _points(curves, ("eval_" if held_out else "") + series.key, panel.scale)
            if points:
                found[series, held_out] = points
    return found


def _points(curves: Sequence[Mapping[str, Any]], key: str, scale: float) -> Points:
    rows = ((row.get("step"), row.get(key)) for row in curves)
    return [(step, value * scale) for step, value in rows
            if step is not None and value is not None and math.isfinite(value)]  # fmt: skip


def _svg(panel: Panel, lines: Mapping[tuple[Series, bool], Points]) -> str:
    from matplotlib import style
    from matplotlib.figure import Figure

    # The salt makes ids the same in every run and different from panel to panel: a page holds several.
    with style.context(["default", _STYLE, {"svg.hashsalt": panel.title}]):
        figure = Figure()
        _draw_panel(figure.add_subplot(), panel, lines)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _for_page(drawn.getvalue(), _in_words(panel, lines))


def _draw_panel(axes: Axes, panel: Panel, lines: Mapping[tuple[Series, bool], Points]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (series, held_out), points in lines.items():
        marked = held_out or len(points) == 1
        axes.plot(*zip(*points, strict=True), color=series.color, linestyle="--" if held_out else "-",
                  marker="o" if marked else "", markersize=4, clip_on=not marked,
                  label=_label(panel, series, held_out))  # fmt: skip
    if panel.shaded:
        _shade_gap(axes, [points for (_, held_out), points in lines.items() if not held_out])
    axes.margins(x=0.02)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if panel.bounds:
        axes.set_ylim(*panel.bounds)
    if len(lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.4)


def _shade_gap(axes: Axes, training: Sequence[Points]) -> None:
    if len(training) == 2 and [step for step, _ in training[0]] == [step for step, _ in training[1]]:
        steps = [step for step, _ in training[0]]
        upper, lower = ([value for _, value in points] for points in training)
        axes.fill_between(steps, upper, lower, color=MUTED, alpha=0.13, linewidth=0)


def _label(panel: Panel, series: Series, held_out: bool) -> str:
    if not held_out:
        return series.label
    return "held out" if len(panel.series) == 1 else f"{series.label}, held out"


def _in_words(panel: Panel, lines: Mapping[tuple[Series, bool], Points]) -> str:
    """What the drawing shows, for those who do not see it."""
    parts = []
    for (series, held_out), points in lines.items():
        (first, before), (last, after) = points[0], points[-1]
        label = _label(panel, series, held_out)
        parts.append(f"{label} from {before:.4g} at step {first:g} to {after:.4g} at step {last:g}")
    return f"{panel.title}: " + "; ".join(parts)


def _for_page(svg: str, words: str) -> str:
    """Without the parts that belong to a file of its own or would leak into the page's style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("<defs>\n  \n </defs>", "")
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f'<svg {view} role="img" aria-label="{escape(words)}">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names like axes_1, the same in every panel
    return re.sub("|".join(_COLORS), lambda color: f"var({_COLORS[color[0]]})", svg)
