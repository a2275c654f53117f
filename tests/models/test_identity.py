"""What tells backbones apart: the same weights in other files are the same backbone, whatever was drawn at loading."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from support import generation, tiny
from support.backbones import backbone, tokenizer

from lab.config.schema import BackboneConfig
from lab.models.backbone import Backbone, is_recorded
from lab.models.pretrained import resolve

SIZES = tiny.SIZES | {"pad_token_id": 1, "max_position_embeddings": 34}
MASKED = {
    "Roberta": "roberta",
    "XLMRoberta": "roberta",
    "Bert": "bert",
    "MPNet": "mpnet",
    "Electra": "electra",
    "Albert": "albert",
}


def saved(model, folder: Path, words=None, **options) -> str:
    model.save_pretrained(folder, **options)
    (words or tokenizer(special=True)).save_pretrained(folder)
    return str(folder)


def masked(kind: str = "Roberta"):
    """A model with a head for masked tokens, and so without a pooler."""
    return getattr(transformers, f"{kind}ForMaskedLM")(getattr(transformers, f"{kind}Config")(**SIZES))


def writing(folder: str) -> Backbone:
    return Backbone(resolve(BackboneConfig(name=folder, device="cpu", dtype="float32", threads=1)), generates=True)


@pytest.mark.parametrize(("kind", "base"), MASKED.items())
def test_with_and_without_its_head_a_model_is_the_same(kind, base, tmp_path):
    """A checkpoint of a head has no pooler: one is drawn at every load, and takes no part."""
    model = masked(kind)
    without_pooler = saved(model, tmp_path / "head")
    first = backbone(without_pooler)
    torch.manual_seed(5)
    assert backbone(without_pooler).identity == first.identity
    assert backbone(saved(getattr(model, base), tmp_path / "base")).identity == first.identity
    whole = transformers.AutoModel.from_pretrained(tmp_path / "head")  # with a pooler of its own
    assert backbone(saved(whole, tmp_path / "whole")).identity == first.identity
    assert any("not used" in note and "bias" in note for note in first.notes)


def test_files_and_precision_do_not_count_but_values_do(tmp_path):
    model = masked()
    first = backbone(saved(model, tmp_path / "one")).identity
    assert backbone(saved(model, tmp_path / "parts", max_shard_size="10KB")).identity == first
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    half = backbone(saved(model.half(), tmp_path / "half")).identity
    assert half != first  # other numbers
    assert backbone(saved(model.float(), tmp_path / "float")).identity == half  # the same numbers


def test_what_is_not_computed_with_does_not_count(tmp_path):
    folder = tmp_path / "model"
    first = backbone(saved(masked(), folder)).identity
    path = folder / "config.json"
    settings = json.loads(path.read_text())

    def of(**changes) -> str:
        path.write_text(json.dumps(settings | changes))
        return backbone(str(folder)).identity

    labels = {"id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    assert of(hidden_dropout_prob=0.3, transformers_version="4.0.0", architectures=["Other"], use_cache=False, **labels) == first
    assert of(num_attention_heads=2) != first
    assert of(layer_norm_eps=1e-3) != first


def test_a_head_that_writes_counts_where_text_is_written(tmp_path):
    model = tiny.model("llama", "AutoModelForCausalLM", tie_word_embeddings=False)
    first = saved(model, tmp_path / "first", generation.tokenizer())
    with torch.no_grad():
        model.lm_head.weight += 0.1
    second = saved(model, tmp_path / "second", generation.tokenizer())
    assert writing(first).identity != writing(second).identity
    assert writing(first).body == writing(second).body == backbone(first).identity  # what an expert belongs to is the same
    shutil.copytree(second, tmp_path / "third")
    model.generation_config.repetition_penalty = 1.5
    model.generation_config.save_pretrained(tmp_path / "third")
    assert writing(str(tmp_path / "third")).identity != writing(second).identity


def test_where_a_backbone_came_from(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--acme--small" / "snapshots" / commit
    made = backbone(saved(masked(), folder))
    assert (made.hub_id, made.commit, made.folder) == ("acme/small", commit, folder)
    assert (backbone("tiny").hub_id, backbone("tiny").folder) == (None, None)


def test_a_run_of_an_earlier_version_is_recognised():
    """By the digest that version 0.1 recorded of the tiny backbone."""
    recorded = "8a86f05137e96dea1dbf661f365772f961cea846ba146d740fea206cb63fc810"
    made = backbone("tiny")
    assert is_recorded(made, made.identity) and is_recorded(made, recorded)
    assert not is_recorded(made, "0" * 64) and not is_recorded(made, None)
