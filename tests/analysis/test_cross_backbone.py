"""Experts for other backbones: which blocks, which features, and the control."""

import json

import numpy as np
import pytest
import torch
from support import tiny
from support.backbones import TEXTS, backbone, tokenizer
from support.commands import lab
from support.numbers import numbers
from support.tiny import rel

from lab.adapters import arithmetic
from lab.adapters.arithmetic import Adapter
from lab.analysis import cross_backbone
from lab.core.errors import LabError


def teacher_s(blocks: int = 4, width: int = 6, rank: int = 2) -> Adapter:
    tensors = {}
    for i in range(blocks):
        tensors[f"encoder.layer.{i}.query.lora_A"] = numbers(rank, width, seed=i)
        tensors[f"encoder.layer.{i}.query.lora_B"] = numbers(width, rank, seed=50 + i)
    return Adapter(tensors, {"peft_type": "LORA", "r": rank, "lora_alpha": 4.0}, "t")


def folder(path, seed: int, **changes) -> str:
    """A tiny BERT with other sizes, in a folder."""
    import transformers

    settings = tiny.config("bert")
    for key, value in changes.items():
        setattr(settings, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.BertModel(settings).save_pretrained(path)
    tokenizer(True).save_pretrained(path)
    return str(path)


def test_blocks_are_skipped_or_averaged():
    one = teacher_s()
    skip, mean = cross_backbone.layers(one, 4, 2, "skip"), cross_backbone.layers(one, 4, 2, "average")
    assert skip.layers == mean.layers == ["encoder.layer.0.query", "encoder.layer.1.query"]
    for block in (0, 1):
        for part in ("lora_A", "lora_B"):
            a, b = (one.tensors[f"encoder.layer.{2 * block + i}.query.{part}"] for i in (0, 1))
            assert torch.equal(skip.tensors[f"encoder.layer.{block}.query.{part}"], a)
            assert torch.allclose(mean.tensors[f"encoder.layer.{block}.query.{part}"], (a + b) / 2)
    assert cross_backbone.layers(one, 4, 4).tensors.keys() == one.tensors.keys()
    upper = Adapter({name: t for name, t in one.tensors.items() if ".0." not in name and ".1." not in name}, one.config, "u")
    assert cross_backbone.layers(upper, 4, 2).layers == ["encoder.layer.1.query"]  # nothing for blocks of which nothing is known


def test_correlation_and_matching_are_those_of_scikit_learn_and_scipy():
    from scipy.optimize import linear_sum_assignment
    from sklearn.feature_selection import r_regression

    x, y = numbers(200, 5, seed=1) * 3 + 1, numbers(200, 8, seed=2)
    y[:, [6, 0, 3]] += 2 * x[:, [0, 1, 4]]
    found = cross_backbone.correlation(x, y)
    expected = np.stack([r_regression(y.numpy().astype(float), x[:, d].numpy().astype(float)) for d in range(5)])
    assert np.allclose(found.numpy(), expected, atol=1e-10)
    index = cross_backbone.matched(found)
    assert index.tolist() == linear_sum_assignment(-expected)[1].tolist()
    assert [index[d].item() for d in (0, 1, 4)] == [6, 0, 3] and len(set(index.tolist())) == 5
    with pytest.raises(LabError, match=r"^the student has 8 features, the teacher 5: it must not be wider$"):
        cross_backbone.matched(found.T)


def test_features_are_pruned_on_both_sides():
    one, index = teacher_s(1), torch.tensor([4, 0, 3])
    (layer,) = one.layers
    small = cross_backbone.pruned(one, {layer: index})
    assert torch.allclose(small.update(layer), one.update(layer)[index][:, index])


def test_the_control_has_the_same_scale_and_no_content():
    one = teacher_s(1, width=4000, rank=4)
    drawn, again = cross_backbone.control(one, 3), cross_backbone.control(one, 3)
    for name, tensor in one.tensors.items():
        assert torch.equal(drawn.tensors[name], again.tensors[name])
        assert abs(drawn.tensors[name].std() / tensor.std() - 1) < 0.05 and abs(drawn.tensors[name].mean()) < 0.05
        assert abs(torch.corrcoef(torch.stack([drawn.tensors[name].flatten(), tensor.flatten()]))[0, 1]) < 0.05


def cut(path, teacher: str, blocks: int, noise: float = 0.0) -> str:
    """The teacher with its first blocks only, in a folder; with noise, as if it had been trained on from there."""
    import transformers

    made = transformers.BertModel.from_pretrained(teacher, num_hidden_layers=blocks)
    for i, parameter in enumerate(made.parameters()):
        parameter.data += noise * parameter.data.std() * numbers(*parameter.shape, seed=i)
    made.save_pretrained(path)
    tokenizer(True).save_pretrained(path)
    return str(path)


def test_backbones_are_alike_if_their_features_are_the_same_ones(tmp_path):
    teacher = folder(tmp_path / "t", 1)
    for name, other, expected in (
        ("itself", teacher, True),
        ("cut out of it", cut(tmp_path / "c", teacher, 1), True),
        ("trained on", cut(tmp_path / "n", teacher, 2, noise=0.3), True),
        ("other values of equal shape", folder(tmp_path / "o", 2), False),
        ("narrower", folder(tmp_path / "w", 1, hidden_size=16), False),
        ("without a vocabulary", "tiny", False),
    ):
        assert cross_backbone.alike(backbone(teacher), backbone(other)) is expected, name
    assert cross_backbone.alike(backbone("tiny"), backbone("tiny"))


def test_a_student_that_is_its_teacher_with_shuffled_features_gets_the_same_expert(tmp_path):
    """The student's hidden features are the teacher's in another order: matching finds the order, from texts alone."""
    import transformers

    wide = backbone(folder(tmp_path / "t", 1))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(4))
    states = {}
    for name, tensor in wide.model.state_dict().items():
        inside = "attention.self" in name or "intermediate" in name  # their outputs keep their order
        for side in range(tensor.dim()):
            own = tensor.shape[side] == 32 and not (inside and side == 0)
            own = own and not ("attention.output.dense.weight" in name and side == 1)
            tensor = tensor.index_select(side, order) if own else tensor
        states[name] = tensor
    made = transformers.BertModel(wide.model.config)
    made.load_state_dict(states)
    made.save_pretrained(tmp_path / "s")
    tokenizer(True).save_pretrained(tmp_path / "s")
    student = backbone(str(tmp_path / "s"))
    names = [f"encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    seen = cross_backbone.inputs(student, wide, names, names, TEXTS * 5)
    for name in names:
        assert rel(seen[0][name], seen[1][name][:, order]) < 1e-4
        assert cross_backbone.matched(cross_backbone.correlation(seen[0][name], seen[1][name])).tolist() == order.tolist()
    _, made = tiny.bank("bert", targets=["query"])
    one = Adapter({name: p.detach() for name, p in made.expert(0).items()}, {"peft_type": "LORA", "r": tiny.RANK}, "e")
    found, expected = (
        cross_backbone.carried(one, wide, student, TEXTS * 5),
        cross_backbone.pruned(one, dict.fromkeys(names, order)),
    )
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in found.tensors.items())


