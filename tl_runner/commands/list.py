"""`tlrun list [GROUP]`: what can be chosen, without importing any of it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import rich
from rich.table import Column, Table

from ..errors import UserError, nearest
from ..search import config_dir, groups

PACKAGE = Path(__file__).parent.parent


def describe(file: Path) -> tuple[str, str]:
    """One line on a config, and the citation, from its first comment or its class's docstring."""
    text = file.read_text(encoding="utf-8")
    target = re.search(r"^_target_: *([\w.]+)", text, re.MULTILINE)
    comment = re.match(r"(?:# @.*\n)?# (.+)", text)
    if comment:
        return comment[1], ""
    if target is None:
        return "", ""
    # `a.b.C` is found where an import would find it, but never imported.
    module, _, name = target[1].rpartition(".")
    for root in (PACKAGE.parent, *map(Path, sys.path)):
        path = root / f"{module.replace('.', '/')}.py"
        if path.is_file():
            try:
                body = ast.parse(path.read_text(encoding="utf-8")).body
            except SyntaxError as error:
                return f"cannot be read: {path.name}, line {error.lineno}: {error.msg}", ""
            for node in body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                    paragraphs = (ast.get_docstring(node) or "").split("\n\n")
                    cited = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
                    return " ".join(paragraphs[0].split()), cited if re.search(r"\d{4}", cited) else ""
    return "", ""


def main(arguments: list[str], own: list[Path]) -> None:
    """Print one group's options, or all groups.

    Raises:
        UserError: for an unknown group.
    """
    if arguments in (["-h"], ["--help"]) or len(arguments) > 1:
        print("usage: tlrun list [GROUP]    GROUP: method(s), model(s), data, experiment(s), ...")
        sys.exit(0 if len(arguments) == 1 else 2)
    found = groups([config_dir(), *own])
    if not arguments:
        table = Table("group", "options", title="tlrun GROUP=OPTION ...", title_justify="left")
        for group, options in found.items():
            table.add_row(group, ", ".join(options))
        rich.print(table)
        return
    wanted = arguments[0]
    names = [g for g in (wanted, wanted.removesuffix("s"), wanted + "s") if g in found]
    if not names:
        raise UserError(f"tlrun list: no group '{wanted}'{nearest(wanted, found)}")
    described = {option: describe(file) for option, file in found[names[0]].items()}
    cited = any(source for _, source in described.values())
    heads = (names[0], "what it is", *(["source"] if cited else []))
    # Folded, not cut: an address that lacks its end is none.
    table = Table(*(Column(head, overflow="fold") for head in heads), show_lines=cited)
    for option, (line, source) in described.items():
        table.add_row(option, line, *([source] if cited else []))
    rich.print(table)
