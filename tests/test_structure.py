"""The structure: floors derived from the imports, the map of lab/README.md, light modules that stay light."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support.structure import circles, folder_arrows, folder_of, import_arrows, imported_names, module_files, own_modules

import lab

ROOT, TESTS = Path(lab.__file__).parent, Path(__file__).parent
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
]


MODULES = module_files(ROOT)
LIGHT += [module for module in MODULES if module.startswith("cli.")]
ARROWS = import_arrows(ROOT)


def test_no_import_goes_in_a_circle():
    assert circles(ARROWS) == [] and circles(folder_arrows(ARROWS)) == []


@cache
def defined_names(module: str) -> set[str]:
    """Names that a module or a class in it defines, imports or assigns."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_every_import_names_what_there_is():
    """Imports inside functions, which run late, too."""
    for module, path in MODULES.items():
        for name in imported_names(path):
            target, _, last = name.removeprefix("lab.").rpartition(".")
            if name.startswith("lab.") and target and target + "." + last not in MODULES:
                assert target in MODULES and last in defined_names(target), f"{module} imports {name}, which there is not"


def the_map() -> dict[str, str]:
    """Folders (and the files that lie in `lab/` itself) in the order of the map in lab/README.md, each with its line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| (.*) \|$", text, flags=re.MULTILINE)
    return dict(rows)


def test_the_map_shows_every_folder_once_and_imports_go_up_it():
    order = [*the_map()]
    assert sorted(order) == sorted(folder_arrows(ARROWS)), "the map of lab/README.md and the folders of lab/ differ"
    for name, targets in folder_arrows(ARROWS).items():
        wrong = {target for target in targets if order.index(target) > order.index(name)}
        arrows = {module: sorted(ARROWS[module]) for module in MODULES if folder_of(module) == name}
        uses = [f"{module} -> {target}" for module, found in arrows.items() for target in found if folder_of(target) in wrong]
        assert not wrong, f"{name}/ stands above {', '.join(wrong)} in the map and imports it: {uses}"


def test_tests_mirror_the_package_and_import_no_other_test():
    """Files of `tests/` itself are about the whole; what tests share lies in `tests/support`."""
    files = [path.relative_to(TESTS) for path in TESTS.rglob("*.py")]
    assert {path.parts[0] for path in files if len(path.parts) > 1} - {"support"} <= {path.name for path in ROOT.iterdir()}
    tests = {path.stem for path in files if path.stem.startswith("test_") or path.stem == "conftest"}
    assert not [path for path in files for name in imported_names(TESTS / path) if tests & {*name.split(".")}]


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
            names = imported_names(MODULES[current], when_loaded=True)
            todo += own_modules(names, MODULES)
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
    assert not functions & {folder_of(module) for module in MODULES}
    assert callable(lab.run) and callable(lab.train) and lab.Run.__module__ == "lab.run_folder.run"
    with pytest.raises(AttributeError, match="module 'lab' has no attribute 'rnu'"):
        lab.rnu  # noqa: B018
    with pytest.warns(DeprecationWarning, match=r"lab\.repeats is now lab\.comparison\.replicates"):
        assert lab.repeats is lab.replicates
    with pytest.warns(DeprecationWarning, match=r"lab\.versus is now lab\.figures\.methods"):
        assert callable(lab.versus.tradeoff)


def test_the_walks_name_what_there_is():
    """Every `file.py` of lab/README.md is there, and it defines the `name` or `Class.name` that follows it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    walks = text[text.index("## One batch") :]
    steps = re.findall(r"`([\w/]+\.py)`\s+`([\w.]+)`", walks)
    assert len(steps) >= 20 and len(steps) == walks.count(".py`"), "behind every file of a walk stands a name in it"
    for path, name in steps:
        assert (ROOT / path).is_file(), f"{path} is in a walk of lab/README.md and does not exist"
        definitions = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        for part in name.split("."):
            inside = [node for node in definitions if getattr(node, "name", "") == part]
            assert inside, f"{name} is in a walk of lab/README.md and {path} does not define it"
            definitions = getattr(inside[0], "body", [])
