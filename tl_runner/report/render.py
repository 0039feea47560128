"""A table for a terminal, for Markdown and for LaTeX. Names come from config files and folders: all are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from .tables import Cell, Table

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "→": r"$\to$",
        "−": "$-$",
        "–": "--",
        "[": "{[}",  # After a line break it would open an argument.
        "…": r"\ldots{}",
        "▼": r"$\downarrow$",
        "\n": " ",
    }
)


def terminal(table: Table, width: int = 10**9) -> Group:
    """For a console of some width: where there is little, spreads are left out, then columns go on below; names
    leave them half of it."""
    full = [table.head, *([cell.text for cell in line] for line in table.lines)]
    narrow = sum(_widths(full)) > width
    brief = [table.head, *([cell.brief or cell.text for cell in line] for line in table.lines)]
    head, *lines = brief if narrow else full
    made = []
    widths = _widths([head, *lines])
    if sum(widths) > width:
        widths[0] = min(widths[0], width // 2)
    # Of a table without a line, its notes say why.
    for block in [] if not lines else [range(len(head))] if table.words else _blocks(widths, width):
        part = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i in block:
            justify: Literal["left", "right"] = "right" if i and not table.words else "left"
            most = None if i or table.words else widths[0] - 2
            part.add_column(plain(head[i]), justify=justify, overflow="fold", min_width=most, max_width=most)
        for texts, cells in zip(lines, table.lines, strict=True):
            styles = ["bold" if c.best else "yellow" if c.loses else "" for c in cells]
            part.add_row(*(plain(texts[i], styles[i]) for i in block))
        made.append(part)
    return Group(plain(table.title, "bold"), *made, *(plain(note, "dim") for note in table.notes), "")


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each part of a table that is too wide; the first column, which says what a line is, in each.

    >>> _blocks([8, 4, 4, 4, 4], 18)
    [[0, 1, 2], [0, 3, 4]]
    """
    blocks: list[list[int]] = []
    for i in range(1, len(widths)):
        if not blocks or sum(widths[k] for k in (*blocks[-1], i)) > width:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks or [[0]]


def plain(text: str, style: str = "") -> Text:
    """Neither markup nor anything that a terminal would obey; in one paragraph."""
    text = re.sub(r"\s*\n\s*", " ", text)
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style)


def markdown(table: Table, level: int = 2) -> str:
    """GitHub's; the best of a column in bold. `level`: of the heading."""

    def cell(c: Cell) -> str:
        return f"**{escaped(c.text)}**" if c.best else escaped(c.text)

    lines = list(grid(map(escaped, table.head), (map(cell, line) for line in table.lines)))
    notes = [f"- {escaped(note)}" for note in table.notes]
    parts = ["\n".join(part) for part in (lines if table.lines else [], notes) if part]
    return "\n\n".join([f"{'#' * level} {escaped(table.title)}", *parts]) + "\n"


def grid(head: Iterable[str], lines: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a Markdown table of cells that are Markdown already."""
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"{'|---' * len(head)}|"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def escaped(text: str) -> str:
    r"""Plain text as Markdown.

    >>> print(escaped("a_b |<script>| *"))
    a_b \|&lt;script>\| \*
    """
    text = re.sub(r"([\\|*`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split("\n")))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def latex_text(text: str) -> str:
    r"""Plain text as LaTeX.

    >>> print(latex_text("a_b: 5 % ± 1"))
    a\_b: 5 \% $\pm$ 1
    """
    return text.translate(_LATEX)


def latex(table: Table) -> str:
    """For the packages booktabs and graphicx: as wide as it is, but no wider than the text; the best of a column in
    bold."""

    def cell(c: Cell) -> str:
        text = latex_text(c.text)
        return f"\\textbf{{{text}}}" if c.best else text

    columns = ("l" if table.words else "r") * (len(table.head) - 1)
    lines = [" & ".join(map(cell, line)) + r" \\" for line in table.lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(' '.join([table.title + '.', *table.notes]))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{columns}}}",
            r"\toprule",
            " & ".join(latex_text(head) for head in table.head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
