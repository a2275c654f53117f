"""`lab check-plugin`: what is wrong with a plug-in is said in one line that names it, what it gave, and what is allowed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli import main
from lab.contracts.plugin_files import outcomes

pytestmark = pytest.mark.usefixtures("nothing_registered")

KINDS = {
    "router": '''
import torch
from lab.routers.base import Axes, Decision, Router

class Mine(Router):
    """Mine."""

    name = "mine"
    axes = Axes("model", "all", "soft")

    def forward(self, request):
        return Decision(torch.full((1, 1, self.heads, self.experts), 1 / self.experts))
''',
    "expert": '''
import torch
from lab.experts.base import Expert, ExpertOptions

class MineOptions(ExpertOptions):
    name: str = "mine"

class Mine(Expert):
    """Mine."""

    name = "mine"
    Options = MineOptions
    computation = "parameters, biases"

    def targets(self, model):
        return ["*"]

    def new(self, layer, generator):
        return {"shift": torch.zeros(layer.outputs)}

    def output(self, base, x, stack, w, how):
        blocks = stack["shift"].unflatten(-1, (w.shape[-2], -1))
        return base(x) + torch.einsum("...he,ehd->...hd", w, blocks).flatten(-2)
''',
    "method": '''
import torch
from lab.methods.base import Method

class Mine(Method):
    """Mine."""

    name = "mine"

    def terms(self, batch, out):
        return {"mine": out.logits.square().mean()}
''',
    "stream": '''
from lab.data.stream import Example, Stream, Task

class Mine(Stream):
    """Mine."""

    name = "mine"

    def names(self):
        return ["a", "b"]

    def load(self, name):
        rows = [Example(f"{name} number {n}", n % 2) for n in range(30)]
        return Task(name, ("no", "yes"), rows[::3], rows[1::3], rows[2::3])
''',
    "metric": '''
from lab.metrics.base import Metric

class Mine(Metric):
    """Lowest score."""

    name = "mine"
    path = "mine"
    title = "Mine"
    latex = "x"

    def compute(self, scores):
        return float(scores.last.min())
''',
}
CONSTRUCTOR = "    def __init__(self, path):\n        self.path = path\n\n    def "
FULL = "torch.full((1, 1, self.heads, self.experts), 1 / self.experts)"
RETURNED = 'return {"mine": out.logits.square().mean()}'
NEW = 'return {"shift": torch.zeros(layer.outputs)}'
WRONG = [  # kind, what is changed into what, and words of the answer
    ("router", "    def ", CONSTRUCTOR, "Mine is made with (options, layers, width), its __init__ takes (path)"),
    ("router", 'name = "mine"', "", 'Mine has no name of its own: write name = "mine"'),
    ("router", f"Decision({FULL})", FULL, "router 'mine' returned Tensor from forward: return a Decision"),
    ("router", FULL, "torch.ones(len(request.mask), self.experts)", "the shape (5, 3): expected (rows 1 or 5, layers 1 or 3"),
    ("router", FULL, "[0.5, 0.5]", "gave weights that are list: give a tensor of floats"),
    ("router", FULL, f"{FULL} / 0 * 0", "gave weights that are not finite"),
    ("router", FULL, f"{FULL} * 2.1", "gave weights whose sum is 2.100: divide by their sum"),
    ("router", FULL, f"{FULL}.mul_(torch.rand(()).lt(2))", "it draws from torch's global generator"),
    (
        "router",
        "        return",
        "        request.query.sum()\n        return",
        "of query, embedded and task only what `reads` declares is there",
    ),
    (
        "expert",
        NEW,
        "return [torch.zeros(layer.outputs)]",
        "'mine' returned list from new: return a dict of Tensors by name",
    ),
    ("expert", NEW, NEW.replace("zeros", "ones"), "a fresh expert changes the output"),
    ("expert", NEW, NEW.replace("zeros", "randn"), "new() draws from elsewhere: draw with generator=generator"),
    ("expert", "return base(x) +", "base(x) +", "expert 'mine' returned NoneType from output: return a tensor"),
    ("expert", "base(x) + ", "0 * ", "expected (rows 4, tokens 7, width 32)"),
    ("expert", '"*"', '"nowhere"', "matches no linear layer of this backbone; there are"),
    ("method", RETURNED, "return out.logits.sum()", "method 'mine' returned Tensor from terms: return a dict of Tensors by name"),
    ("method", RETURNED, 'return {"mine": 1.0}', "method 'mine' gave mine as float in terms: give a Tensor"),
    ("method", RETURNED, 'return {"task": out.logits.mean()}', "calls a loss term task, as another one is called"),
    ("method", "    def ", CONSTRUCTOR, "Mine is made with (options, learner, memory)"),
    ("stream", '["a", "b"]', '["b", "a"]', "names() gives ['b', 'a']: each once, in the order of the alphabet"),
    ("stream", "        return Task", "        Task", "stream 'mine' returned NoneType from load: return a Task"),
    ("stream", "rows[2::3])", "[])", "task 'a', test: 0 example(s); at least 2 are needed"),
    ("stream", "n % 2)", "n % 3)", "label 2 is outside 0..1"),
    ("stream", 'Example(f"{name} number {n}", n % 2)', '("a text", "yes")', "row 0 is ('a text', 'yes'): give Example(text"),
    ("stream", "    def ", CONSTRUCTOR, "Mine is made with (), its __init__ takes (path)"),
    ("metric", 'title = "Mine"', "", "Mine leaves out title"),
    ("metric", "float(scores.last.min())", "None", "metric 'mine' returned NoneType from compute: return a float"),
    ("metric", "float(", "100 * float(", "outside of its range (0, 1): correct one of them"),
    (
        "metric",
        'path = "mine"',
        'path = "forgetting"',
        "the path forgetting of a metric meets forgetting",
    ),
    ("metric", 'path = "mine"', 'path = "matrix"', "the path matrix of a metric meets matrix, which is something else"),
    ("metric", 'path = "mine"', 'path = "forgetting.of_old"', "the path forgetting.of_old of a metric meets forgetting"),
    ("metric", "scores.last.min()", "scores.last_one", "metric 'mine' failed in compute"),
    ("metric", "scores.last.min()", "scores.r[1, 1]", "raise Undefined('why')"),
]


def problem(file: Path) -> str:
    """What is found wrong first."""
    return next((outcome.problem for outcome in outcomes(str(file)) if outcome.problem), "")


@pytest.mark.parametrize(("kind", "old", "new", "words"), WRONG, ids=[f"{kind}-{words[:50]}" for kind, *_, words in WRONG])
def test_what_is_wrong_is_said_in_one_line(kind, old, new, words, tmp_path):
    assert KINDS[kind].count(old) >= 1
    (tmp_path / "mine.py").write_text(KINDS[kind].replace(old, new))
    answer = problem(tmp_path / "mine.py")
    assert words in answer and "\n" not in answer


RECIPES = [
    ("router: {nam: uniform}", "unknown option of router 'nam': did you mean 'name'?"),
    ("router: {name: unifrm}", "unknown router 'unifrm': did you mean 'uniform'?"),
    ("train: {lr: fast}", "train.lr = 'fast'"),
    ("train: {rate: 1}", "unknown option of train 'rate'"),
    ("- a", "recipe"),
    ("router: {name: oracle}\nexperts: {allocation: shared}", "oracle"),
]


@pytest.mark.parametrize(("text", "words"), RECIPES, ids=[text for text, _ in RECIPES])
def test_a_recipe_that_cannot_be(text, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    answer = problem(tmp_path / "mine.yaml")
    assert words in answer and "\n" not in answer


NONE = [
    ("class Mine(Router)\n    pass", "cannot be imported: SyntaxError"),
    ("class Mine: name = 'mine'", "offers no plug-in: a class"),
]


@pytest.mark.parametrize(("text", "words"), NONE)
def test_a_file_without_plugins(text, words, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    answer = CliRunner().invoke(main.app, ["check-plugin", str(tmp_path / "mine.py")])
    assert answer.exit_code == 2 and words in answer.stderr and len(answer.stderr.splitlines()) == 1


def test_the_command_line_says_what_passed_and_what_did_not(tmp_path):
    (tmp_path / "mine.py").write_text(KINDS["stream"])
    (tmp_path / "other.py").write_text(KINDS["metric"].replace("float(", "5 * float("))
    answer = CliRunner().invoke(main.app, ["check-plugin", str(tmp_path / "mine.py")])
    assert answer.exit_code == 0 and answer.stdout.splitlines()[-1] == "3 of 3 checks passed"
    answer = CliRunner().invoke(main.app, ["check-plugin", str(tmp_path)])
    assert answer.exit_code == 1 and "FAILED metric mine: values are in their range and repeat: compute() gave" in answer.stdout
    rows = json.loads(CliRunner().invoke(main.app, ["check-plugin", str(tmp_path), "--json"]).stdout)
    assert [row["problem"] != "" for row in rows][-2:] == [False, True] and {*rows[0]} == {"kind", "name", "check", "problem"}
