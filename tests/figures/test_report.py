"""The report: one file that opens with the network off, in light and dark, and says what the tables say."""

import csv
import json
import re
import shutil
import stat
from html import unescape
from pathlib import Path

import pytest
from scipy import stats
from support.browser import CHROMIUM, FLAGS, playwright
from support.decomposition import WENT
from support.run_folders import FORGETS, KEEPS, configuration, write_run
from support.run_folders import TASKS as TASKS_OF_ALL
from typer.testing import CliRunner

from lab import views
from lab.api import compare
from lab.cli import main
from lab.comparison import tables
from lab.config.resolve import command_line, configure, recipe_names
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.figures import report
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, update_info

TASKS = ["animals", "<b>weather</b>", "</script><i>x"]


@pytest.fixture
def three(runs):
    """Two seeds of a routed run and one without routing; the last one was decomposed."""
    made = [write_run(runs, "a", tasks=TASKS), write_run(runs, "b", tasks=TASKS, seed=1)]
    made.append(write_run(runs, "s", "sequential", FORGETS, tasks=TASKS, routed=False))
    atomic_io.write_json(made[2].dir / "decomposition.json", WENT)
    return made


def lab(*words: str, runs: Path | None = None):
    return CliRunner().invoke(main.app, [*words, *(["--runs", str(runs)] if runs else [])])


def refused(result, message: str) -> None:
    """Exit code 2, nothing on stdout, and one line."""
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1, result.output
    assert result.stderr.startswith(f"lab: {message}"), result.stderr


def test_the_file_holds_everything_once_and_nothing_from_elsewhere(three, tmp_path):
    path = tmp_path / "out.html"
    report.write(three, path, {"gone": "run 'gone' is damaged: <i>why</i>"})
    text = path.read_text(encoding="utf-8")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert text.count("plotly.js v") == 1 and not re.search(r"(src|href)\s*=|url\(|@import", markup)
    assert "run &#39;gone&#39; is damaged: &lt;i&gt;why" in markup and "<i>" not in markup and "<b>" not in markup
    drawn = json.loads(re.search(r"<script type=application/json id=figures>(.*?)</script>", text, re.S)[1])
    # scores, costs, two curves, losses; per run matrix, curves, interference; one decomposition, three maps of routing of two
    assert len(drawn) == 1 + len(tables.COSTS) + 3 + 3 * 3 + 1 + 2 * 3 == markup.count("role=img")
    assert markup.count("<figure hidden>") == len(tables.COSTS) - 1
    ranges = {(trace["zmin"], trace["zmax"]) for figure in drawn for trace in figure["data"] if trace["type"] == "heatmap"}
    assert all(low in (0, -high) for low, high in ranges) and {(0, 1), (-1, 1)} < ranges, "scores; costs and drift; times a share"
    table, notes = tables.comparison(three)
    cells = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", markup)]
    assert cells[: table.size] == [str(cell) for cell in table.to_numpy().ravel()]
    assert all(note in unescape(markup) for note in notes)
    assert "router.temperature" in markup and "No router error: there is one shared expert" in markup
    assert "where the losses of run" in markup, "runs that were not decomposed say how"


def test_differences_orders_and_sweeps_of_repeated_runs(runs):
    """Interval and p against scipy; what may not be claimed is grey; sections only where the runs have them."""
    away = {"replay": (0.1, 0.12, 0.17), "uniform": (0.1, -0.05, 0.02)}
    made = [write_run(runs, f"s{seed}", "sequential", seed=seed, events=False, routed=False) for seed in range(3)]
    for recipe, drops in away.items():
        for seed, drop in enumerate(drops):
            lower = [[score and score - drop for score in row] for row in KEEPS]
            made.append(write_run(runs, f"{recipe}{seed}", recipe, lower, seed=seed, events=False, routed=False))
    text = report.html(made, {})
    assert "Paired differences to sequential" in text and "<h2>Order" not in text and "<h2>Learning rates" not in text
    rows = re.findall(r"<tr( class=soft)?><th scope=row>(\w+)</th><td>Average accuracy</td>(.*?)</tr>", text)
    found = {name: (grey != "", re.findall("<td>(.*?)</td>", cells)) for grey, name, cells in rows}
    low, high = stats.ttest_1samp([-drop for drop in away["replay"]], 0).confidence_interval()
    assert found["replay"] == (False, ["3", "-0.130", f"[{low:+.3f}, {high:+.3f}]", "0.250", "yes", "–"])
    assert found["uniform"][0] and found["uniform"][1][4] == "no"
    one = report.html([made[0], made[3]], {})
    assert "<tr class=soft><th scope=row>replay</th>" in one and "one value has no interval" in one
    assert "differences may be chance: sequential; replay." in one


