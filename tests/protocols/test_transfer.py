"""Joint training and few-shot adaptation: what each recipe begins with and changes, what is measured, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import tiny, toy
from support.skills import asked, inventory
from support.tiny import hidden, rel
from typer.testing import CliRunner

import lab
from lab import views
from lab.cli import main
from lab.comparison import tables
from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.inference import loading
from lab.models.learner import Learner
from lab.protocols.transfer import JOINT, TransferOptions
from lab.routers.base import Decision
from lab.run_folder.run import Run
from lab.training.trainer import prepare
from lab.training.transfer_stages import ALIGNED, alignment

NAMES = ["sea", "city", "farm"]  # the last third is held out: farm
STAGES = [JOINT, "farm, 4 shots", "farm, 8 shots"]
SHOTS = ("protocol=transfer", "protocol.shots=[4, 8]", "protocol.adaptation.steps=3")
FULL = ("full", "scenario=task", *SHOTS, "experts.targets=[query, value]")
RECIPES = [(name,) for name in toy.recipes("transfer")] + [FULL]
TUNED = {"mhr-z": set(), "private": {"farm"}, "poly-mu": {"average"}, "mhr-mu": {"average"}}
TUNED |= {"shared": {"shared"}, "shared-wide": {"shared"}, "full": {"shared"}}
POOL = {f"pool-{k}" for k in range(8)}


def session(recipe: str, *more: str, **options):
    return toy.session(recipe, *more, of=toy.tasks(*NAMES, train=32, test=8), **options)


def parameters(made) -> dict[str, torch.Tensor]:
    """Copies of everything that can be trained: experts by their name, routing rows, classifier rows."""
    learner = made.learner
    found = {f"{bank}/{name}": p for k, bank in enumerate(learner.bank.names) for name, p in learner.bank.expert(k).items()}
    found |= {f"router/{name}": p for name, p in learner.router.named_parameters()}
    found |= {f"classifier/{name}": p for name, p in learner.head.classifier.named_parameters()}
    return {name: p.detach().clone() for name, p in found.items()}


@pytest.fixture(scope="module")
def trained():
    """By recipe: the session at its end, and its parameters after joint training, as adaptation begins, and after each stage."""
    known = {}

    def of(recipe: str, *more: str):
        if recipe not in known:
            made, moments = session("poly" if recipe == "gates" else recipe, *more), {}
            for event in made.train():
                if type(event).__name__ in ("Learned", "TaskStarted", "TaskEnded"):
                    moments[type(event).__name__, event.task] = parameters(made)
            known[recipe] = made, moments
        return known[recipe]

    return of


# recipes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[0])
def test_what_adaptation_changes(recipe, trained):
    """The classifier rows of the held-out task, its routing and the experts that the recipe tunes; always from one start."""
    made, moments = trained(*recipe)
    start = moments["TaskEnded", 0]
    for stage in (1, 2):
        assert toy.equal(moments["TaskStarted", stage], start)
        after = moments["Learned", stage]
        changed = {name for name in start if not torch.equal(start[name], after[name])}
        experts = TUNED.get(recipe[0], POOL)
        assert {name.split("/")[0] for name in changed} - {"router", "classifier"} == experts
        assert {name for name in changed if name.startswith("classifier")} == {"classifier/weight.2", "classifier/bias.2"}
        routed = recipe[0] in ("poly", "mhr", "mhr-z", "random")
        assert {name for name in changed if name.startswith("router")} == ({"router/logits.2"} if routed else set())
    assert toy.equal(parameters(made), start)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[0])
def test_what_joint_training_changes(recipe, trained):
    _, moments = trained(*recipe)
    before, after = moments["TaskStarted", 0], moments["Learned", 0]
    same = {name for name in before if torch.equal(before[name], after[name])}
    held = {"classifier/weight.2", "classifier/bias.2"} | {name for name in before if name == "router/logits.2"}
    assert same == held | {name for name in before if name.startswith("farm/")}


@pytest.mark.parametrize("recipe", ["mhr-z", "mhr"])
def test_mhr_z_leaves_every_adapter_bit_identical(recipe, tmp_path):
    made = session(recipe)
    run = toy.recorded(made, tmp_path)
    joint = {name: made.learner.bank.read(run.dir / "experts" / name) for name in sorted(POOL)}
    again = session(recipe)
    for event in again.train():
        if type(event).__name__ == "Learned" and event.task:
            same = [toy.equal(joint[name], toy.expert(again, name)) for name in joint]
            assert all(same) if recipe == "mhr-z" else not any(same)


def test_the_wide_control_has_the_size_of_the_skills(trained):
    wide, skills = (
        sum(p.numel() for k in range(len(made.learner.bank)) for p in made.learner.bank.expert(k).values())
        for made in (trained("shared-wide")[0], trained("poly")[0])
    )
    assert wide == skills
    assert configure("shared-wide").experts.alpha / 64 == configure("poly").experts.alpha / 8


@pytest.mark.parametrize("recipe", ["poly-mu", "mhr-mu"])
def test_mu_begins_with_the_mean_of_all_skills(recipe, trained):
    made, moments = trained(recipe)
    joint, start = moments["Learned", 0], moments["TaskEnded", 0]
    assert made.learner.bank.names == ["average"] and not [*made.learner.router.parameters()]
    for name in made.learner.bank.expert(0):
        mean = np.mean([joint[f"{skill}/{name}"].numpy().astype(np.float64) for skill in sorted(POOL)], axis=0)
        assert np.allclose(start[f"average/{name}"].numpy(), mean, atol=1e-7)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_collapsed_inventory_is_the_uniform_composition(heads):
    host, bank, router = inventory(heads)
    for row in router.logits:
        row.data.zero_()
    inputs = tiny.tokens()
    with torch.no_grad():
        with bank.routed(router(asked(torch.zeros(4, dtype=torch.long)))):
            expected = hidden(host, inputs)
        bank.average("average")
        with bank.routed(Decision(torch.ones(1, 1, 1, 1))):
            found = hidden(host, inputs)
    assert rel(found, expected) < 1e-5 < rel(found, hidden(tiny.model("bert"), inputs))


def test_random_begins_with_skills_that_were_never_trained(trained):
    _, moments = trained("random")
    fresh = session("random")
    fresh.protocol.add_all_tasks(fresh)
    never = {name: value for name, value in parameters(fresh).items() if name.startswith("pool")}
    start = moments["TaskEnded", 0]
    assert all(torch.equal(start[name], value) for name, value in never.items())
    assert any(not torch.equal(moments["Learned", 0][name], value) for name, value in never.items())


def test_routing_and_modules_have_rates_of_their_own():
    few = ("protocol.adaptation.lr=0.005", "protocol.adaptation.router_lr=0.4")
    made = session("mhr", "train.lr=0.003", "protocol.router_lr=0.2", *few)
    peaks = {0: [0.0, 0.0], 1: [0.0, 0.0]}
    for event in made.train():
        if type(event).__name__ == "Step" and event.task < 2:
            rates = [group["lr"] for group in made.optimizer.param_groups]
            peaks[event.task] = [max(pair) for pair in zip(peaks[event.task], rates, strict=True)]
            routing = {id(p) for p in made.optimizer.param_groups[1]["params"]}
            assert routing == {id(made.learner.router.logits[t]) for t in ([0, 1] if event.task == 0 else [2])}
    assert peaks == {0: [0.003, 0.2], 1: [0.005, 0.4]}


# measures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["mhr", "shared"])
def test_alignment_is_the_mean_cosine_of_the_tasks_gradients(recipe):
    sea, city, farm = toy.tasks(*NAMES, train=32, test=8)
    made = toy.session(recipe, of=[sea, city, replace(farm, name="meadow"), farm], seed=2)
    list(made.train())
    learner, gradients = made.learner, []
    experts = [p for k in range(len(learner.bank)) for p in learner.bank.expert(k).values()]
    for k in range(len(learner.bank)):
        learner.bank.trainable(k, True)
    found = alignment(made, range(3))
    assert ALIGNED >= 32  # so that all training examples take part, in whatever order
    for t in range(3):
        batch = learner.backbone.collate(made.rows[t, "train"])
        with learner.bank.routed(learner.decide(batch)):
            own = made.learner.head.space.own[t]
            logits = learner.head.logits(batch)[:, own.start : own.stop]
            torch.nn.functional.cross_entropy(logits, batch.label).backward()
        gradients.append(np.concatenate([p.grad.numpy().ravel() for p in experts]).astype(np.float64))
        for p in experts:
            p.grad = None
    g = np.array([gradient / np.linalg.norm(gradient) for gradient in gradients])
    cosines = g @ g.T
    assert found == pytest.approx(np.mean([cosines[0, 1], cosines[0, 2], cosines[1, 2]]), abs=1e-5)
    assert len(made.scores.alignment) == 4 and all(-1 <= value <= 1 for value in made.scores.alignment.values())


def test_private_experts_have_no_alignment(trained):
    made, _ = trained("private")
    assert set(made.scores.alignment.values()) == {None}


def test_measuring_changes_nothing(monkeypatch):
    plain = session("mhr")
    list(plain.train())
    monkeypatch.setattr("lab.training.transfer_stages.LOOKS", 0)
    without = session("mhr")
    list(without.train())
    assert without.scores.alignment == {} and toy.equal(parameters(plain), parameters(without))


def test_shots_are_balanced_and_those_of_fewer_are_among_those_of_more():
    made = session("poly")
    met = {}
    for event in made.train():
        if type(event).__name__ == "TaskStarted" and event.task:
            rows = made.stage.source
            met[len(rows)] = {row.key for row in rows}
            assert [row.label for row in rows].count(0) == len(rows) // 2 and {row.task for row in rows} == {2}
    assert sorted(met) == [4, 8] and met[4] < met[8]


def test_a_held_out_task_is_learned_and_none_of_it_is_met_before():
    """With all its examples the toy task is learned; before, nothing is known of it."""
    few = ("protocol.shots=[32]", "protocol.adaptation.steps=60", "protocol.adaptation.lr=0.02")
    made = session("poly", *few, "train.epochs=8", "experts.skip=0")
    seen = set()
    collate = made.learner.backbone.collate
    made.learner.backbone.collate = lambda rows: seen.update((row.task, row.key[1]) for row in rows) or collate(rows)
    for event in made.train():
        if type(event).__name__ == "Learned" and event.task == 0:
            assert seen == {(0, "train"), (1, "train")}
    assert made.scores.held_out["farm"]["32"] >= 0.75
    assert min(made.scores.trained.values()) >= 0.75


def test_recipes_that_differ_in_adaptation_share_their_joint_training(tmp_path):
    first = session("mhr", store=tmp_path)
    events = list(first.train())
    assert len([*tmp_path.iterdir()]) == 1 and not [e for e in events if type(e).__name__ == "TaskStarted" and e.reused]
    for recipe, joint in (("mhr-z", True), ("mhr-mu", True), ("poly", False)):
        made, alone = session(recipe, store=tmp_path), session(recipe)
        reused = [event.reused for event in made.train() if type(event).__name__ == "TaskStarted"]
        list(alone.train())
        assert reused == [joint, False, False] and toy.equal(parameters(made), parameters(alone))
        assert made.scores == alone.scores and (made.cursor.reused_s > 0) == joint
    assert len([*tmp_path.iterdir()]) == 2


# runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return toy.recorded(session("mhr"), tmp_path_factory.mktemp("runs"), "mine")


def test_result_and_files(run):
    result = run.result()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["protocol"], result["train_tasks"], result["status"]) == ("transfer", ["sea", "city"], "finished")
    assert list(result["held_out"]) == list(result["zero_shot"]) == ["farm"] and set(result["held_out"]["farm"]) == {"4", "8"}
    assert "matrix" not in result and result["average"] == {"0": result["zero_shot"]["farm"]} | result["held_out"]["farm"]
    assert result["trained_average"] == pytest.approx(np.mean([*result["trained"].values()]))
    assert result["alignment"] == pytest.approx(np.mean([*result["alignment_by_step"].values()]))
    assert result["uses"] == {"task_id": True, "stored_examples": 0, "generated_examples": 0} and result["why"] == {}
    layers, skills, heads = 2, 8, 8
    lora = layers * 8 * (32 + 32)
    assert result["cost"]["adapted_parameters"] == skills * lora + layers * heads * skills
    assert result["cost"]["trainable_parameters"] == skills * lora + 2 * layers * heads * skills + 2 * 2 * 33
    assert {path.name for path in (run.dir / "experts").iterdir()} == POOL
    assert run.tasks == STAGES and run.matrix.shape == (0, 3) and views.complete(run) and run.recorded() == [0]
    shares = views.routing_by_task(run)
    assert shares.shape == (2, 8) and np.allclose(shares.sum(axis=1), 1)
    for stage, tasks in enumerate((result["train_tasks"], ["farm"], ["farm"])):
        found = run.predictions(stage)
        assert list(found["task"].unique()) == tasks
        assert found.groupby("task")["correct"].mean().mean() == pytest.approx(run.recorded_scores["done"][stage])


def test_progress_counts_all_the_work(run):
    shares = [event["progress"] for event in run.events()]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    last = [event for event in run.events() if event["kind"] == "TaskEnded"][-1]
    assert last["progress"] == pytest.approx(1)


def test_recipes_are_compared_in_a_table_of_their_own(run, tmp_path):
    folder = run.dir.parent
    for seed in (0, 1):
        toy.recorded(session("shared", seed=seed), folder, f"shared-{seed}")
    toy.recorded(session("mhr", seed=1), folder, "mhr-1")
    toy.recorded(toy.session("sequential"), folder, "stream")
    found = [Run.open(id, folder) for id in ("mine", "mhr-1", "shared-0", "shared-1")]
    table = views.summary(found).set_index(["label", "measure"])
    scores = [one.result()["average"]["8"] for one in found[:2]]
    assert table.loc[("mhr", "average.8"), ["value", "n"]].tolist() == [pytest.approx(np.mean(scores)), 2]
    pair, others = views.differences(found, "average.8").iloc[0], [one.result()["average"]["8"] for one in found[2:]]
    assert (pair["n"], pair["mean"]) == (2, pytest.approx(np.mean(scores) - np.mean(others)))
    shown = CliRunner().invoke(main.app, ["compare", "mine", "stream", "--markdown", "--runs", str(folder)])
    assert shown.exit_code == 0
    stream, transfer = shown.stdout.split("\n\n| method", 1)[0], shown.stdout.rsplit("| method", 1)[1]
    assert "Forgetting" in stream and "8 shots" not in stream and "8 shots" in transfer and "Forgetting" not in transfer
    listed = json.loads(CliRunner().invoke(main.app, ["compare", "mine", "stream", "--json", "--runs", str(folder)]).stdout)
    assert [one.get("protocol") for one in listed] == ["transfer", None]
    assert "Gradient alignment" in tables.comparison(found).table.columns


def test_the_playground_is_for_streams(run):
    with pytest.raises(LabError, match="run 'mine' is of protocol transfer: texts can be asked of runs on a stream"):
        loading.load(run)


def test_commands_that_read_a_stream_say_so(run):
    folder = str(run.dir.parent)
    for words, said in (
        (["show", "mine", "--decompose"], "run 'mine' is of protocol transfer: nothing is forgotten"),
        (["compare", "mine", "--report", "x.html"], "a report is about runs on a stream"),
        (["replay", "mine", "--save", "x.jsonl"], "run 'mine' is of protocol transfer: a replay file is made of"),
    ):
        found = CliRunner().invoke(main.app, [*words, "--runs", folder])
        assert found.exit_code == 2 and said in found.stderr
    listed = json.loads(CliRunner().invoke(main.app, ["list", "runs", "--json", "--runs", folder]).stdout)
    assert next(one for one in listed if one["name"] == "mine")["average_accuracy"] is None


def test_lab_run(tmp_path):
    words = ["run", "poly", "--backbone", "tiny", "--runs", str(tmp_path / "runs"), "--id", "r", "--json"]
    options = [word for option in (*toy.TRANSFER, "stream.max_train=32", "train.epochs=1") for word in ("-o", option)]
    made = toy.folder(tmp_path / "s", toy.tasks(*NAMES))
    found = CliRunner().invoke(main.app, [*words, "--stream", str(made), *options])
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["protocol"] == "transfer" and result["train_tasks"] == ["city", "farm"] and list(result["held_out"]) == ["sea"]
    assert "sea, 4 shots" in found.stderr and "ETA" in found.stderr
    again = lab.run(
        "poly",
        ["stream.max_train=32", *toy.TRANSFER, "train.epochs=1"],
        stream=str(made),
        backbone="tiny",
        runs=tmp_path / "runs",
        progress=False,
    )
    assert again.result()["held_out"] == result["held_out"]


# bad input ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("protocol.held_out=[famr]", "unknown task in protocol.held_out 'famr': did you mean 'farm'?"),
        ("protocol.train_tasks=[see]", "unknown task in protocol.train_tasks 'see': did you mean 'sea'?"),
        (
            "protocol={name: transfer, train_tasks: [sea, farm], held_out: [farm]}",
            "task 'farm' is in protocol.train_tasks and in protocol.held_out: leave it on one side",
        ),
        ("protocol.held_out=[farm, farm]", "protocol.held_out names 'farm' twice: name each task once"),
        ("protocol.held_out=[]", "protocol.held_out holds no task: of 3 tasks some are trained on and some are held out"),
        (
            "protocol.held_out=[sea, city, farm]",
            "protocol.train_tasks holds no task: of 3 tasks some are trained on and some are held out",
        ),
        (
            "protocol.shots=[4, 33]",
            "protocol.shots = 33: held-out task 'sea' has 32 training examples: ask for at most these",
        ),
        (
            "router.heads=5",
            "router.heads = 5 does not divide the width 32 of layer encoder.layer.1.attention.self.query: "
            "choose one of 1, 2, 4, 8, 16, 32",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(options, said, tmp_path):
    stream = toy.folder(tmp_path / "stream", toy.tasks(*NAMES, train=32))
    with pytest.raises(LabError) as error:
        lab.run("poly", [options], stream=str(stream), backbone="tiny", runs=tmp_path / "runs")
    assert str(error.value) == said
    assert not (tmp_path / "runs").exists()


def test_every_label_gets_a_shot():
    of = [*toy.tasks("sea", "city"), toy.task("farm", labels=("no", "yes", "perhaps"))]
    with pytest.raises(LabError, match=r"protocol\.shots = 2: held-out task 'farm' has 3 labels: give each at least one shot"):
        toy.session("poly", "protocol.shots=[2]", of=of)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        (
            "poly",
            ["protocol=sequential"],
            "experts.allocation = 8: router skills does not learn with a pool: "
            "set protocol=transfer to train on all tasks at once, or use router=l2p or sparse, "
            "experts.allocation=per_task or shared",
        ),
        ("full", ["protocol=transfer"], "scenario class: transfer is between known tasks: use scenario=task"),
        (
            "replay",
            ["protocol=transfer", "scenario=task"],
            "recipe replay stores or replays examples of a stream, protocol transfer has none: drop one of the two",
        ),
        ("poly-mu", ["composition=mix"], "protocol.adaptation.start = average merges parameters: use composition=merge"),
        (
            "shared",
            ["protocol.adaptation.tuned=router"],
            "protocol.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained",
        ),
        (
            "poly",
            ["protocol.adaptation.tuned=router", "experts.allocation=1"],
            "protocol.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained",
        ),
        (
            "private",
            ["protocol.adaptation.tuned=router"],
            "protocol.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained",
        ),
        (
            "private",
            ["protocol.adaptation.start=average", "composition=merge"],
            "protocol.adaptation.start = average is of experts that tasks share: use a pool (experts.allocation=8)",
        ),
        *(
            (
                (
                    "private",
                    [f"router={name}"],
                    f"router {name} is made from isolated experts, one after the other, transfer trains all at once: "
                    "use one of attention, gates, l2p, oracle, progressive, skills, sparse, sum, uniform",
                )
            )
            for name in ("arrow", "phatgoose", "prototype")
        ),
        ("poly", ["protocol.held_ot=[a]"], "unknown option of protocol 'held_ot': did you mean 'held_out'?"),
        ("poly", ["protocol.shots=[]"], "protocol.shots = []: list should have at least 1 item after validation, not 0"),
        (
            "poly",
            ["experts.allocation=0"],
            "experts.allocation = 0: input should be 'per_task' or 'shared'; "
            "experts.allocation = 0: input should be greater than or equal to 1",
        ),
    ],
)
def test_combinations_that_cannot_work(recipe, options, said):
    with pytest.raises(LabError) as error:
        configure(recipe, options)
    assert str(error.value) == said


def test_sides():
    names = ["a", "b", "c", "d"]
    assert TransferOptions().sides(names) == (["a", "b", "c"], ["d"])
    assert TransferOptions(held_out=["c", "a"]).sides(names) == (["b", "d"], ["a", "c"])
    assert TransferOptions(train_tasks=["d"]).sides(names) == (["d"], ["a", "b", "c"])
    assert TransferOptions(train_tasks=["d"], held_out=["a"]).sides(names) == (["d"], ["a"])  # the others take no part


def test_a_run_on_a_stream_says_nothing_of_transfer():
    assert configure("l2r").to_dict()["protocol"] == {"name": "sequential"}
    assert configure("poly").to_dict()["protocol"]["shots"] == [8, 32]


def test_any_router_can_be_trained_jointly(trained):
    """One that reads the texts has parameters that all tasks share; every adaptation finds them as joint training left them."""
    _, moments = trained("gates", "router=gates")
    start = moments["TaskEnded", 0]
    for stage in (1, 2):
        assert toy.equal(start, moments["TaskStarted", stage])
        assert not torch.equal(start["router/weight.0"], moments["Learned", stage]["router/weight.0"])


def test_the_prior_is_part_of_the_loss_and_moves_rows_of_training_tasks_only():
    made, before = session("poly", "router.prior=0.1"), None
    for event in made.train():
        if type(event).__name__ == "TaskStarted" and event.task == 0:
            before = parameters(made)
        if type(event).__name__ == "Step":
            assert set(event.terms) == {"task", "prior"}
        if type(event).__name__ == "Learned" and event.task == 0:
            after, rows = parameters(made), [f"router/logits.{t}" for t in range(3)]
            assert [torch.equal(before[row], after[row]) for row in rows] == [False, False, True]


def test_room_is_made_for_every_task_by_its_name():
    """A task's routing row, classifier rows and expert do not depend on the tasks met before."""

    def row(*names):
        of = toy.tasks(*names, train=32)
        learner = Learner(prepare(configure("private", toy.overrides("private"), backbone="tiny"), of).model_copy(), of)
        for t in range(len(of)):
            learner.add_task(t)
        t = names.index("farm")
        return learner.bank.expert(t) | learner.head.classifier.block(t)

    assert toy.equal(dict(row("sea", "city", "farm")), dict(row("farm", "city", "sea")))
