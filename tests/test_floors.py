"""What may import what: a module stands on lower floors only, so that it can be read, tested and loaded without those above."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lab

ROOT = Path(lab.__file__).parent
PLURAL = ("experts", "figures", "methods", "pages", "recipes", "routers", "streams", "strings", "views")  # folders of alike files

# From the ground up; modules of one floor do not import one another.
FLOORS = [
    ["errors", "chance", "events", "metrics", "statistics"],
    ["registry", "files", "commands", "routing", "result"],
    ["config", "runs", "stream", "batch"],
    ["checks", "answer", "strings/*"],
    ["recipe"],
    ["streams/*", "memory", "labels", "views/*", "work", "replay"],
    ["sources", "expert", "composition", "compose", "tables", "repeats", "glossary", "lesson"],
    ["router", "experts/*", "figures/*", "pretrained", "lower", "starts"],
    ["routers/*", "backbone", "bank", "versus", "taxonomy", "printing"],
    ["objective", "report"],
    ["learner"],
    ["method", "evaluate", "inference"],
    ["methods/*", "store", "cost"],
    ["session"],
    ["loop", "transfer", "checkpoint", "console"],
    ["record"],
    ["api"],
    ["cells"],
    ["grid", "jobs", "analysis", "carry"],
    ["preflight", "library", "pruning"],
    ["pages/*", "cli_compose"],
    ["cli"],
    ["__main__"],
]
LIGHT = [
    "errors", "events", "metrics", "registry", "files", "config", "recipe", "runs", "stream", "sources", "streams/*",
    "commands", "printing", "cli_compose", "cli",
]  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "streamlit", "datasets", "pandas", "plotly"}


def name_of(path: Path) -> str:
    """`lab/streams/_hub.py` -> `streams/_hub`."""
    path = path.relative_to(ROOT).with_suffix("")
    return str(path.parent if path.name == "__init__" else path)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if "examples" not in path.parts}


def group(module: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    return module if "/" not in module and module not in PLURAL else f"{module.partition('/')[0]}/*"


def imports(path: Path, whole: bool) -> set[str]:
    """Dotted names a file imports: at any place, or (not `whole`) only those that run when it is loaded."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if not whole and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: write imports in full"
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def inside(names: set[str]) -> set[str]:
    """Modules of the package among dotted names, as in MODULES."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "lab":
            candidates = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            found.update([next((c for c in candidates if c in MODULES), "")] if candidates else [])
    return found - {""}


def test_every_module_has_a_floor():
    known = {entry for floor in FLOORS for entry in floor}
    assert {group(module) for module in MODULES if module not in (".", *PLURAL)} <= known


@pytest.mark.parametrize("module", [module for module in MODULES if module != "."])
def test_imports_go_down(module):
    floor = {entry: number for number, entries in enumerate(FLOORS) for entry in entries}
    for other in inside(imports(MODULES[module], whole=True)):
        same = group(other) == group(module) and "/" in group(module)  # see the next test
        assert same or floor[group(other)] < floor[group(module)], f"{module} imports {other}, which stands no lower"


@pytest.mark.parametrize("folder", ["experts", "methods", "routers", "streams"])
def test_plugins_do_not_import_one_another(folder):
    """Files that begin with _ hold what the plug-ins of a folder share."""
    for module, path in MODULES.items():
        if module.startswith(f"{folder}/"):
            others = {other.split("/")[1] for other in inside(imports(path, whole=True)) if other.startswith(f"{folder}/")}
            assert not {other for other in others if other[0] != "_"} - {module.split("/")[1]}, f"{module} imports {others}"


def test_the_loop_knows_plugins_through_the_registries_only():
    engine = ("session", "loop", "transfer", "learner", "evaluate", "checkpoint", "record", "memory", "bank", "store")
    for module in MODULES:
        if group(module) in engine:
            used = inside(imports(MODULES[module], whole=True))
            assert not [other for other in used if "/" in other], f"{module} imports the plug-ins {used}"


def closure(module: str) -> set[str]:
    """Third-party packages that loading a module loads, by the imports at the top of its files."""
    seen, todo, found = set(), [module], set()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            names = imports(MODULES[current], whole=False)
            todo += inside(names)
            found |= {name.split(".")[0] for name in names}
    return found - {"lab"}


@pytest.mark.parametrize("module", [module for module in MODULES if group(module) in LIGHT])
def test_light_modules_load_nothing_heavy(module):
    assert not closure(module) & HEAVY


def test_metrics_and_errors_stand_alone():
    assert closure("metrics") <= {"collections", "itertools", "typing", "numpy"}
    assert closure("errors") <= {"collections", "difflib"}
    assert closure("events") <= {"dataclasses", "typing"}


def test_importing_the_package_is_light(tmp_path):
    """In a process of its own, so that nothing was loaded before."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import lab, lab.runs, lab.metrics, lab.config, lab.cli, lab.sources; "
        "lab.Run; lab.configure; lab.LabError; dir(lab); "
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT.parent)], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_public_names():
    """No module bears the name of a public function: importing it would replace the function."""
    public = {name for name, module in lab._PUBLIC.items() if module is not None}
    assert not public & set(MODULES)
    assert callable(lab.run) and callable(lab.train) and lab.Run.__module__ == "lab.runs"
    with pytest.raises(AttributeError, match="module 'lab' has no attribute 'rnu'"):
        lab.rnu  # noqa: B018