def test_the_report_has_the_order_and_the_sweep(runs):
    made = [write_run(runs, "there"), write_run(runs, "back", tasks=TASKS_OF_ALL[::-1])]
    text = unescape(report.html(made, {}))
    order = re.search(r"<h2>Order of the tasks</h2>.*?</table>", text, re.S)[0]
    assert "cooking → weather → animals</td><td>1</td><td>0.903</td>" in order and "<h2>Learning rates" not in text
    for rate, score in ((1e-4, 0.5), (1e-3, 0.9)):
        made.append(write_run(runs, f"r{score}", validation=[score] * 3, events=False, routed=False))
        atomic_io.write_yaml(made[-1].dir / "config.yaml", configuration(train={"lr": rate, "epochs": 2}))
    swept = re.search(r"<h2>Learning rates</h2>.*?</table>", unescape(report.html(made[2:], {})), re.S)[0]
    assert re.findall("<td>(.*?)</td>", swept) == ["0.0001", "1", "0.500", "–", "–", "no", "0.001", "1", "0.900", "–", "–", "yes"]


def test_one_unfinished_run_makes_a_report(runs, tmp_path):
    report.write([write_run(runs, "a", matrix=KEEPS[:1], status="stopped")], tmp_path / "out.html")
    text = unescape((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "No cost is measured yet." in text and "needs at least two learned tasks" in text and "There is one run only." in text


@pytest.mark.parametrize(
    "more", [(), ("seed=3", "backbone=tiny", "stream.tasks=[b, a c]", "stream.max_train=9", "train.lr=1e-05")]
)
@pytest.mark.parametrize("recipe", recipe_names())
def test_commands_give_the_very_configuration(recipe, more):
    content = configure(recipe, more).to_dict()
    words = command_of(content)
    assert words[2] == recipe and configure(words[2], words[4::2]).to_dict() == content
    assert len(words) == 3 + 2 * len(more), "and nothing that need not be said"


def command_of(content: dict) -> list[str]:
    import shlex

    words = shlex.split(command_line(content))
    assert words[:2] == ["lab", "run"] and set(words[3::2]) <= {"-o"}
    return words


def test_command_of_a_recipe_file_that_is_not_shipped():
    changes = ["recipe=my recipe", "stream=a folder/x", "experts=bottleneck", "router.gate=softmax", "about=mine"]
    content = configure("l2r", changes).to_dict()
    words = command_of(content)
    assert words[2] == "custom" and configure("custom", words[4::2]).to_dict() | {"about": "mine"} == content
    replay = configure("replay", ["recipe=own", "methods.replay.per_step=3"]).to_dict()
    assert configure("custom", command_of(replay)[4::2]).to_dict() | {"about": replay["about"]} == replay
    with pytest.raises(LabError, match="cannot be written as options"):
        command_line(content | {"seed": -1})


# lab compare ------------------------------------------------------------------------------------------------------------------


def test_report_from_the_command_line(three, tmp_path):
    path = tmp_path / "out.html"
    done = lab("compare", "a", "b", "s", "--report", str(path))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"the report is in {path}\n")
    assert path.stat().st_size > 4_000_000 and [*tmp_path.glob(".*")] == []
    done = lab("compare", "a", "--report", str(path), "--json")
    assert [run["run"] for run in json.loads(done.stdout)] == ["a"]


@pytest.mark.parametrize("form", tables.FORMATS)
def test_formats_from_the_command_line(form, three):
    done = lab("compare", "a", "s", f"--{form}")
    assert done.exit_code == 0 and done.stdout == tables.FORMATS[form]([three[0], three[2]]) and done.stderr == ""


def test_unequal_runs_are_said_everywhere(runs, tmp_path):
    """Scenario, stream (of equal task names) and backbone, before the numbers: on stderr and in the report."""
    for id in ("a", "b"):
        write_run(runs, id)
    equal = {"recipe": "l2r", "seed": 1, "scenario": "task", "backbone": {"name": "minilm"}}
    equal["stream"] = {"name": "mine", "tasks": TASKS_OF_ALL}
    atomic_io.write_yaml(runs / "b" / "config.yaml", configuration(**equal))
    path = tmp_path / "out.html"
    done = lab("compare", "a", "b", "--markdown", "--report", str(path))
    said = [
        f"These runs differ in their {what}. Their scores mean different things."
        for what in ("streams: builtin, mine", "scenarios: class, task", "backbones: tiny, minilm")
    ]
    said.append(
        "These runs differ in their examples per task (stream.max_train 100, all), which changes their scores: choose runs with "
        "the same numbers of examples, or train them again with the same."
    )
    assert done.exit_code == 0 and done.stderr.splitlines()[:4] == said == views.unequal([Run.open(id, runs) for id in "ab"])
    text = unescape(path.read_text())
    assert all(0 < text.index(sentence) < text.index("<h2>Numbers") for sentence in said)
    assert lab("compare", "a").stderr == ""


def test_two_formats_exclude_each_other(three):
    refused(lab("compare", "a", "--csv", "--latex"), "--csv and --latex exclude each other: one table is printed")


def broken(runs: Path) -> dict[str, str]:
    """One run of every kind that cannot be compared: its id and the reason."""
    write_run(runs, "torn").dir.joinpath("matrix.json").write_text("[]")
    newer = write_run(runs, "newer")
    update_info(newer, format=99)
    write_run(runs, "waiting", matrix=[], status="queued", events=False)
    write_run(runs, "early", matrix=[], status="stopped", events=False)
    return {
        "torn": "run 'torn' is damaged: matrix.json holds no JSON object",
        "newer": "run 'newer' was written by a newer version (format 99, this one reads 1)",
        "waiting": "run 'waiting' is queued: its numbers still change",
        "early": "run 'early' is stopped and has learned no task",
    }


def test_runs_that_cannot_be_compared_are_left_out_with_their_reason(three, runs, tmp_path):
    reasons, path = broken(runs), tmp_path / "out.html"
    done = lab("compare", "a", *reasons, "s", "--json", "--report", str(path))
    assert [run["run"] for run in json.loads(done.stdout)] == ["a", "s"]
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [*(f"left out: {reason}" for reason in reasons.values()), f"the report is in {path}"]
    assert all(f"Left out: {id}. {reason}" in unescape(path.read_text()) for id, reason in reasons.items())


def test_a_running_run_is_left_out(three, runs, monkeypatch):
    write_run(runs, "busy", matrix=KEEPS[:2], status="running")
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    done = lab("compare", "a", "busy", "--csv")
    assert done.exit_code == 0 and done.stderr == "left out: run 'busy' is running: its numbers still change\n"


def test_the_same_run_twice_counts_once(three, runs):
    """Else two equal values would have an interval of width zero. In Python and on the page the same holds."""
    write_run(runs, "again", tasks=TASKS)
    said = "left out: run 'again' has the settings and the seed of 'a': it would count twice"
    done = lab("compare", "a", "again", "s", "--csv")
    assert done.stderr == f"{said}\n" and {row["n"] for row in csv.DictReader(done.stdout.splitlines())} == {"1"}
    with pytest.warns(UserWarning, match=said):
        assert set(compare("a", "again", "s", runs=runs).numbers["n"]) == {1}


def test_nothing_to_compare(three, runs, tmp_path):
    path = tmp_path / "out.html"
    refused(lab("compare", "--report", str(path)), "name at least one run to compare: ")
    refused(lab("compare", *broken(runs), "--report", str(path)), "there is nothing to compare: run 'torn' is damaged")
    refused(lab("compare", "a", "bb", "--report", str(path)), "unknown run 'bb'")
    assert not path.exists() and [*tmp_path.glob("*.html*")] == []


def test_report_paths_that_cannot_be_written(three, tmp_path):
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    for path, reason in {
        tmp_path: "it is a folder",
        tmp_path / "no" / "out.html": f"there is no folder {tmp_path / 'no'}",
        tmp_path / "file" / "out.html": f"there is no folder {tmp_path / 'file'}",
    }.items():
        refused(lab("compare", "a", "--report", str(path)), f"the report {path} cannot be written: {reason}\n")
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_one_line(three, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_io, "replace_bytes", full)
    path = tmp_path / "out.html"
    refused(lab("compare", "a", "--report", str(path)), f"the report {path} cannot be written: No space left on device\n")


def test_a_folder_without_permission(three, tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write anywhere
    path = closed / "x.html"
    refused(lab("compare", "a", "--report", str(path)), f"the report {path} cannot be written: permission denied\n")
    closed.chmod(stat.S_IRWXU)
    shutil.rmtree(closed)


# in a browser -----------------------------------------------------------------------------------------------------------------

PATIENCE = 120_000  # milliseconds; drawing takes one or two seconds where nothing else runs
browser = pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.browser
@browser
@pytest.mark.parametrize(
    ("scheme", "width", "ink", "ground"),
    [
        pytest.param("light", 1440, "rgb(27, 31, 36)", "rgb(255, 255, 255)", marks=pytest.mark.clicks),
        pytest.param("dark", 375, "rgb(230, 233, 237)", "rgb(18, 22, 28)"),
    ],
)
def test_it_opens_with_the_network_off(chromium, three, tmp_path, scheme, width, ink, ground):
    report.write(three, tmp_path / "out.html")
    local = ("file:", "data:")
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
    context.set_default_timeout(PATIENCE)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error, to=problems: to.append(str(error)))
    page.on("console", lambda line, to=problems: to.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request, to=problems: None if request.url.startswith(local) else to.append(request.url))
    page.goto((tmp_path / "out.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2 * 28")
    assert problems == []
    assert page.locator("b, i").count() == 0 and page.get_by_role("cell", name="0.627", exact=True).count()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing scrolls sideways but tables"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill") == ink
    context.close()


@pytest.mark.clicks
@pytest.mark.browser
@browser
def test_the_reader_chooses_the_cost(chromium, runs, tmp_path):
    made = [write_run(runs, "a"), write_run(runs, "s", "sequential", FORGETS, routed=False)]
    update_info(made[1], cost=made[1].info["cost"] | {"train_s": 1.0})
    assert made[1].result()["average_accuracy"] < made[0].result()["average_accuracy"], "cheaper and worse: nobody is dominated"
    report.write(made, tmp_path / "out.html")
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto((tmp_path / "out.html").as_uri())
    page.get_by_label("Cost:").select_option("Training seconds")
    cost = "div:has(> label) > figure:not([hidden])"
    chart = page.locator(cost)
    assert "By training seconds, no method is dominated." in chart.inner_text()
    traces = f"document.querySelector('{cost} .js-plotly-plot')._fullData"
    drawn = page.evaluate(f"{traces}.flatMap(trace => [...trace.x])")
    assert {12.5, 1.0} <= set(drawn), drawn
    # As wide as the page, though it was hidden at first.
    page.wait_for_function(f"document.querySelector('{cost} .main-svg').clientWidth > 900")
    page.close()


def test_the_report_of_a_real_configuration_holds_its_command(runs, tmp_path):
    run = create_run(configure("l2r", ["seed=5"]).to_dict(), runs, "real", "stopped")
    atomic_io.write_json(run.dir / "matrix.json", {"tasks": ["a", "b"], "matrix": [[0.5, None]], "zero_shot": None})
    report.write([run], tmp_path / "out.html")
    assert "<pre>lab run l2r -o seed=5</pre>" in (tmp_path / "out.html").read_text()
