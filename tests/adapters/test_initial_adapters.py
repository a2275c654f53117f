"""Runs whose experts begin as saved ones: what they begin with, that all else is as ever, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny, toy
from support.numbers import numbers
from typer.testing import CliRunner

import lab
from lab.adapters import peft_folder
from lab.cli import main
from lab.comparison.grid_runner import Grid
from lab.config.resolve import command_line, configure, validated
from lab.core.errors import LabError
from lab.routers.base import single_expert
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import recorder, runner

STILL = ("train.lr=1e-30", "train.epochs=1")  # a training that changes nothing
LAYER = "encoder.layer.1.attention.self.query"  # of the tiny backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the toy stream and a finished run `first` of it; nothing is added here."""
    root = tmp_path_factory.mktemp("starts")
    of = toy.folder(root / "toy", toy.tasks(train=32))
    lab.run("l2r", toy.overrides("l2r"), stream=str(of), backbone="tiny", runs=root / "runs", id="first", progress=False)
    return root


@pytest.fixture
def here(place, tmp_path):
    return shutil.copytree(place, tmp_path / "here")


def run(here, recipe: str, *options: str, id: str = "next") -> Run:
    options = toy.overrides(recipe, *options)
    return lab.run(recipe, options, stream=str(here / "toy"), backbone="tiny", runs=here / "runs", id=id, progress=False)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / peft_folder.WEIGHTS)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in a)


@pytest.mark.parametrize("recipe, name", [("l2r", "sea"), ("sequential", "shared"), ("private", "city")])
def test_an_expert_begins_as_the_saved_one(recipe, name, here):
    """After a training that changes nothing it is the saved one, and its neighbour the one that was drawn."""
    saved = here / "runs" / "first" / "experts" / "sea"
    begun = run(here, recipe, *STILL, f"experts.start={{{name}: first/sea}}")
    assert same(weights(begun.dir / "experts" / name), weights(saved))
    assert begun.config["experts"]["start"][name].startswith(f"{saved.resolve()}#")
    if recipe == "l2r":
        drawn = run(here, recipe, *STILL, id="drawn")
        assert same(weights(begun.dir / "experts" / "city"), weights(drawn.dir / "experts" / "city"))
        assert not same(weights(drawn.dir / "experts" / "sea"), weights(saved))


def test_logits_before_any_step_are_those_of_the_saved_expert(here):
    """The same classifier over the same expert answers alike; training then goes on from there."""
    options = toy.overrides("l2r", f"experts.start={{sea: {here / 'runs' / 'first' / 'experts' / 'sea'}}}")
    made = runner.session(configure("l2r", options, stream=str(here / "toy"), backbone="tiny"), keep=False)
    first = runner.session(validated(Run.open("first", here / "runs").config), keep=False)
    for each in (made, first):
        each.protocol.add_all_tasks(each)
    sea = made.learner.task_names.index("sea")
    k = made.learner.bank.names.index("sea")
    first.learner.bank.load_expert(k, first.learner.bank.read(here / "runs" / "first" / "experts" / "sea"))
    first.learner.head.classifier.load_state_dict(made.learner.head.classifier.state_dict())
    found = []
    for each in (made, first):
        with torch.no_grad(), each.learner.bank.routed(single_expert(k, each.learner.backbone.device)):
            found.append(each.learner.head.logits(each.learner.backbone.collate(each.rows[sea, "test"])))
    assert torch.equal(*found)
    begun, anew = (run(here, "l2r", *more, id=id) for id, more in (("begun", options[-1:]), ("anew", ())))
    assert not same(*(weights(each.dir / "experts" / "sea") for each in (begun, anew)))


def test_an_expert_that_is_made_anew_begins_so_again(here):
    options = toy.overrides("private", "experts.start.sea=first/sea")
    made = runner.session(configure("private", options, stream=str(here / "toy"), backbone="tiny"), here / "runs")
    made.protocol.add_all_tasks(made)
    k = made.learner.bank.names.index("sea")
    begun = toy.expert(made, "sea")
    made.learner.bank.load_expert(k, {name: tensor + 1 for name, tensor in begun.items()})
    made.learner.reinitialise()
    assert toy.equal(toy.expert(made, "sea"), begun)
    assert toy.equal(begun, made.learner.bank.read(here / "runs" / "first" / "experts" / "sea"))