def whole():
    """A tokenizer to which every text is one token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), unk_token="[UNK]"
    )


def test_a_layer_between_unequal_widths_is_not_matched(tmp_path):
    """With its input's features alone the output of the layer would be cut to the wrong width."""
    teacher, student = (backbone(folder(tmp_path / str(seed), seed)) for seed in (1, 2))
    wide = tiny.SIZES["intermediate_size"]
    tensors = {
        "encoder.layer.0.intermediate.dense.lora_A": numbers(3, 32),
        "encoder.layer.0.intermediate.dense.lora_B": numbers(wide, 3),
    }
    one = Adapter(tensors, {"peft_type": "LORA", "r": 3}, "e")
    with pytest.raises(LabError, match=f"dense.lora_B has width 32, the student's layer {wide}: it cannot be carried$"):
        cross_backbone.carried(one, teacher, student, TEXTS)


def test_the_command(tmp_path):
    _, made = tiny.bank("bert")
    teacher = folder(tmp_path / "t", 1, num_hidden_layers=2)
    made.export(0, tmp_path / "e", teacher)
    short, foreign = cut(tmp_path / "short", teacher, 1), folder(tmp_path / "foreign", 2)
    narrow = folder(tmp_path / "narrow", 3, hidden_size=16, num_hidden_layers=2)
    done = lab("transfer", tmp_path / "e", "--student", short, "--out", tmp_path / "a", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["features"] == "one to one, the backbones share them"
    found = arithmetic.read(tmp_path / "a")
    assert {cross_backbone.block_of(name) for name in found.tensors} == {0}
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == short
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, made.expert(0)[name].detach())
    stream = tmp_path / "texts" / "a"
    stream.mkdir(parents=True)
    for i, split in enumerate(("train", "validation", "test")):
        rows = [{"text": f"{text} {'and ' * (3 * i + n)}", "label": "xy"[n % 2]} for n, text in enumerate(TEXTS)]
        (stream / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = lab("transfer", tmp_path / "e", "--student", narrow, "--stream", tmp_path / "texts", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    _, other = tiny.bank("bert", experts=0, inside=backbone(narrow).model)
    other.import_expert(tmp_path / "b", "b")
    assert {tuple(p.shape) for p in other.expert(0).values()} == {(3, 16), (16, 3)}
    texts = ("--stream", tmp_path / "texts")
    done = lab("transfer", tmp_path / "e", "--student", foreign, *texts, "--out", tmp_path / "f")  # of equal width
    assert done.exit_code == 0, done.output
    assert f"features: matched on the texts of {tmp_path / 'texts'}, the backbones do not share them" in done.output
    moved = arithmetic.read(tmp_path / "f").tensors
    assert not any(torch.equal(moved[name], tensor.detach()) for name, tensor in made.expert(0).items())
    uncut = folder(tmp_path / "uncut", 4)
    whole().save_pretrained(uncut)
    for words, text in (
        ((tmp_path / "b", "--student", teacher), "it must not be wider"),
        ((tmp_path / "a", "--student", teacher), "the first must be a multiple of the second"),
        ((tmp_path / "e", "--student", uncut, *texts), "teacher and student have no tokens in common on these texts"),
        ((tmp_path / "e", "--student", "tiny", *texts), "the tokenizer of 'tiny' does not tell which characters a token is"),
    ):
        done = lab("transfer", *words, "--out", tmp_path / "c")
        assert done.exit_code == 2 and text in done.output, done.output
        assert not (tmp_path / "c").exists()
