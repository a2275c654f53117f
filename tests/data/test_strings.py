"""The world of strings: skills by hand, tasks whose truth is known, shipped weights that do what they are said to do."""

import random
import string
from itertools import combinations

import numpy as np
import pytest
import torch
import typer
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.analysis import skill_recovery as recoveries
from lab.analysis.skill_recovery import recovered, recovery
from lab.config.resolve import command_line, configure, validated
from lab.config.schema import BackboneConfig
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data.loading import load_tasks, open_stream
from lab.data.stream import Example
from lab.data.strings import pretrain
from lab.data.strings.skills import BASIC, PAIRS, SKILLS, TASKS, apply, draw, prompt, truth
from lab.models.backbone import Backbone
from lab.models.pretrained import STRINGS, resolve
from lab.run_folder.run import Run

BY_HAND = {
    "copy": "zebra",
    "reverse": "arbez",
    "sort": "aberz",
    "shift": "afcsb",
    "rotate": "ebraz",
    "swap": "ezrba",
    "duplicate": "zzeebbrraa",
}


def test_skills_by_hand():
    assert {name: skill("zebra") for name, skill in SKILLS.items()} == BY_HAND
    assert apply(["sort", "reverse"], "zebra") == "zreba" and apply(["reverse", "shift"], "abz") == "acb"
    assert prompt("Q", "abc") == "Q:abc>"


def test_tasks_are_known_compositions():
    """The target is what the skills make of the string in the prompt, and nothing else tells the task but its tag."""
    tasks = load_tasks("strings")
    assert [task.name for task in tasks] == sorted(TASKS) and len({tag for tag, _ in TASKS.values()} | {*BASIC.values()}) == len(
        TASKS
    ) + len(BASIC)
    for task in tasks:
        tag, skills = TASKS[task.name]
        assert task.generates and task.about == " then ".join(skills)
        for split, size in (("train", 2000), ("validation", 100), ("test", 200)):
            rows = task.split(split)
            assert len(rows) == size
            for example in rows:
                text = example.text.removeprefix(f"{tag}:").removesuffix(">")
                assert 4 <= len(text) <= 8 and set(text) <= set(string.ascii_lowercase)
                assert example == Example(f"{tag}:{text}>", 0, targets=(apply(skills, text),))
    again = {task.name: task.digest() for task in load_tasks("strings")}
    assert again == {task.name: task.digest() for task in tasks}


def test_the_truth_is_a_table_of_tasks_and_skills():
    tasks, skills = list(TASKS), list(SKILLS)
    made = truth(tasks)
    assert made.shape == (len(tasks), len(skills)) and made.dtype == bool
    assert [skills[i] for i in made[tasks.index("descending")].nonzero()[0]] == ["reverse", "sort"]
    assert made.sum(1).tolist() == [len(TASKS[task][1]) for task in tasks]


def test_the_stream_brings_its_backbone():
    assert configure("l2r", stream="strings").backbone.name == "strings"
    assert configure("l2r", ["stream=strings", "backbone=tiny"]).backbone.name == "tiny"
    assert configure("l2r").backbone.name == "minilm" and not open_stream("builtin").fit


def test_what_fits_the_stream_stands_between_recipe_and_options(tmp_path):
    usual, here = configure("l2r"), configure("l2r", stream="strings")
    assert (usual.experts.skip, usual.train.lr, here.experts.skip, here.train.lr) == (0.5, 2e-3, 0.0, 0.01)
    assert here.router_training == usual.router_training and here.train.epochs == usual.train.epochs
    assert configure("l2r", ["experts.skip=0.25"], stream="strings").experts.skip == 0.25
    own = tmp_path / "mine.yaml"
    own.write_text("base: l2r\nstream: strings\ntrain: {lr: 0.003}\n")
    assert configure(str(own)).train.lr == 0.003 and configure(str(own)).backbone.name == "strings"
    assert validated(here.to_dict()) == here and command_line(here.to_dict()) == "lab run l2r -o stream.name=strings"
    joined = configure("l2r", ["stream.sources=[strings, builtin]", "stream.name=strings"])
    assert joined.backbone.name == "minilm"


def test_the_shipped_weights_know_the_basic_skills():
    """Above 95 % exact match on fresh strings, each skill by itself; the tasks of the stream are new to them."""
    made = Backbone(resolve(BackboneConfig(name="strings", device="cpu")), generates=True)
    chance = random.Random("fresh strings")

    def exact(tag: str, skills: tuple[str, ...], count: int = 100) -> float:
        texts = [draw(chance) for _ in range(count)]
        rows = made.encode([Example(prompt(tag, text), 0, targets=(apply(skills, text),)) for text in texts], 0, "test")
        written = made.write(made.collate(rows), 18, 1)
        return sum(text == row.answers[0] for text, row in zip(written, rows, strict=True)) / count

    for skill, tag in BASIC.items():
        assert exact(tag, (skill,)) > 0.95, skill
    for tag, skills in TASKS.values():
        assert exact(tag, skills, 20) < 0.2
    files = {path.name: path.stat().st_size for path in STRINGS.iterdir()}
    assert set(files) == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(files.values()) < 4e6 and sum(p.numel() for p in made.model.parameters()) == 663_808


