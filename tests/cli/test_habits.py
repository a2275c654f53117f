"""What one expects of a command line: quick listings, widths, pipes, completion, dry runs, and errors that help."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_folders import KEEPS, write_run
from typer.testing import CliRunner

from lab import __version__
from lab.cli import main
from lab.config.resolve import GROUPS, configure, recipes
from lab.core import registry
from lab.run_folder.run import Run

ROOT = Path(main.__file__).parents[2]
SMALL = ["stream.tasks=news_topic,question_type", "stream.max_train=16", "stream.max_test=16", "train.epochs=1"]
TINY = ["run", "sequential", *SMALL, "--backbone", "tiny"]
PLUGINS = ["streams", "routers", "methods", "experts", "protocols", "metrics", "consolidations", "trackers"]
LISTINGS = ["recipes", *PLUGINS, "backbones", "runs"]
HEAVY = {"torch", "transformers", "peft", "streamlit", "datasets", "pandas", "plotly", "scipy", "sklearn"}


def lab(*words: str, **env: str):
    return CliRunner().invoke(main.app, [*map(str, words)], env=env)


def refused(*words: str) -> str:
    """The line of a request that is wrong, after `lab: `."""
    result = lab(*words)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.startswith("lab: "), result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("lab: ")


# quick ------------------------------------------------------------------------------------------------------------------------


def test_listings_help_and_completion_load_nothing_heavy(tmp_path):
    """In one process of their own, one after the other."""
    write_run(tmp_path, "a", "l2r", KEEPS)
    words = [
        ["--version"],
        ["-h"],
        ["run", "-h"],
        *(["list", what] for what in LISTINGS),
        ["show", "a"],
        ["list", "runs", "--json"],
    ]
    code = (
        "import json, os, sys\n"
        "from lab.cli.main import app\n"
        f"for words in json.loads({json.dumps(json.dumps(words))}):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: assert end.code == 0, (words, end.code)\n"
        f"    assert not {HEAVY!r} & set(sys.modules), words\n"
        "os.environ |= {'_LAB_COMPLETE': 'complete_zsh', '_TYPER_COMPLETE_ARGS': 'lab run '}\n"
        "try: app([])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"assert not {HEAVY!r} & set(sys.modules)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "LAB_RUNS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"lab {__version__}\n" in done.stdout and '"l2r":"L2R trains' in done.stdout


@pytest.mark.parametrize("kind", PLUGINS)
def test_what_is_read_of_a_plugin_is_what_it_says_of_itself(kind):
    plugins = getattr(registry, kind)
    assert {name: plugins.about(name) for name in plugins.names()} == {
        name: plugins.get(name).about() for name in plugins.names()
    }


def test_broken_plugins_and_those_without_a_file_are_listed(monkeypatch, tmp_path):
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "torn.py").write_text("class Torn(:\n")
    (tmp_path / "routers" / "other.py").write_text("class Other:\n    '''Another.'''\n    name = 'another'\n")
    mine = "import no_such_module\nclass Mine:\n    '''Mine\n    alone.\n\n    More.'''\n    name = 'mine'\n"
    (tmp_path / "routers" / "mine.py").write_text(mine)
    monkeypatch.setenv("LAB_PLUGINS", str(tmp_path))
    lines = dict(re.split(" {2,}", line, maxsplit=1) for line in lab("list", "routers").stdout.splitlines())
    assert lines["mine"] == "Mine alone." and lines["other"] == "broken: no class with name = 'other'"
    assert lines["torn"].startswith("broken: ") and lines["uniform"] == registry.routers.get("uniform").about()


# wide and narrow --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", LISTINGS)
def test_a_listing_has_one_line_for_each_name_and_fits(what, runs):
    write_run(runs, "20261128-083540-l2r-builtin-s0", "l2r", KEEPS)
    rows = json.loads(lab("list", what, "--json").stdout)
    for width in (80, 120):
        lines = lab("list", what, COLUMNS=str(width)).stdout.splitlines()
        assert max(map(len, lines)) <= width
        assert [row["name"] for row in rows if not any(line.split()[:1] == row["name"].split()[:1] for line in lines)] == []
        if what != "runs":
            assert len(lines) == len(rows) + len({row.get("group") for row in rows} - {None})


def test_in_a_pipe_nothing_is_cut(runs):
    listed = lab("list", "recipes").stdout
    assert all(recipe["about"] in listed for recipe in recipes())
    assert max(map(len, lab("list", "recipes", "--wide").stdout.splitlines())) > 200


def test_recipes_are_grouped(tmp_path, monkeypatch):
    headings = [line for line in lab("list", "recipes").stdout.splitlines() if not line.startswith(" ")]
    assert headings == [group for group in GROUPS if group != "other"]
    group_of = {recipe["name"]: recipe["group"] for recipe in recipes()}
    assert (group_of["replay"], group_of["sequential"], group_of["l2r-mh"]) == ("replay", "bounds", "isolated and routed")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("router: uniform\n")
    (tmp_path / "recipes" / "theirs.yaml").write_text("base: ewc\n")
    monkeypatch.setenv("LAB_PLUGINS", str(tmp_path))
    group_of = {recipe["name"]: recipe["group"] for recipe in recipes()}
    assert (group_of["mine"], group_of["theirs"]) == ("other", "regularisation")
    assert "group" not in configure("mine").to_dict()
    (tmp_path / "recipes" / "mine.yaml").write_text("group: replya\n")
    assert refused("list", "recipes") == "unknown group of recipe mine.yaml 'replya': did you mean 'replay'?\n"


# wrong requests, pipes, Ctrl-C --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rnu"], "unknown command 'rnu': did you mean 'run'?"),
        (["compose", "ad"], "unknown command of compose 'ad': did you mean 'add'?"),
        (["run", "l2r", "--sede", "1"], "unknown option of lab run '--sede': did you mean '--seed'?"),
        (["--verison"], "unknown option of lab '--verison': did you mean '--version'?"),
        (["show"], "missing argument 'RUN': lab show -h says what it takes"),
        (["run"], "name a recipe, for example: lab run l2r --stream builtin; lab list recipes shows them"),
        (["run", "train.lr=1"], "'train.lr=1' is an option: name a recipe before it, for example lab run l2r train.lr=1"),
        (["run", "l2r", "train.lr"], "'train.lr' is not an option: write key=value, for example train.lr=0.001"),
        (["run", "l2r", "seed=1", "-o", "seed=2"], "seed is given twice, with -o and without: leave one away"),
        (["run", "l2r", "-q", "-v"], "-q and -v exclude each other"),
        (["list", "routers", "--examples"], "--examples is about runs, not routers: lab list runs --examples"),
    ],
)
def test_usage_errors(words, line):
    assert refused(*words) == f"{line}\n"


def test_a_number_that_is_none():
    assert refused("run", "l2r", "--seed", "x").startswith("invalid value for '--seed': ")


def test_help_is_everywhere():
    for words in ([], ["run"], ["compose"], ["compose", "add"], ["list"]):
        assert lab(*words, "-h").stdout == lab(*words, "--help").stdout
    sections = re.findall(r"^(\w.*):$", lab("-h").stdout, flags=re.MULTILINE)
    assert sections == ["Options", "Train", "Look at runs", "Use what was trained", "Check and keep in order"]
    assert lab().exit_code == 2 and "Train:" in lab().stderr


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "lab", "list", "recipes"]
    write = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert write.stdout and write.stderr
    write.stdout.close()
    assert write.stderr.read() == b"" and write.wait() == 1


def test_ctrl_c_in_a_listing(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("lab.store.index.runs", interrupted)
    result = lab("list", "runs")
    assert (result.exit_code, result.output) == (130, "")


# options, dry runs, how much is said ------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_the_run_will_be_and_writes_nothing(runs, tmp_path):
    answer = json.loads(lab(*TINY, "--seed", "3", "--dry-run", "--json").stdout)
    assert not [*runs.iterdir()]
    assert answer["config"]["stream"]["tasks"] == ["news_topic", "question_type"] and answer["config"]["seed"] == 3
    assert [task["train"] for task in answer["tasks"]] == [16, 16] and answer["forecast"]["seconds"] > 0
    quiet = lab(*TINY[:2], *(word for change in SMALL for word in ("-o", change)), *TINY[-2:], "--seed", "3", "--id", "a", "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    run = Run.open("a")
    assert run.config == answer["config"]
    assert f"{answer['model']['trainable_parameters']:,} trainable parameters" in lab(*TINY, "--dry-run").stdout
    assert run.info["cost"]["trainable_parameters"] == answer["model"]["trainable_parameters"]
    assert "exists in" in refused(*TINY, "--id", "a", "--dry-run")
    assert "matches no linear layer" in refused(*TINY, "experts.targets=nothing,", "--dry-run")
    loud = lab(*TINY, "--seed", "4", "--id", "b", "-v")
    assert re.search(r"^\d\d:\d\d:\d\d Evaluated after 1, task 1, score ", loud.stderr, flags=re.MULTILINE), loud.stderr
    again = json.loads(lab("grid", grid(tmp_path), "--dry-run", "--json").stdout)
    assert [cell["status"] for cell in again["cells"]] == ["missing"] * 2 and again["forecast"]["seconds"] > 0
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]


def grid(folder: Path) -> Path:
    content = "recipes: [sequential, full]\nstream: builtin\nbackbone: tiny\nset: {stream.max_train: 16, train.epochs: 1}\n"
    (folder / "g.yaml").write_text(content)
    return folder / "g.yaml"


def test_where_an_error_comes_from(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [\n")
    short, long = (lab("run", str(tmp_path / "broken.yaml"), *more) for more in ([], ["-v"]))
    assert short.stderr.count("\n") == 1 and "Traceback" in long.stderr and long.stderr.endswith(short.stderr)


# examples, completion, the documentation ----------------------------------------------------------------------------------------


def test_recorded_examples_go_by_their_names(monkeypatch, runs):
    monkeypatch.delenv("LAB_EXAMPLES")
    assert json.loads(lab("show", "example-l2r", "--json").stdout)["run"] == "example-l2r"
    compared = json.loads(lab("compare", "example-l2r", "example-sequential", "--json").stdout)
    assert [result["recipe"] for result in compared] == ["l2r", "sequential"]
    assert {row["name"] for row in json.loads(lab("list", "runs", "--examples", "--json").stdout)} >= {"example-l2r"}
    assert "is a recorded example" in refused("remove", "example-l2r")
    assert refused("show", "exampel-l2r") == "unknown run 'exampel-l2r': did you mean 'example-l2r'?\n"
    write_run(runs, "example-l2r", "sequential", KEEPS)
    assert json.loads(lab("show", "example-l2r", "--json").stdout)["recipe"] == "sequential", "a run of one's own comes first"


def completed(line: str) -> set[str]:
    """What zsh is offered at the end of a line."""
    offered = lab(_LAB_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line).stdout
    return set(re.findall(r'^(?:.*\(\()?"([^"]+)"', offered, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lab ru", {"run"}),
        ("lab run l2r-", {"l2r-merge", "l2r-mh", "l2r-softmax"}),
        ("lab show ", {"a"}),
        ("lab compare a ", {"a"}),
        ("lab run l2r --stream bu", {"builtin"}),
        ("lab run l2r router=ga", {"router=gates"}),
        ("lab run l2r -o train.loss_classes=", {"train.loss_classes=task", "train.loss_classes=seen"}),
        ("lab run l2r train.l", {"train.lr=", "train.loss_classes="}),
        ("lab list ro", {"routers"}),
    ],
)
def test_completion(line, offered, runs):
    write_run(runs, "a", "l2r", KEEPS)
    assert completed(line) == offered


def test_completion_in_bash_which_cuts_words_at_the_sign_of_equality():
    words = {"COMP_WORDS": "lab run l2r router = ga", "COMP_CWORD": "5"}
    assert lab(_LAB_COMPLETE="complete_bash", **words).stdout.split() == ["gates"]


def test_the_examples_of_the_documentation(monkeypatch, tmp_path):
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("LAB_RUNS", "LAB_EXAMPLES"):
        monkeypatch.delenv(name, raising=False)
    commands = re.findall(r"^\$ lab (.*)$", text, flags=re.MULTILINE)
    assert len(commands) > 5
    for words in commands:
        result = lab(*shlex.split(words))
        assert result.exit_code == 0 and result.stdout, words + result.output
