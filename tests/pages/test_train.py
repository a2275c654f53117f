"""Train: the form, the command and the recipe file say the same; links, presets, checks before the start."""

import ast
import dataclasses
import shlex
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest
from support.pages import open_page, task, texts
from support.processes import launch_nothing
from support.run_folders import KEEPS, TASKS, write_run, write_transfer
from typer.testing import CliRunner

from lab.cli import main
from lab.config.resolve import GROUPS, configure
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data import loading
from lab.jobs import jobs
from lab.pages.train_form import draft
from lab.training import forecast

PRESETS = ("First look", "See it forget", "In full")


@pytest.fixture
def started(monkeypatch):
    """Configurations that were started, instead of processes."""
    found = []

    def start(config, runs=None, together=False, id=None, name=""):
        found.append(config)
        return SimpleNamespace(id="new-run")

    monkeypatch.setattr(jobs, "start", start)
    return found


def test_train_shows_the_equivalent_command_of_a_change(runs):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/train.lr").set_value(0.01).run()
    app.multiselect(key="train/sequential/stream.tasks").set_value(["weather", "animals"]).run()
    command, recipe, python = (code.value for code in app.code)
    assert command == "lab run sequential -o 'stream.tasks=[weather, animals]' -o train.lr=0.01"
    assert recipe.startswith("base: sequential") and "lr: 0.01" in recipe and "overrides=" in python
    assert not app.button(key="train_start").disabled


def form_says(app: AppTest) -> dict[str, object]:
    """What the widgets of the form show, by the path of their option."""
    recipe, found = app.selectbox(key="recipe").value, {}
    for kind in ("selectbox", "number_input", "toggle", "text_input", "multiselect"):
        for one in getattr(app, kind):
            if (one.key or "").startswith(f"train/{recipe}/"):
                found[one.key.removeprefix(f"train/{recipe}/").partition("#")[0]] = one.value
    return found


def assert_the_form_says_what_will_run(app: AppTest) -> dict[str, object]:
    """Every option of the form against the configuration that its command makes, and that against the form."""
    made, shown = draft.flat(of_command(app)), form_says(app)
    for path, value in shown.items():
        if path != "methods" and path in made:
            expected = ", ".join(map(str, made[path])) if isinstance(made[path], list) and isinstance(value, str) else made[path]
            same = str(value) == str(expected) or value == expected or not (value or expected)
            assert same, (path, value, expected)
    assert len(shown) > 30 and {"train.lr", "backbone.name", "experts.skip", "router.name"} <= set(shown)
    return shown


def test_train_shows_what_fits_the_chosen_stream(runs):
    """A stream brings settings; the form shows them, and the recipe's own value is then a change like any other."""
    app = open_page("train", recipe="l2r", o="stream.name=strings")
    shown = assert_the_form_says_what_will_run(app)
    assert (shown["backbone.name"], shown["train.lr"], shown["experts.skip"]) == ("strings", 0.01, 0.0)
    assert app.code[0].value == "lab run l2r -o stream.name=strings"
    app.number_input(key="train/l2r/train.lr#1").set_value(0.002).run()
    app.selectbox(key="train/l2r/backbone.name#1").set_value("minilm").run()
    assert app.code[0].value == "lab run l2r -o stream.name=strings -o backbone.name=minilm -o train.lr=0.002"
    assert_the_form_says_what_will_run(app)
    app.selectbox(key="train/l2r/experts.name#1").set_value("ia3").run()
    assert_the_form_says_what_will_run(app)


def test_train_follows_a_change_of_the_stream(runs):
    """Settings that fit the stream come and go with it; what was changed by hand stays."""
    app = open_page("train", recipe="l2r")
    assert assert_the_form_says_what_will_run(app)["backbone.name"] == "minilm"
    app.number_input(key="train/l2r/seed").set_value(3).run()
    app.selectbox(key="train/l2r/stream.name").set_value("strings").run()
    assert assert_the_form_says_what_will_run(app)["backbone.name"] == "strings"
    assert app.code[0].value == "lab run l2r -o seed=3 -o stream.name=strings"
    app.selectbox(key="train/l2r/stream.name#1").set_value("builtin").run()
    assert assert_the_form_says_what_will_run(app)["train.lr"] == 0.002 and app.code[0].value == "lab run l2r -o seed=3"


