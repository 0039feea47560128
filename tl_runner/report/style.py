"""How every figure looks: legible in print, told apart without colour, written without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

WIDTH = 7.2
"""Inches: a figure fills an A4 page, where its text is as large as it says."""

DPI = 144

# Ten colours that colour-blind readers tell apart: Petroff 2021, https://arxiv.org/abs/2107.02270
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p")
INK, FAINT, GRID = "#1a1a1a", "#767676", "#e3e3e3"
# What the roles of the curves are drawn with, everywhere.
TARGET, SOURCE, SEEING = COLOURS[0], COLOURS[6], COLOURS[2]

# For class names of other scripts, where these fonts are installed.
_FONTS = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAexGothic"),
    *("NanumGothic", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Noto Sans", "Arial Unicode MS"),
)


@contextmanager
def style() -> Iterator[None]:
    """Draw and save figures within it."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    settings: Any = {
        "font.family": [name for name in _FONTS if name in installed],
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        # Names of classes and losses are not formulas.
        "text.parse_math": False,
        "figure.facecolor": "white",
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A box says it, once in the figure instead of once for each letter on the terminal.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure that needs no display; sizes in inches."""
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def png(made: Figure) -> bytes:
    """The figure as a PNG file."""
    drawn, stream = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png")
    with Image.open(drawn) as image:  # A palette halves the file, and nobody sees it.
        image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            stream, "PNG", optimize=True, dpi=(DPI, DPI)
        )
    return stream.getvalue()


def short(name: str, length: int = 22) -> str:
    """A name that fits beside an axis: the middle of a long one is left out.

    >>> short("a_very_long_name_of_a_class", 13)
    'a_very…_class'
    """
    name = " ".join(name.split())
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def of_percent(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis of percentages: beyond 0 and 100 no more than half a mark.

    >>> of_percent((75, 125)), of_percent((40, 60))
    ((75, 102.0), (40, 60))
    """
    low, high = limits
    edge = 0.04 * (high - low)
    return max(low, -edge), min(high, 100 + edge)


def whole_epochs(axes: Axes, last: int, ticks: int = 10) -> None:
    """An x axis of epochs 1 .. last."""
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