@pytest.mark.parametrize("kind", ["bottleneck", "ia3", "full"])
def test_every_kind_of_expert_begins_so(kind, here):
    options = (
        ("experts.name=full", "experts.targets=[query]") if kind == "full" else (f"experts={kind}", "experts.allocation=shared")
    )
    first = run(here, "sequential", *options, "experts.allocation=shared", id="of-kind")
    begun = run(here, "sequential", *options, "experts.allocation=shared", *STILL, "experts.start.shared=of-kind/shared")
    assert same(weights(begun.dir / "experts" / "shared"), weights(first.dir / "experts" / "shared"))


def test_reuse_knows_what_an_expert_began_with(here):
    """The expert that begins otherwise is trained anew, once; its neighbour is the one that is kept."""

    def kept() -> int:
        return len(list((here / "runs" / ".experts").glob("*.safetensors")))

    def reused(run: Run) -> list[bool]:
        return [event["reused"] for event in run.events("TaskStarted")]

    before, start = kept(), "experts.start.sea=first/city"
    one = run(here, "l2r", start, id="one")
    assert one.tasks == ["city", "sea"] and reused(one) == [True, False] and kept() == before + 1
    assert reused(run(here, "l2r", start, id="two")) == [True, True]
    elsewhere = shutil.copytree(here / "runs" / "first" / "experts" / "city", here / "elsewhere")
    assert reused(run(here, "l2r", f"experts.start.sea={elsewhere}", id="three")) == [True, True]  # the content counts
    tensors = weights(elsewhere)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, elsewhere / peft_folder.WEIGHTS)
    assert reused(run(here, "l2r", f"experts.start.sea={elsewhere}", id="four")) == [True, False]
    assert kept() == before + 2


def test_a_killed_run_goes_on(here, monkeypatch):
    """Killed in the middle of the task whose expert began as a saved one; to the bytes of a run that was not."""
    options = toy.overrides("l2r", "experts.start.city=first/sea", "checkpoint.every=3", "reuse=false")
    whole = run(here, "l2r", *options, id="whole")
    made = runner.session(configure("l2r", options, stream=str(here / "toy"), backbone="tiny"), here / "runs")
    cut = create_run(made.config.to_dict(), here / "runs", "cut")
    happenings = recorder.record(cut, made)
    for event in happenings:
        if type(event).__name__ == "Step" and event.step == 4:
            break
    happenings.close()
    lab.resume("cut", here / "runs", progress=False)
    for name in ("city", "sea"):
        assert (cut.dir / "experts" / name / peft_folder.WEIGHTS).read_bytes() == (
            whole.dir / "experts" / name / peft_folder.WEIGHTS
        ).read_bytes()
    assert (cut.dir / "matrix.json").read_bytes() == (whole.dir / "matrix.json").read_bytes()
    words = command_line(whole.config)
    assert f"experts.start.city={(here / 'runs' / 'first' / 'experts' / 'sea').resolve()}#" in words


def test_a_run_does_not_go_on_from_another_expert(here):
    made = runner.session(
        configure("l2r", toy.overrides("l2r", "experts.start.sea=first/sea"), stream=str(here / "toy"), backbone="tiny"),
        here / "runs",
    )
    create_run(made.config.to_dict(), here / "runs", "queued")
    file = here / "runs" / "first" / "experts" / "sea" / peft_folder.WEIGHTS
    save_file({name: 2 * tensor for name, tensor in weights(file.parent).items()}, file)
    with pytest.raises(
        LabError, match=r"^experts.start.sea: the expert in .*sea has changed since the run was prepared: start a new"
    ):
        lab.resume("queued", here / "runs", progress=False)


def test_a_grid_takes_the_content_for_a_part_of_the_cell(here):
    path = here / "g.yaml"
    path.write_text(
        json.dumps(
            {
                "recipes": ["sequential"],
                "stream": str(here / "toy"),
                "backbone": "tiny",
                "seeds": [0],
                "set": {"train.epochs": 1, "experts.start": {"shared": "first/sea"}},
            }
        )
    )
    (cell,) = Grid(path, here / "runs").possible.values()
    list((made := Grid(path, here / "runs")).work())
    assert [entry["status"] for entry in made.result()["cells"]] == ["finished"]
    (again,) = Grid(path, here / "runs").possible.values()
    file = here / "runs" / "first" / "experts" / "sea" / peft_folder.WEIGHTS
    save_file({name: 2 * tensor for name, tensor in weights(file.parent).items()}, file)
    (other,) = Grid(path, here / "runs").possible.values()
    assert cell.hash == again.hash != other.hash


