"""The source text of a class that is not shipped: its file or, in scripts and notebooks, what of their text it needs.

A file is taken as it is. Scripts and cells do other things too, which nobody wants to happen again: of them the text holds the
class, and everything at their top level that it uses by name, be it in another cell.
"""

import ast
import builtins
import linecache
import symtable
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

Definitions = dict[str, list[str]]  # statements at the top level of a text by each name that they define or change
INTERACTIVE = "__main__"


class SourceText(NamedTuple):
    """A text that defines a class, and the names that it uses and that no text defines."""

    text: str
    missing: tuple[str, ...] = ()


def source_of(plugin: type) -> SourceText | None:
    """The text of a class; None where no text is kept of what defines it."""
    if plugin.__module__ != INTERACTIVE:
        file = getattr(sys.modules.get(plugin.__module__), "__file__", None)
        return SourceText(Path(file).read_text(encoding="utf-8")) if file and Path(file).is_file() else None
    texts = [definitions(text) for text in _interactive_texts(plugin)]
    if not any(plugin.__qualname__ in text for text in texts):
        return None
    return excerpt(plugin.__qualname__, texts)


def _interactive_texts(plugin: type) -> Iterator[str]:
    """What was run in `__main__`: where the class has its functions from, cells from the newest on, the script, `python -c`."""
    files = [value.__code__.co_filename for value in vars(plugin).values() if isinstance(value, FunctionType)]
    cells = [file for file, entry in linecache.cache.items() if len(entry) > 1 and entry[1] is None]  # files have a time
    script = getattr(sys.modules[INTERACTIVE], "__file__", None)
    for file in dict.fromkeys([*files, *reversed(cells), *filter(None, [script])]):
        yield "".join(linecache.getlines(file))
    if "-c" in sys.orig_argv:
        yield sys.orig_argv[sys.orig_argv.index("-c") + 1]


def definitions(text: str) -> Definitions:
    """The statements at the top level of a text by the names that they define or change; none where it is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    statements: Definitions = {}
    for node in tree.body:
        for name in _defined(node):
            statements.setdefault(name, []).append(_segment(text, node))
    return statements


def _defined(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = set[str]()
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            names.add(_base(node))
    return names


def _base(node: ast.expr) -> str:
    """The name that `a`, `a.b` and `a[0]` begin with; empty where they begin with none."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _segment(text: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    if not decorators:
        return ast.get_source_segment(text, node) or ""
    return "\n".join(text.splitlines()[decorators[0].lineno - 1 : node.end_lineno])


def excerpt(name: str, texts: Sequence[Definitions]) -> SourceText:
    """What of the texts, of which earlier ones count first, defines a name and all that it uses."""
    taken, seen, missing = list[str](), set[str](), set[str]()

    def take(wanted: str, nearest: Sequence[Definitions]) -> None:
        own = next((text for text in nearest if wanted in text), None)
        if own is None:
            missing.update({wanted} - vars(builtins).keys())
            return
        for segment in own[wanted]:
            if segment not in seen:
                seen.add(segment)
                for used in sorted(_used(segment)):
                    take(used, [own, *texts])
                taken.append(segment)

    take(name, texts)
    future = [line for text in texts if name in text for line in text.get("annotations", []) if "__future__" in line]
    return SourceText("\n\n".join([*future, *taken]) + "\n", tuple(sorted(missing)))


def _used(statement: str) -> set[str]:
    """The names that a statement and the functions in it take from outside of them."""
    tables, names = [symtable.symtable(statement, "statement", "exec")], set[str]()
    for table in tables:
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (top or symbol.is_global())}
    return names
