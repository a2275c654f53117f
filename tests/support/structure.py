"""The structure of the package as numbers: `python tests/support/structure.py [CHECKOUT]` prints them, tests use the functions.

It reads files only, so it measures any checkout, also one of an earlier version.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def module_files(root: Path) -> dict[str, Path]:
    """The modules of a package folder by dotted name, a folder by the name of its `__init__`; the package itself is left out."""
    paths = sorted(path for path in root.rglob("*.py") if "examples" not in path.parts)
    names = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    names.pop("__init__")
    return names


def folder_of(module: str) -> str:
    """`routers.gates` -> `routers`."""
    return module.partition(".")[0]


def imported_names(path: Path, when_loaded: bool = False) -> set[str]:
    """Dotted names that a file imports, TYPE_CHECKING included; `when_loaded`: only what runs when the file is loaded."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if when_loaded and (function or typing):
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: write imports in full"
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def own_modules(names: Iterable[str], modules: Iterable[str]) -> set[str]:
    """The modules of the package among dotted names that start with `lab`."""
    known, own = set(modules), set[str]()
    for name in names:
        parts = name.split(".")
        if parts[0] == "lab":
            ends = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            own.update([next((end for end in ends if end in known), "")])
    return own - {""}


def import_arrows(root: Path) -> dict[str, set[str]]:
    """For every module the modules of the package that it imports."""
    files = module_files(root)
    return {module: own_modules(imported_names(path), files) - {module} for module, path in files.items()}


def folder_arrows(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same between folders; a module that lies in no folder stands for itself."""
    folders: dict[str, set[str]] = {folder_of(module): set() for module in arrows}
    for module, targets in arrows.items():
        folders[folder_of(module)] |= {folder_of(target) for target in targets} - {folder_of(module)}
    return folders


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Import circles; of each one pass through it."""
    remaining, cycles = {module: set(targets) for module, targets in arrows.items()}, list[list[str]]()
    while True:
        try:
            [*TopologicalSorter(remaining).static_order()]
            return cycles
        except CycleError as error:
            cycle = error.args[1]
            cycles.append(cycle)
            remaining[cycle[1]].discard(cycle[0])  # graphlib lists a circle against the arrows


def longest_chain(arrows: dict[str, set[str]]) -> int:
    """Modules of the longest chain of imports; circles are cut first."""
    remaining = {module: set(targets) for module, targets in arrows.items()}
    for cycle in circles(arrows):
        remaining[cycle[1]].discard(cycle[0])

    @cache
    def depth(module: str) -> int:
        return 1 + max((depth(target) for target in remaining[module]), default=0)

    return max(map(depth, remaining))


def naming(root: Path, pattern: str, outside: tuple[str, ...] = ()) -> list[str]:
    """Modules whose code (comments and docstrings aside) matches a pattern; those in the folders `outside` do not count."""
    matching = []
    for module, path in module_files(root).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            first = body[0] if isinstance(body, list) and body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                first.value.value = ""
        if folder_of(module) not in outside and re.search(pattern, ast.unparse(tree)):
            matching.append(module)
    return matching


def bound_names(root: Path, name: str) -> int:
    """How often a variable or an argument of this name is bound."""
    count = 0
    for path in module_files(root).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            count += isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
            count += isinstance(node, ast.arg) and node.arg == name
    return count


def members(root: Path, names: Iterable[str]) -> dict[str, int]:
    """How many methods and properties each class of these names has, inherited ones aside."""
    counts = {}
    for path in module_files(root).values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                counts[node.name] = sum(isinstance(child, ast.FunctionDef) for child in node.body)
    return counts


def report(checkout: Path) -> str:
    """The numbers, one a line."""
    root = checkout / "lab"
    arrows = import_arrows(root)
    per_folder = Counter(str(path.parent.relative_to(checkout)) for path in module_files(root).values())
    protocols = r"config\.transfer|\bStreamSession\b|\bTransferSession\b|\bprotocol (==|!=)|(==|!=|\[) ?['\"]transfer['\"]"
    phases = r"['\"](gate|memory)['\"]\)|phase (==|!=)|PHASES|\[['\"]phase['\"]\]|['\"]train['\"], ?['\"]gate['\"]"
    text = {path: path.read_text(encoding="utf-8") for path in module_files(root).values()}
    lines = {
        "modules": len(arrows),
        "modules per folder": ", ".join(f"{name} {count}" for name, count in sorted(per_folder.items())),
        "longest import chain": longest_chain(arrows),
        "import circles": len(circles(arrows)),
        "modules that name a protocol, outside protocols/": len(naming(root, protocols, ("protocols",))),
        "modules that ask a protocol whether it goes through a stream": len(naming(root, r"\.continual\b", ("protocols",))),
        "modules that name a phase of training, outside training/ and protocols/": len(
            naming(root, phases, ("training", "protocols"))
        ),
        "modules that spell average_accuracy, outside metrics/": len(naming(root, "average_accuracy", ("metrics",))),
        "bindings of `found`": bound_names(root, "found"),
        "methods": ", ".join(f"{name} {count}" for name, count in members(root, ("Learner", "Run", "Session", "Router")).items()),
        "lines of `# fmt: skip`": sum(content.count("# fmt: skip") for content in text.values()),
        "lines": sum(content.count("\n") for content in text.values()),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