def test_train_says_what_is_wrong_at_once(runs, started):
    app = open_page("train", recipe="l2r")
    app.number_input(key="train/l2r/memory.per_task").set_value(0).run()
    assert "needs stored examples" in texts(app) and app.button(key="train_start").disabled


def test_train_offers_the_options_of_the_chosen_plugins(runs):
    app = open_page("train", recipe="l2r")
    app.selectbox(key="train/l2r/router.name").set_value("uniform").run()
    assert "router.name=uniform" in app.code[0].value
    with pytest.raises(KeyError):
        app.number_input(key="train/l2r/router.temperature")
    app.multiselect(key="train/l2r/methods").set_value(["replay"]).run()
    app.number_input(key="train/l2r/methods.replay.per_step").set_value(4).run()
    assert "-o 'methods.replay={}'" in app.code[0].value and "methods.replay.per_step=4" in app.code[0].value


def test_train_starts_once(runs, started):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/seed").set_value(3).run()
    app.button(key="train_start").click().run()
    assert [config["seed"] for config in started] == [3]
    app.switch_page("train.py").run()
    app.button(key="train_start").click().run()
    assert len(started) == 1


def test_train_is_refused_in_a_read_only_lab(runs, started, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("train")
    assert "read-only" in texts(app)
    assert [button.label for button in app.button] == ["Use these settings"] * 3
    with pytest.raises(LabError, match="read-only"):
        forecast.ask({})


def test_train_refuses_settings_that_do_not_fit_the_tasks(runs, monkeypatch):
    odd = [dataclasses.replace(task(name), labels=("no", name)) for name in TASKS]
    monkeypatch.setattr(loading, "tasks_of", lambda stream, seed: odd)
    app = open_page("train", recipe="sequential", o=["scenario=domain", "seed=77"])
    assert "scenario domain needs tasks with identical label lists" in texts(app) and "Ready to start" not in texts(app)
    assert app.button(key="train_start").disabled and app.button(key="train_queue").disabled


def test_train_tells_what_is_to_be_expected(runs, monkeypatch):
    app = open_page("train", recipe="sequential")
    work = 4 * 3 + (3 * 2 * 6) * 3 + (4 + 8 + 12) + 2 * 3  # untrained, training, rows, validation
    seconds = work / forecast.DEFAULT["minilm"][0]
    assert app.metric[0].value == f"{seconds:.0f} s" and app.metric[2].value == "–"
    assert "no run with minilm was measured here yet" in texts(app)
    report = {"trainable_parameters": 4321, "layers": 2, "limit": 5, "device": "cpu", "dtype": "float32"}
    tokens = [["[CLS]", 101], ["a`b", 7], ["<b>", 8], ["##c", 9], ["[SEP]", 102]]
    row = {"train": 6, "validation": 2, "test": 4, "classes": 2, "labels": ["no", "yes"], "longest": 5, "at_limit": 0.5}
    tasks = [row | {"name": name, "examples": [{"label": "yes", "tokens": tokens}]} for name in TASKS]
    monkeypatch.setattr(forecast, "ask", lambda config: report | {"tasks": tasks})
    app.button(key="train_look").click().run()
    assert app.metric[2].value == "4,321" and "`<b>`:gray[:small[8]]" in texts(app) and "cut at 5 tokens" in texts(app)
    assert "50% of the texts reach the limit of 5 tokens" in texts(app) and "3.0 training examples per label" in texts(app)
    app.number_input(key="train/sequential/seed").set_value(1).run()  # another run: the report is not its
    assert app.metric[2].value == "–"


def test_train_says_when_data_or_model_cannot_be_loaded(runs, monkeypatch):
    def fail(config):
        raise LabError("the hub <b>cannot</b> be reached")

    monkeypatch.setattr(forecast, "ask", fail)
    app = open_page("train", o="stream.name=mtl5")
    assert app.metric[0].value == "–"
    app.button(key="train_look").click().run()
    assert "the hub <b>cannot</b> be reached" in texts(app) and not app.exception


def test_train_opens_a_link_and_a_preset(runs):
    link = ["train.lr=0.01", "methods.replay={}", "memory.per_task=7", "router.temperature=soon", "backbone.name=/etc", "x=1"]
    app = open_page("train", recipe="replay", o=link)
    command = app.code[0].value
    assert "train.lr=0.01" in command and "memory.per_task=7" in command  # what does not fit is left out
    assert "/etc" not in command and "soon" not in command and not app.button(key="train_start").disabled
    assert [text.split(":")[1].split("=")[0] for text in not_taken(app)] == [" router.temperature", " backbone.name", " x"]
    app.button(key="preset_First look").click().run()
    assert app.selectbox(key="recipe").value == "l2r" and "stream.max_train=60" in app.code[0].value
    assert app.query_params["o"] == [word for word in app.code[0].value.split() if "=" in word]


def not_taken(app: AppTest) -> list[str]:
    """What Train says about the parts of a link that it could not use."""
    return [one.value.replace("\\", "") for one in app.warning if one.value.startswith("Ignored:")]


def of_command(app: AppTest) -> dict[str, object]:
    """The configuration that the command beside the form makes."""
    recipe, *changes = (word for word in shlex.split(app.code[0].value)[2:] if word != "-o")
    return configure(recipe, changes).to_dict()


def in_a_form(content: dict[str, object]) -> dict[str, object]:
    """A configuration without what no form says."""
    return {name: value for name, value in content.items() if name not in ("recipe", "about", "scenarios")}


@pytest.mark.parametrize(
    "preset",
    [
        *PRESETS,
        {"recipe": "l2r", "o": ["stream.name=strings"]},
        {"recipe": "l2p", "o": ["stream.name=strings", "experts.name=ia3", "router.name=uniform"]},
        {"recipe": "custom", "o": ["stream.name=strings", "seed=2"]},
    ],
)
def test_the_recipe_file_beside_the_form_is_the_same_run_as_the_command(runs, tmp_path, preset):
    """For every preset, and where settings come with a stream: the file passes `lab validate` and says what the command says."""
    app = open_page("train", **(preset if isinstance(preset, dict) else {}))
    if isinstance(preset, str):
        assert [button.key for button in app.button if button.key.startswith("preset_")] == [f"preset_{name}" for name in PRESETS]
        app.button(key=f"preset_{preset}").click().run()
    (file := tmp_path / "mine.yaml").write_text(app.code[1].value)
    checked = CliRunner().invoke(main.app, ["validate", str(file)])
    assert checked.exit_code == 0, checked.output
    made, told = configure(str(file)).to_dict(), of_command(app)
    assert in_a_form(made) == in_a_form(told) and made["scenarios"] == told["scenarios"]
    call = ast.parse(app.code[2].value).body[1].value
    given = [ast.literal_eval(one) for one in (*call.args, *(named.value for named in call.keywords))]
    assert configure(*given).to_dict() == told


@pytest.mark.parametrize("settings", [("l2r", "train.epochs=5", "methods.ewc={}", "experts.isolated=false"), ("mhr", "seed=2")])
def test_a_run_of_a_recipe_file_is_duplicated_over_no_recipe(runs, settings):
    """Also one of the second protocol: the link of the button fills the form with all that differs from the defaults."""
    wanted = configure(*settings[:1], settings[1:]).to_dict() | {"recipe": "mine"}
    made = (write_transfer if "protocol" in wanted else write_run)(runs, "a")
    atomic_io.write_yaml(made.dir / "config.yaml", wanted)
    link = next(one.proto for one in open_page("jobs", job="a").get("page_link") if one.proto.label == "Duplicate")
    assert "recipe=custom" in link.query_string and "from=a" in link.query_string
    app = open_page("train", **{"recipe": "custom", "from": "a"})
    assert in_a_form(of_command(app)) == in_a_form(wanted)
    assert not not_taken(app) and app.code[0].value.startswith("lab run custom -o ")
    again = open_page("train", recipe="custom", o=list(app.query_params["o"]))
    assert again.code[0].value == app.code[0].value


def test_train_sets_the_size_of_a_pool(runs):
    """A choice that may be a number too; a bad one is named by the check."""

    def choose(what: str) -> None:
        box = app.selectbox(key="train/l2p/experts.allocation#1")
        box.options.append(what)  # as if it was typed
        box.set_value(what).run()

    app = open_page("train", recipe="l2p", o="experts.allocation=12")
    assert "-o experts.allocation=12" in app.code[0].value and not not_taken(app)
    choose("20")
    assert app.code[0].value == "lab run l2p -o experts.allocation=20" and of_command(app)["experts"]["allocation"] == 20
    choose("many")
    assert "experts.allocation" in app.error[0].value.replace("\\", "") and app.button(key="train_start").disabled
    choose("10")
    assert app.code[0].value == "lab run l2p"


def test_train_says_that_a_list_cannot_be_read(runs):
    app = open_page("train", recipe="mhr")
    for text in ("8, [32", "[8"):
        app.text_input(key="train/mhr/protocol.shots").set_value(text).run()
        assert "protocol.shots" in app.error[0].value.replace("\\", "") and app.button(key="train_start").disabled
        assert not app.exception and app.sidebar.caption
    app.text_input(key="train/mhr/protocol.shots").set_value("2, 4").run()
    assert of_command(app)["protocol"]["shots"] == [2, 4] and not app.error


def test_train_refuses_a_recipe_file_with_a_key_that_is_no_text(runs):
    app = open_page("train", recipe="l2r")
    app.file_uploader(key="train_file").set_value(("mine.yaml", b"base: sequential\ntrain:\n  1: 1", "text/yaml")).run()
    assert "mine.yaml, line 3: not valid YAML (the name 1 is no text: put it in quotation marks)" in texts(app)
    assert app.selectbox(key="recipe").value == "l2r" and not app.exception


def test_train_takes_no_path_of_a_file(runs):
    """Neither as a field nor from a link."""
    app = open_page("train", recipe="sapt", o="methods.reflection.pseudo=/etc/passwd")
    assert len(not_taken(app)) == 1 and "methods.reflection.pseudo" in not_taken(app)[0]
    assert not any("pseudo" in (box.key or "") for box in app.text_input) and "pseudo" not in app.code[0].value


STRANGE = {  # what a link may say, and how the remark about it begins
    "nonsense": "'nonsense' is not an option: write key=value",
    "train.lr=[": "the value of 'train.lr' cannot be read",
    "methods.replya={}": "unknown method 'replya': did you mean 'replay'?",
    "router.name=gatse": "router.name=gatse: the form has no such option",
    "experts.name=[1]": "experts.name=[1]: ",
    "stream.name=5": "stream.name=5: ",
    "stream.tasks=[weather, boats]": "stream.tasks=[weather, boats]: ",
    "stream.max_train=1": "stream.max_train=1: ",
    "memory.per_class=-1": "memory.per_class=-1: ",
    "memory.total=" + 20 * "9": "memory.total=" + 20 * "9" + ": ",
    "train.clip=.nan": "train.clip=nan: ",
    "decoding=7": "decoding=7: ",
}


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"o": [*STRANGE, "seed=3"]}, list(STRANGE.values())),
        ({"o": ["methods=7", "stream.name=nowhere", "seed=3"]}, ["unknown method '7'", "stream.name=nowhere: "]),
        ({"from": "nobody"}, ["unknown run 'nobody': there are: none"]),
        ({"recipe": "l2x", "o": ["seed=3"]}, ["unknown recipe 'l2x'"]),
    ],
)
def test_train_names_what_it_does_not_understand_in_a_link(runs, link, said):
    """The rest of the link counts, the form is there, and the remarks go with the first change."""
    app = open_page("train", **({"recipe": "l2r"} | link))
    assert not app.error and len(not_taken(app)) == len(said), not_taken(app)
    assert all(text.startswith(f"Ignored: {one}") for text, one in zip(not_taken(app), said, strict=True)), not_taken(app)
    assert app.code[0].value == ("lab run l2r" if "from" in link else "lab run l2r -o seed=3")
    app.number_input(key="train/l2r/seed#1").set_value(4).run()
    assert app.code[0].value == "lab run l2r -o seed=4" and not not_taken(app)


