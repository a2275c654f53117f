"""Merged backbones against the routed ones: the same hidden states after saving and loading by transformers."""

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import architectures, tiny, toy
from support.tiny import rel

from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.inference import merging
from lab.inference.loading import load
from lab.models.learner import Learner
from lab.models.pretrained import resolve

CASES = {
    "l2r-merge heads": ("l2r-merge", ["router=uniform", "router.heads=4"]),
    "mixed": ("l2r", ["router=uniform"]),
    "skills": ("poly", []),
    "ia3": ("l2r", ["router=uniform", "experts.name=ia3"]),
}


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("case", CASES)
def test_hidden_states(case, name, tmp_path):
    recipe, options = CASES[case]
    folder = architectures.save(name, tmp_path / "backbone")
    of = toy.tasks("sea", "city")
    config = configure(recipe, [*options, "experts.skip=0", "backbone.dtype=float32"], backbone=folder)
    learner = Learner(config.model_copy(update={"backbone": resolve(config.backbone)}), of)
    for t in range(2):
        learner.add_task(t)
    tiny.randomise(learner.bank)
    for parameter in learner.router.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    decision = merging.fixed_decision(learner, 1)
    merging.merged(learner, decision).save_pretrained(tmp_path / "merged")
    plain = transformers.AutoModel.from_pretrained(tmp_path / "merged").eval()
    inputs = architectures.inputs(architectures.config(name))
    with torch.no_grad(), learner.bank.routed(decision):
        routed = learner.backbone.model(**inputs).last_hidden_state
    with torch.no_grad():
        assert rel(plain(**inputs).last_hidden_state, routed) < 1e-5
        assert rel(learner.backbone.model(**inputs).last_hidden_state, routed) > 1e-2  # the experts matter, and are off again


def test_a_merged_run_keeps_its_predictions(tmp_path):
    run = toy.recorded(toy.session("oracle", "composition=merge", of=toy.tasks("sea", "city")), tmp_path)
    model = load(run)
    with pytest.raises(LabError, match="told the task of every text"):
        model.merge()
    model.save_merged(tmp_path / "merged", task="city")
    head = load_file(tmp_path / "merged" / "classifier.safetensors")
    plain = transformers.AutoModel.from_pretrained(tmp_path / "merged", add_pooling_layer=False).eval()
    texts = [example.text for example in toy.task("city").test]
    for text, chosen in zip(texts, model.predict(texts, task="city"), strict=True):
        ids = torch.tensor(model.tokenizer([text], None, 128)["input_ids"])
        with torch.no_grad():
            logits = plain(input_ids=ids).last_hidden_state.mean(1) @ head["weight"].T + head["bias"]
        assert model.classes.index[int(logits[0].argmax())] == chosen


def test_routers_that_look_at_texts_cannot_be_merged(tmp_path):
    run = toy.recorded(toy.session("l2r", of=toy.tasks("sea", "city")), tmp_path)
    model = load(run)
    with pytest.raises(LabError, match="decides for each example anew, so its experts cannot be merged"):
        model.merge()
    with pytest.raises(LabError, match="is not given the task: leave out task"):
        model.merge(task="sea")
    alone = model.expert("sea").merge()
    batch = model.learner.backbone.collate(model.learner.backbone.encode([toy.Example("red tide", 0)], 0, "train"))
    with torch.no_grad(), model.learner.bank.routed(merging.expert_alone(model.learner, 0)[1]):
        routed = model.learner.backbone.embed(batch)
    with torch.no_grad():
        assert rel(alone(batch.ids, batch.mask).last_hidden_state.mean(1), routed) < 1e-5