def test_the_script_makes_such_a_backbone(tmp_path, capsys):
    """Two steps make the same files with the same tokenizer; the same seed makes the same weights."""
    for name in ("a", "b"):
        pretrain.pretrain(tmp_path / name, steps=2)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in STRINGS.iterdir()}
    assert (tmp_path / "a" / "tokenizer.json").read_text() == (STRINGS / "tokenizer.json").read_text()
    made = Backbone(resolve(BackboneConfig(name=str(tmp_path / "a"), device="cpu", dtype="float32", threads=1)), generates=True)
    assert made.width == 128 and made.write(made.collate(made.encode([Example("C:ab>", 0)], 0, "test")), 2, 1)


def test_labels_of_the_pretraining_batch_cover_the_answers_only():
    tokens = pretrain.tokenizer()
    ids, labels = pretrain.batch(tokens, random.Random(0), 16)
    for row, label in zip(ids, labels, strict=True):
        asked, answer = tokens.decode(row, skip_special_tokens=True).split(">")
        skill = {tag: name for name, tag in BASIC.items()}[asked[0]]
        assert answer == apply([skill], asked[2:])
        assert tokens.decode(label[label != -100]) == f"{answer}<end>"
        assert torch.equal(row[label != -100], label[label != -100])


@pytest.mark.parametrize("text", ["", "?", "é"])
def test_texts_outside_its_letters_can_be_read(text):
    made = Backbone(resolve(BackboneConfig(name="strings", device="cpu")), generates=True)
    assert isinstance(made.write(made.collate(made.encode([Example(text, 0)], 0, "test")), 3, 1)[0], str)


# recovery of skills ---------------------------------------------------------------------------------------------------------


def test_an_allocation_that_is_the_truth_is_recovered_whatever_the_order_and_scale():
    found = truth(list(TASKS))
    skills = np.flatnonzero(found.std(0) > 0)
    modules = np.random.default_rng(0).permutation(len(skills))
    exact = recovery(3.0 * found[:, skills][:, modules] + 0.5, found)
    assert exact.score == pytest.approx(1.0)
    assert {(s, int(skills[modules[k]])) for s, k, _ in exact.pairs} == {(int(s), int(s)) for s in skills}
    assert recovery(np.full((len(TASKS), 4), 0.25), found).score == 0.0


def test_recovery_by_hand():
    """Module 1 is skill 0 exactly; module 0 correlates with skill 1 by 1/sqrt(3); the constant skill 2 is left out."""
    known = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], dtype=bool)
    learned = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    found = recovery(learned, known)
    assert [(s, k) for s, k, _ in found.pairs] == [(0, 1), (1, 0)]
    assert found.score == pytest.approx((1 + 1 / 3**0.5) / 2)
    assert recovery(learned[:, 1:], known).score == pytest.approx(0.5)  # one module: the second skill has none
    with pytest.raises(LabError, match="of 4 tasks, the truth of 3"):
        recovery(learned, known[:3])
    with pytest.raises(LabError, match="nothing to recover"):
        recovery(learned, known[:, 2:])


def test_recovery_of_a_run_against_shuffled_tasks(tmp_path):
    """An allocation that is the truth, recorded in one head, is told from one that is not, in the other."""
    tasks = list(PAIRS)
    run = write_run(tmp_path, "known", matrix=[[0.5] * len(tasks)] * len(tasks), tasks=tasks, heads=2)
    path = run.dir / "routing" / f"after_{len(tasks) - 1}.safetensors"
    arrays, about = atomic_io.read_arrays(path)
    known = truth(tasks)
    for t in range(len(tasks)):
        weights = np.zeros_like(arrays[f"{t}/weight_sum"])  # (L, H, E)
        weights[:, 0, : known.shape[1]] = known[t]
        weights[:, 1, : known.shape[1]] = known[(t + 1) % len(tasks)]
        arrays[f"{t}/weight_sum"] = weights * arrays[f"{t}/count"]
    atomic_io.write_arrays(path, arrays, about)
    found = recovered(run)
    assert found.scores[:, 0] == pytest.approx(1.0) and (found.scores[:, 1] < 0.8).all()
    assert found.chance.shape == (recoveries.DRAWS, 2) and found.chance.mean() < 0.6
    assert found.p() == pytest.approx(1 / (1 + recoveries.DRAWS))  # no shuffling comes near
    command = typer.Typer()
    command.command()(recoveries.main)
    shown = CliRunner().invoke(command, ["known", "--runs", str(tmp_path)])
    assert shown.exit_code == 0 and f"1.00 {found.scores[0, 1]:.2f}" in shown.stdout
    write_run(tmp_path, "others")
    refused = CliRunner().invoke(command, ["others", "--runs", str(tmp_path)])
    assert refused.exit_code == 2 and "the skills of task" in refused.stderr
    write_run(tmp_path, "bare", routed=False)
    with pytest.raises(LabError, match="no recorded routing"):
        recovered(Run(tmp_path / "bare"))


def test_compositions_are_all_pairs_of_six_skills_and_no_two_tasks_do_the_same():
    assert {frozenset(skills) for _, skills in PAIRS.values()} == {frozenset(p) for p in combinations(set(SKILLS) - {"copy"}, 2)}
    assert len({tag for tag, _ in (TASKS | PAIRS).values()}) == len(TASKS | PAIRS) and len(TASKS.keys() & PAIRS.keys()) == 3
    does = [apply(skills, "qxbmzah") for skills in ((), *((one,) for one in SKILLS), *(skills for _, skills in PAIRS.values()))]
    assert len(set(does)) == len(does) - 1  # to copy is to do nothing
    assert [task.name for task in load_tasks("compositions")] == sorted(PAIRS)
