"""Experts handed on to peft and transformers: what AutoPeftModel computes from the folder alone is what the lab does."""

import json

import peft
import pytest
import torch
from support import architectures, generation, tiny, toy
from support.tiny import rel

from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.data.stream import Example
from lab.inference.origin import Origin
from lab.inference.routed_model import RoutedModel
from lab.models.backbone import pool
from lab.routers.base import single_expert
from lab.training.trainer import Session, prepare

TEXTS = ["red wave reef", "a much longer text about hay and goats, and red", "b"]
FIXED = ["backbone.dtype=float32", "backbone.device=cpu", "backbone.threads=1", "router_training.steps=1", "memory.per_task=3"]


def model_of(folder, of, *options):
    """A model with random experts and classifiers of these tasks on the checkpoint in a folder."""
    config = prepare(configure("l2r", [*FIXED, "router.query=backbone", *options], backbone=str(folder)), of)
    learner = Session(config, of).learner
    for t in range(len(of)):
        learner.add_task(t)
    tiny.randomise(learner.bank)
    draw = torch.Generator().manual_seed(1)
    for parameter in learner.head.classifier.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    learner.requires_grad_(False)
    names, labels = [task.name for task in of], [list(task.labels) for task in of]
    origin = Origin(config.to_dict(), names, labels, len(of) - 1, len(of), learner.backbone.identity, 4, {"run": "r"})
    return RoutedModel(learner, origin)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    kept = {}

    def save(name):
        if name not in kept:
            kept[name] = architectures.save(name, tmp_path_factory.mktemp(name))
        return kept[name]

    return save


@pytest.mark.parametrize(
    ("name", "pooling", "task"),
    [
        ("bert", "mean", "TOKEN_CLS"),
        ("bert", "cls", "SEQ_CLS"),
        ("roberta", "mean", "TOKEN_CLS"),
        ("roberta", "cls", "SEQ_CLS"),
        ("distilbert", "cls", "SEQ_CLS"),
        ("electra", "cls", "SEQ_CLS"),
        ("gpt2", "last", "SEQ_CLS"),
        ("llama", "last", "TOKEN_CLS"),
    ],
)
def test_classifiers(name, pooling, task, checkpoint, tmp_path):
    """One-hot routing in the lab, text by text, against peft's own loader; three labels need num_labels, two do not."""
    of = [toy.task("sea", labels=("no", "yes")), toy.task("city", labels=("a", "b", "c"))]
    model = model_of(checkpoint(name), of, f"backbone.pooling={pooling}")
    for k, expert in enumerate(("sea", "city")):
        folder = model.expert(expert).save_pretrained(tmp_path / expert)
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == task
        auto = getattr(
            peft, {"SEQ_CLS": "AutoPeftModelForSequenceClassification"}.get(task, "AutoPeftModelForTokenClassification")
        )
        loaded = auto.from_pretrained(folder, **({"num_labels": 3} if k else {})).eval()
        own, backbone = model.learner.head.space.own[k], model.learner.backbone
        for text in TEXTS:
            batch = backbone.collate(backbone.encode([Example(text, 0)], k, "train"))
            with torch.no_grad(), model.learner.bank.routed(single_expert(k, backbone.device)):
                ours = model.learner.head.logits(batch)[:, own.start : own.stop]
            types = {"token_type_ids": batch.types} if backbone.takes_types else {}
            with torch.no_grad():
                theirs = loaded(input_ids=batch.ids, attention_mask=batch.mask, **types).logits
            theirs = pool(theirs, batch.mask, pooling) if task == "TOKEN_CLS" else theirs
            assert rel(theirs, ours) < 1e-5
        card = (folder / "README.md").read_text()
        assert f"labels = {list(of[k].labels)}" in card and ("num_labels=3" in card) == (k == 1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_models_that_write(name, checkpoint, tmp_path):
    """Logits of every token; the class is that of the checkpoint."""
    model = model_of(checkpoint(name), generation.tasks(("a", "b")))
    folder = model.expert("b").save_pretrained(tmp_path / "b")
    auto = peft.AutoPeftModelForSeq2SeqLM if name in ("t5", "bart") else peft.AutoPeftModelForCausalLM
    loaded, backbone = auto.from_pretrained(folder).eval(), model.learner.backbone
    inputs = architectures.inputs(architectures.config(name))
    with torch.no_grad(), model.learner.bank.routed(single_expert(1, backbone.device)):
        ours = backbone.model(**inputs).logits
    with torch.no_grad():
        assert rel(loaded(**inputs).logits, ours) < 1e-5


def test_the_card_runs_as_it_stands(checkpoint, tmp_path):
    model = model_of(checkpoint("bert"), toy.tasks("sea", "city"))
    folder = model.expert("sea").save_pretrained(tmp_path / "sea")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(folder))
    names: dict = {}
    exec(code.replace("a text", "red wave"), names)
    assert names["label"] == model.predict(["red wave"], expert="sea")[0].partition("/")[2] or names["logits"].shape == (1, 2)


def test_what_cannot_be_handed_on_is_refused_and_nothing_is_written(checkpoint, tmp_path):
    of = toy.tasks("sea", "city")
    modern = model_of(checkpoint("modernbert"), of)
    with pytest.raises(LabError, match="no class of transformers computes its classifier on a modernbert with pooling mean"):
        modern.expert("sea").save_pretrained(tmp_path / "m")
    bottleneck = model_of(checkpoint("bert"), of, "experts.name=bottleneck")
    with pytest.raises(LabError, match="kind bottleneck, for which peft has no format"):
        bottleneck.expert("sea").save_pretrained(tmp_path / "m")
    with pytest.raises(LabError, match="no linear change of layer"):
        bottleneck.expert("sea").merge()
    made = RoutedModel(toy.trained("l2r").learner, modern.origin)
    with pytest.raises(LabError, match="backbone tiny is made by the lab"):
        made.expert("sea").save_pretrained(tmp_path / "m")
    with pytest.raises(LabError, match="unknown expert 'se': did you mean 'sea'"):
        made.expert("se")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(LabError, match="exists already and is not empty"):
        model_of(checkpoint("bert"), of).expert("sea").save_pretrained(tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