def test_train_begins_with_the_settings_of_a_run(runs):
    write_run(runs, "a", seed=4).dir.joinpath("config.yaml").write_text(
        "recipe: sequential\nseed: 4\ntrain: {epochs: 5, lr: 0.002}\nstream: {name: builtin, tasks: [weather, animals]}\n"
    )
    app = open_page("train", **{"recipe": "sequential", "from": "a"})
    command = app.code[0].value
    assert "seed=4" in command and "train.epochs=5" in command and "tasks=[weather, animals]" in command and "lr" not in command
    assert "from" not in app.query_params


def test_train_puts_a_run_into_the_queue_while_another_trains(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    launch_nothing(monkeypatch)
    write_run(runs, "live", matrix=KEEPS[:1], status="running")
    app = open_page("train", recipe="sequential")
    assert app.button(key="train_start").disabled and "live is running" in texts(app)
    app.button(key="train_queue").click().run()
    queued = jobs.waiting(runs)
    assert [run.config["recipe"] for run in queued] == ["sequential"] and not app.exception


def test_train_starts_beside_a_running_run_where_there_are_more_slots(runs, started, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "live", matrix=KEEPS[:1], status="running")
    monkeypatch.setenv("LAB_SLOTS", "2")
    app = open_page("train", recipe="sequential")
    assert "2 runs train at a time" in texts(app) and "Ready to start" in texts(app)
    app.button(key="train_start").click().run()
    assert [config["recipe"] for config in started] == ["sequential"]


TABLE = "team,body,answer\n" + "".join(f"{'ab'[i % 2]},a longer text {i},{('yes', 'no')[i % 3 == 0]}\n" for i in range(80))


def upload(app: AppTest, name: str = "tickets.csv", content: str = TABLE) -> AppTest:
    app.file_uploader(key="own_file").set_value((name, content.encode(), "text/csv")).run()
    assert not app.exception
    return app


def choose(app: AppTest, label: str, value: str) -> None:
    next(box for box in app.selectbox if box.label == label and box.key.startswith("own/")).set_value(value).run()


def test_data_of_ones_own_is_looked_at_saved_and_chosen(runs, started):
    app = upload(open_page("train", recipe="sequential", o=["train.lr=0.01"]))
    choose(app, "Task", "team"), choose(app, "Label", "answer")
    sizes, rows, classes = (frame.value for frame in app.dataframe[:3])
    assert [*sizes.task] == ["a", "b"] and len(rows) == 10 and [*classes.label] == ["no", "yes"]
    assert classes[["train", "validation", "test"]].to_numpy().sum() == 40
    assert "no test split" in texts(app)
    app.text_input(key="own_name").set_value("builtin").run()
    app.button(key="own_save").click().run()
    assert "'builtin' is a shipped stream" in texts(app)
    app.text_input(key="own_name").set_value("support").run()
    app.button(key="own_save").click().run()
    assert [path.name for path in (runs / "streams").iterdir()] == ["support"]
    says = form_says(app)
    assert (says["stream.name"], says["train.lr"]) == ("support", 0.01) and "Saved as the stream support" in texts(app)
    app.button(key="train_start").click().run()
    assert started[0]["stream"]["name"] == "support"


def test_uploads_that_cannot_be_a_stream_say_why(runs):
    app = open_page("train")
    refused = {
        "x,y\n1,2\n": "choose which column is the label: x, y",
        "PK\x03\x04": "xlsx",
        "": "not a readable",
        "x\n": "no rows",
    }
    for content, words in refused.items():
        upload(app, content=content)
        assert words in texts(app), texts(app)
        assert "own_save" not in [button.key for button in app.button]
    upload(app)
    choose(app, "Second text", "body")
    assert "column 'body' is chosen twice" in texts(app)


def test_who_only_looks_uploads_nothing(runs, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("train")
    assert "own_file" not in [uploader.key for uploader in app.file_uploader] and "read-only" in texts(app)


def test_options_are_found_by_words_and_say_their_section(runs):
    """What a search finds stands above the rest, keeps what was changed, and stays one option."""
    app = open_page("train", recipe="l2r")
    app.number_input(key="train/l2r/router_training.lr").set_value(0.5).run()
    app.text_input(key="train_search").set_value("router learning rate").run()
    assert app.number_input(key="train/l2r/router_training.lr").label == "Router training: learning rate"
    assert "options match" in texts(app) and "-o router_training.lr=0.5" in app.code[0].value
    app.text_input(key="train_search").set_value("no such thing").run()
    assert "No option matches." in texts(app) and "-o router_training.lr=0.5" in app.code[0].value and not app.exception


def test_recipes_are_offered_by_group_with_paper_and_uses(runs):
    app = open_page("train", recipe="replay-balanced")
    box = app.selectbox(key="recipe")
    assert box.value == "replay-balanced" and app.query_params["recipe"] == "replay-balanced"
    groups = [option.partition(" · ")[0] for option in box.options]
    assert list(dict.fromkeys(groups)) == [*GROUPS] and all(": " in option for option in box.options)
    shown = texts(app)
    assert "Paper: Prabhu et al. (2020" in shown and "Uses beside the examples of a task: stored examples" in shown
    assert "Paper" not in texts(open_page("train", recipe="l2r-mh"))
