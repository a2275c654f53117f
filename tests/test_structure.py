"""The structure: floors derived from the imports, the map of lab/README.md, light modules that stay light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lab

ROOT = Path(lab.__file__).parent
HEAVY = {"torch", "transformers", "peft", "streamlit", "datasets", "pandas", "plotly"}
LIGHT = [
    "core.errors",
    "core.registry",
    "core.atomic_io",
    "metrics.base",
    "run_folder.events",
    "run_folder.run",
    "config.schema",
    "config.resolve",
    "data.stream",
    "data.loading",
    "jobs.jobs",
    "cli.main",
    "cli.compose",
    "cli.output",
]


def module_name(path: Path) -> str:
    """`lab/routers/gates.py` -> `routers.gates`; a folder is named by its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if "examples" not in path.parts}
PACKAGE = MODULES.pop("__init__")  # `import lab` itself: every name in it is loaded on first use


def imported(path: Path, when_loaded: bool = False) -> set[str]:
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


def own(names: Iterable[str]) -> set[str]:
    """The modules of the package among dotted names."""
    modules = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "lab":
            ends = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            modules.update([next((end for end in ends if end in MODULES), "")])
    return modules - {""}


def folder(module: str) -> str:
    return module.partition(".")[0]


ARROWS = {module: own(imported(path)) - {module} for module, path in MODULES.items()}


def folder_arrows() -> dict[str, set[str]]:
    arrows: dict[str, set[str]] = {folder(module): set() for module in MODULES}
    for module, targets in ARROWS.items():
        arrows[folder(module)] |= {folder(target) for target in targets} - {folder(module)}
    return arrows


@pytest.mark.xfail(reason="three circles are still to be cut", strict=False)
def test_no_import_goes_in_a_circle():
    """`graphlib` raises CycleError, which names the circle."""
    [*TopologicalSorter(ARROWS).static_order()]
    [*TopologicalSorter(folder_arrows()).static_order()]


def the_map() -> dict[str, str]:
    """Folders (and the files that lie in `lab/` itself) in the order of the map in lab/README.md, each with its line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| (.*) \|$", text, flags=re.MULTILINE)
    return dict(rows)


def test_the_map_shows_every_folder_once_and_imports_go_up_it():
    order = [*the_map()]
    assert sorted(order) == sorted(folder_arrows()), "the map of lab/README.md and the folders of lab/ differ"
    for name, targets in folder_arrows().items():
        wrong = {target for target in targets if order.index(target) > order.index(name)}
        arrows = {module: sorted(ARROWS[module]) for module in MODULES if folder(module) == name}
        uses = [f"{module} -> {target}" for module, found in arrows.items() for target in found if folder(target) in wrong]
        assert not wrong, f"{name}/ stands above {', '.join(wrong)} in the map and imports it: {uses}"


def test_the_top_folder_holds_the_entry_points_only():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}


@pytest.mark.parametrize("folder", ["experts", "methods", "routers", "metrics", "protocols", "data/streams"])
def test_plugins_do_not_import_one_another(folder):
    """Files that begin with _ hold what the plug-ins of a folder share, base.py their contract."""
    package = folder.replace("/", ".")
    plugins = {module for module in MODULES if module.startswith(f"{package}.") and "." not in module.removeprefix(f"{package}.")}
    plugins -= {module for module in plugins if module.rpartition(".")[2][0] == "_" or module.endswith(".base")}
    for module in plugins:
        assert not ARROWS[module] & plugins, f"{module} imports the plug-in {ARROWS[module] & plugins}"


def closure(module: str) -> set[str]:
    """Third-party packages that loading a module loads."""
    seen, todo, packages = set[str](), [module], set[str]()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            names = imported(MODULES[current], when_loaded=True)
            todo += own(names)
            packages |= {name.split(".")[0] for name in names}
    return packages - {"lab"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    assert not closure(module) & HEAVY


def test_importing_the_package_is_light(tmp_path):
    """In a process of its own, so that nothing was loaded before."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import lab, lab.run_folder.run, lab.config.schema, lab.cli.main; "
        "lab.Run; lab.configure; lab.LabError; dir(lab); "
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT.parent)], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_public_names():
    """No module bears the name of a public function: importing it would replace the function."""
    functions = {name for name, place in lab._PUBLIC.items() if ":" in place}
    assert not functions & {folder(module) for module in MODULES}
    assert callable(lab.run) and callable(lab.train) and lab.Run.__module__ == "lab.run_folder.run"
    with pytest.raises(AttributeError, match="module 'lab' has no attribute 'rnu'"):
        lab.rnu  # noqa: B018
    with pytest.warns(DeprecationWarning, match=r"lab\.repeats is now lab\.replicates"):
        assert lab.repeats is lab.replicates
