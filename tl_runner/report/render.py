"""A table for a terminal, for Markdown and for LaTeX. Names come from config files and folders: all are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich import box
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


def terminal(table: Table, width: int = 10**9) -> RichTable:
    """For a console of some width: where there is little, spreads are left out, then cells fold."""
    made = RichTable(
        title=Text(table.title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=Text("\n".join(table.notes), "dim") if table.notes else None,
        caption_justify="left",
        pad_edge=False,
    )
    columns = zip(table.head, *([c.text for c in line] for line in table.lines), strict=True)
    narrow = sum(max(map(len, column)) + 3 for column in columns) > width
    for i, head in enumerate(table.head):
        side = "right" if i and not table.words else "left"
        made.add_column(Text(head), justify=side, overflow="fold", no_wrap=i == 0 and not table.words)
    for line in table.lines:
        texts = [c.brief if narrow and c.brief else c.text for c in line]
        styles = ["bold" if c.best else "yellow" if c.loses else "" for c in line]
        made.add_row(*map(Text, texts, styles))
    return made


def markdown(table: Table) -> str:
    """GitHub's; the best of a column in bold."""

    def cell(c: Cell) -> str:
        return f"**{escaped(c.text)}**" if c.best else escaped(c.text)

    lines = grid(map(escaped, table.head), (map(cell, line) for line in table.lines))
    notes = [f"- {escaped(note)}" for note in table.notes]
    return "\n".join([f"## {escaped(table.title)}", "", *lines, "", *notes, *([""] if notes else [])])


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


def latex(table: Table) -> str:
    """For the package booktabs; the best of a column in bold."""

    def cell(c: Cell) -> str:
        text = c.text.translate(_LATEX)
        return f"\\textbf{{{text}}}" if c.best else text

    columns = ("l" if table.words else "r") * (len(table.head) - 1)
    lines = [" & ".join(map(cell, line)) + r" \\" for line in table.lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{' '.join([table.title.rstrip('.') + '.', *table.notes]).translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{l{columns}}}",
            r"\toprule",
            " & ".join(head.translate(_LATEX) for head in table.head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