def test_a_carried_expert_and_its_control_are_runs(here):
    """An expert carried to a backbone, and values without content in its place: both begin a run there."""
    runs = here / "runs"
    carried = ("transfer", "first/sea", "--student", "tiny", "--runs", runs)
    for name, more in (("carried", ()), ("control", ("--control",))):
        done = CliRunner().invoke(main.app, ["compose", *map(str, (*carried, *more, "--out", here / name))])
        assert done.exit_code == 0, done.output
        begun = run(here, "sequential", *STILL, f"experts.start.shared={here / name}", id=name)
        assert same(weights(begun.dir / "experts" / "shared"), weights(here / name))
    assert not same(weights(here / "carried"), weights(here / "control"))


def damage(folder) -> None:
    (folder / peft_folder.WEIGHTS).write_bytes(b"damaged")


def infinite(folder) -> None:
    save_file({name: tensor / 0 for name, tensor in weights(folder).items()}, folder / peft_folder.WEIGHTS)


def of_another_backbone(folder) -> None:
    config = json.loads((folder / peft_folder.CONFIG).read_text())
    (folder / peft_folder.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "some/bert"}))
    save_file(weights(folder), folder / peft_folder.WEIGHTS)  # without the digest of its backbone


def wider(folder) -> None:
    shapes = {"A": (8, 64), "B": (64, 8)}
    tensors = {f"base_model.model.{LAYER}.lora_{part}.weight": numbers(*shape) for part, shape in shapes.items()}
    save_file(tensors, folder / peft_folder.WEIGHTS)
    config = json.loads((folder / peft_folder.CONFIG).read_text())
    (folder / peft_folder.CONFIG).write_text(json.dumps(config | {"target_modules": [LAYER]}))


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        (["experts.start={see: X}"], None, "unknown expert in experts.start 'see': did you mean 'sea'?"),
        (
            ["experts.start={sea: X}", "experts.rank=4"],
            None,
            "its rank is 8, the experts of this bank have 4: use -o experts.rank=8",
        ),
        (["experts.start={sea: X}", "experts=bottleneck"], None, "holds no expert of kind 'bottleneck'"),
        (
            ["experts.start={sea: X}"],
            of_another_backbone,
            "belongs to backbone some/bert, which is not here to be compared with tiny: use lab compose",
        ),
        (["experts.start={sea: X}"], wider, f"{LAYER}.lora_A has shape (8, 64), this bank needs (8, 32)"),
        (["experts.start={sea: X}"], damage, "cannot be read"),
        (["experts.start={sea: X}"], infinite, "holds values that are not finite"),
        (["experts.start={sea: X}"], shutil.rmtree, "there is no expert"),
        (["experts.start={sea: first}"], None, "experts.start.sea: 'first' is 2 experts: name one of first/city, first/sea"),
        (["experts.start={sea: first/se}"], None, "there is no expert 'first/se': name a folder, or RUN/EXPERT"),
        (["experts.start=5"], None, "experts.start = 5: input should be a valid dictionary"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_any_training(options, change, said, here):
    folder = shutil.copytree(here / "runs" / "first" / "experts" / "sea", here / "X")
    if change:
        change(folder)
    before = sorted((here / "runs").iterdir())
    with pytest.raises(LabError) as error:
        run(here, "l2r", *(option.replace("X", str(folder)) for option in options))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert sorted((here / "runs").iterdir()) == before


def test_peft_s_own_adapter_begins_an_expert(here):
    """A folder that peft wrote."""
    from peft import LoraConfig, get_peft_model

    from lab.models.pretrained import tiny as backbone

    theirs = get_peft_model(
        backbone()[0], LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], layers_to_transform=[1])
    )
    for i, (name, parameter) in enumerate(theirs.named_parameters()):
        if "lora_" in name:
            parameter.data = numbers(*parameter.shape, seed=i)
    theirs.save_pretrained(here / "theirs")
    begun = run(here, "l2r", *STILL, f"experts.start.sea={here / 'theirs'}")
    assert (
        tiny.rel(
            *(weights(at)[f"base_model.model.{LAYER}.lora_B.weight"] for at in (begun.dir / "experts" / "sea", here / "theirs"))
        )
        == 0
    )
