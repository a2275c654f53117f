"""Every variant of peft's LoRA and (IA)^3 computes what PeftModel computes, in every reader, or is refused in every one."""

import dataclasses
import io
import json
import warnings
import zipfile
from typing import Any, get_args

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file
from support import tiny

from lab.adapters import arithmetic, initial_adapters, library, peft_folder, peft_format
from lab.core.errors import LabError, Notice
from lab.routers.base import Decision

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of much that is tested here
INPUTS = tiny.tokens()
QUERY = "layer.0.attention.self.query"

EXACT = {  # what must be computed, for BERT
    "default": {},
    "alpha": {"lora_alpha": 3},
    "rank": {"r": 5},
    "rslora": {"use_rslora": True},
    "rank-pattern": {"rank_pattern": {QUERY: 2}},
    "rank-pattern-regex": {"rank_pattern": {r".*\.1\..*": 3, "query": 4}},
    "alpha-pattern": {"alpha_pattern": {"query": 3, QUERY: 20}},
    "alpha-pattern-no-match": {"alpha_pattern": {"uery": 3}},
    "patterns-rslora": {"rank_pattern": {"value": 2}, "alpha_pattern": {r"^encoder.layer.1.*value": 3}, "use_rslora": True},
    "blocks": {"layers_to_transform": [1]},
    "block": {"layers_to_transform": 0, "layers_pattern": "layer"},
    "excluded": {"exclude_modules": [QUERY]},
    "excluded-regex": {"exclude_modules": r".*layer\.1.*"},
    "regex": {"target_modules": r".*\.1\..*(query|key)"},
    "dense": {"target_modules": ["dense", "key"]},
    "all-linear": {"target_modules": "all-linear"},
    "one-layer": {"target_modules": [f"encoder.{QUERY}"]},
    "dropout": {"lora_dropout": 0.5},
    "fan-in-fan-out": {"fan_in_fan_out": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "not-initialised": {"init_lora_weights": False},
    "classes": {"task_type": "SEQ_CLS"},
    "tokens": {"task_type": "TOKEN_CLS"},
    "questions": {"task_type": "QUESTION_ANS", "modules_to_save": ["qa_outputs"]},
}
REFUSED = {  # what is refused, by the name of the field
    "dora": ({"use_dora": True}, "use_dora"),
    "bias-all": ({"bias": "all"}, "bias"),
    "bias-lora-only": ({"bias": "lora_only"}, "bias"),
    "lora-bias": ({"lora_bias": True}, "lora_bias"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights"),
    "layer-norm": ({"modules_to_save": ["LayerNorm"]}, "modules_to_save"),
    "token-indices": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "embedding": ({"target_modules": ["word_embeddings", "query"]}, "lora_embedding_A"),
    "parameters": ({"target_parameters": ["intermediate.dense.weight"], "target_modules": []}, "target_parameters"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
}
IA3 = {
    "bert": {},
    "bert-output-only": {"target_modules": ["key"], "feedforward_modules": []},
    "bert-regex": {"target_modules": r".*(value|output\.dense)", "feedforward_modules": r".*\d\.output\.dense"},
    "bert-excluded": {"exclude_modules": ["layer.0.output.dense"]},
    "gpt2": {},
    "llama": {},
}
TASK = {"SEQ_CLS": "AutoModelForSequenceClassification", "TOKEN_CLS": "AutoModelForTokenClassification"}
TASK |= {"QUESTION_ANS": "AutoModelForQuestionAnswering", "CAUSAL_LM": "AutoModelForCausalLM"}


def hidden(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS).last_hidden_state


def backbone(task: Any) -> Any:
    """The backbone in a task model."""
    return getattr(task, task.base_model_prefix, task)


def model(name: str, head: str = "AutoModel"):
    """A tiny model, whose backbone has the same weights with each head."""
    task = tiny.model(name, head)
    backbone(task).load_state_dict(tiny.model(name).state_dict(), strict=False)
    return task


def save(folder, config, name: str = "bert", head: str = "AutoModel") -> torch.Tensor:
    """A random adapter that peft saves in `folder`; the hidden states that PeftModel computes with it."""
    theirs = get_peft_model(model(name, head), config)
    draw = torch.Generator().manual_seed(3)
    for key, parameter in theirs.named_parameters():
        if "lora_" in key or "ia3_" in key:
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=draw) * 0.3
    theirs.save_pretrained(folder)
    return in_peft(folder, name, head)


def in_peft(folder, name: str = "bert", head: str = "AutoModel") -> torch.Tensor:
    return hidden(backbone(PeftModel.from_pretrained(model(name, head), folder).eval().base_model.model))


def in_the_bank(folder, name: str = "bert", head: str = "AutoModel", **options):
    """The bank of a run that begins with the adapter, and the hidden states with it."""
    kind = peft_folder.read_config(folder)["peft_type"].lower()
    (start,) = [initial_adapters.pinned({"task": str(folder)})]
    sizes = {"rank": 11, "alpha": 7.0} if kind == "lora" else {}
    layers = initial_adapters.layers(start, kind)
    host, bank = tiny.bank(name, kind=kind, experts=0, layers=layers, inside=model(name, head), **sizes | options)
    k = bank.import_expert(folder, "theirs")
    with bank.routed(Decision(torch.ones(1, 1, 1, 1), experts=(k,))):
        return bank, hidden(backbone(host))


def in_the_library(folder, runs) -> library.SavedExpert:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in (peft_folder.CONFIG, peft_folder.WEIGHTS):
            archive.write(folder / part, f"e/{part}")
    return library.import_expert(packed.getvalue(), "mine", runs)


def composed(folder, out):
    """What `lab compose scaled --by 1` writes."""
    adapter = arithmetic.read(folder)
    arithmetic.write(arithmetic.scaled(adapter, 1.0), out, "scaled", [adapter])
    return out


def assert_exact_everywhere(theirs, folder, tmp_path, name: str = "bert", head: str = "AutoModel", **options) -> None:
    assert tiny.rel(theirs, hidden(tiny.model(name))) > 1e-3  # it does something
    bank, ours = in_the_bank(folder, name, **options)
    assert tiny.rel(ours, theirs) < 1e-5
    bank.export(0, tmp_path / "exported")
    assert tiny.rel(in_peft(tmp_path / "exported", name), theirs) < 1e-5
    again = bank.load_compatible(tmp_path / "exported")  # lab -> peft -> lab, to the bit
    assert all(torch.equal(again[key], parameter) for key, parameter in bank.expert(0).items())
    assert tiny.rel(in_peft(composed(folder, tmp_path / "composed"), name, head), theirs) < 1e-5
    brought = in_the_library(folder, tmp_path / "runs")
    assert tiny.rel(in_the_bank(brought.folder, name, **options)[1], theirs) < 1e-5
    row = library.describe(brought)
    assert "problem" not in row and row["parameters"] > 0
    config = json.loads((tmp_path / "composed" / peft_folder.CONFIG).read_text())
    tensors = load_file(tmp_path / "composed" / peft_folder.WEIGHTS)
    assert {key.removeprefix("base_model.model.").split(".lora_")[0].split(".ia3_")[0] for key in tensors} == set(
        config["target_modules"]
    )


@pytest.mark.parametrize("variant", EXACT)
def test_a_lora_is_exact_in_every_reader(variant, tmp_path):
    fields = {"target_modules": ["query", "value"], "r": 8} | EXACT[variant]
    head = TASK.get(fields.get("task_type"), "AutoModel")
    theirs = save(tmp_path / "e", LoraConfig(**fields), head=head)
    assert_exact_everywhere(theirs, tmp_path / "e", tmp_path, head=head)


@pytest.mark.parametrize("variant", REFUSED)
def test_what_is_not_exact_is_refused_in_every_reader(variant, tmp_path):
    fields, named = REFUSED[variant]
    save(tmp_path / "e", LoraConfig(**{"target_modules": ["query", "value"], "r": 8, "qalora_group_size": 8} | fields))
    readers = (
        in_the_bank,
        lambda folder: composed(folder, tmp_path / "c"),
        lambda folder: in_the_library(folder, tmp_path / "r"),
    )
    for reader in readers:
        with pytest.raises(LabError, match=named):
            reader(tmp_path / "e")
    assert {path.name for path in tmp_path.iterdir()} <= {"e", "r"} and not list(tmp_path.glob("r/.library/*"))


@pytest.mark.parametrize("name", ["roberta", "gpt2", "llama"])
@pytest.mark.parametrize("head", ["AutoModel", "CAUSAL_LM", "SEQ_CLS"])
def test_default_adapters_of_other_models(name, head, tmp_path):
    """A default LoraConfig, of the plain model and of task models, whose layers have a prefix."""
    task = {} if head == "AutoModel" else {"task_type": head}
    theirs = save(tmp_path / "e", LoraConfig(**task), name, TASK.get(head, head))
    assert_exact_everywhere(theirs, tmp_path / "e", tmp_path, name, TASK.get(head, head))


def test_an_adapter_of_the_plain_model_in_one_that_writes(tmp_path):
    theirs = save(tmp_path / "e", LoraConfig(), "gpt2")
    assert tiny.rel(in_the_bank(tmp_path / "e", "gpt2", "AutoModelForCausalLM")[1], theirs) < 1e-5


@pytest.mark.parametrize("variant", IA3)
def test_ia3_is_exact_in_every_reader(variant, tmp_path):
    name = variant.partition("-")[0]
    options: dict[str, Any] = {"feedforward": ["0.output.dense", "1.output.dense"]} if variant == "bert-regex" else {}
    theirs = save(tmp_path / "e", IA3Config(**IA3[variant]), name)
    assert_exact_everywhere(theirs, tmp_path / "e", tmp_path, name, **options)


def test_ia3_of_the_other_side_is_refused(tmp_path):
    """What scales the input of a layer by the configuration must be a row."""
    save(tmp_path, IA3Config())
    config = peft_folder.read_config(tmp_path)
    (tmp_path / peft_folder.CONFIG).write_text(json.dumps(config | {"feedforward_modules": []}))
    with pytest.raises(LabError, match=r"feedforward_modules says that the output of .*output.dense is scaled"):
        peft_folder.read(tmp_path)
    (tmp_path / peft_folder.CONFIG).write_text(json.dumps(config))
    with pytest.raises(LabError, match=r"scales the input of a layer.*experts.feedforward"):
        in_the_bank(tmp_path, feedforward=["nothing"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_numbers(dtype, tmp_path):
    save(tmp_path, LoraConfig(target_modules=["query"]))
    file = tmp_path / peft_folder.WEIGHTS
    save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
    assert tiny.rel(in_the_bank(tmp_path)[1], in_peft(tmp_path)) < 1e-5


def test_names_without_the_prefix_of_peft(tmp_path):
    """As `add_adapter` and `save_pretrained` of transformers can write them."""
    theirs = save(tmp_path, LoraConfig(target_modules=["query", "value"]))
    file = tmp_path / peft_folder.WEIGHTS
    save_file({key.removeprefix("base_model.model."): tensor for key, tensor in load_file(file).items()}, file)
    assert tiny.rel(in_the_bank(tmp_path)[1], theirs) < 1e-5


@pytest.mark.parametrize(("kind", "theirs"), [("LORA", LoraConfig), ("IA3", IA3Config)])
def test_every_field_of_peft_is_known_with_its_default(kind, theirs):
    """A later peft with a new field fails here, so that somebody decides what it means."""
    ours, fields = peft_format.MODELS[kind].model_fields, {field.name: field for field in dataclasses.fields(theirs)}
    assert fields.keys() == ours.keys()
    read = {"r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform", "feedforward_modules", "exclude_modules"}
    for name in read & fields.keys():
        assert ours[name].default == fields[name].default


@pytest.mark.parametrize("field", [{"lora_alpha": 1e308}, {"alpha_pattern": {"query": -1e308}}, {"lora_alpha": float("nan")}])
def test_a_scale_that_is_no_number_in_float32(field):
    with pytest.raises(LabError, match=f"{next(iter(field))} = .*: input should be (less|greater) than"):
        peft_format.fields_of({"peft_type": "LORA", **field})


def test_the_tasks_are_those_of_peft():
    assert {*get_args(peft_format.Task)} == {task.value for task in TaskType}
    with pytest.raises(LabError, match=r"task_type = 'SEQ': input should be .*SEQ_CLS"):
        peft_format.fields_of({"peft_type": "LORA", "task_type": "SEQ"})


MATCHES = [
    {"target_modules": ["query", "output.dense"]},
    {"target_modules": ["query"], "layers_to_transform": [1]},
    {"target_modules": ["query"], "layers_to_transform": 1, "layers_pattern": ["block", "layer"]},
    {"target_modules": ["query"], "layers_to_transform": []},
    {"target_modules": ["dense"], "exclude_modules": ["output.dense"]},
    {"target_modules": r"encoder\.layer\.\d\..*(query|dense)", "exclude_modules": r".*\.0\..*"},
    {"target_modules": ["dense"], "modules_to_save": ["classifier", "score"]},
]


@pytest.mark.parametrize("fields", MATCHES)
def test_layers_are_chosen_as_peft_chooses_them(fields):
    names = [name for name, _ in tiny.model("bert", "AutoModelForSequenceClassification").named_modules() if name]
    names += [name.removeprefix("bert.") for name in names] + ["classifier.dense"]
    ours = peft_format.fields_of({"peft_type": "LORA", **fields})
    theirs = LoraConfig(**fields)
    chosen = [name for name in names if peft_format.is_target(ours, name)]
    assert chosen and chosen == [name for name in names if bool(check_target_module_exists(theirs, name))]


def test_a_lacking_tensor_that_the_configuration_promises_is_refused(tmp_path):
    save(tmp_path, LoraConfig(target_modules=["query", "value"]))
    file = tmp_path / peft_folder.WEIGHTS
    tensors = load_file(file)
    save_file({key: tensor for key, tensor in tensors.items() if "layer.1.attention.self.value" not in key}, file)
    with pytest.raises(LabError, match=r"target_modules promises layer encoder.layer.1.attention.self.value"):
        in_the_bank(tmp_path)
    one = next(key for key in tensors if "layer.0.attention.self.query.lora_B" in key)
    save_file({key: tensor for key, tensor in tensors.items() if key != one}, file)
    with pytest.raises(LabError, match=f"layer encoder.{QUERY} needs lora_A and lora_B"):
        peft_folder.read(tmp_path)


@pytest.mark.parametrize("key", ["encoder.extra", f"encoder.{QUERY}.lora_C.weight", f"encoder.{QUERY}.base_layer.weight"])
def test_a_strange_tensor_is_named(key, tmp_path):
    save(tmp_path, LoraConfig(target_modules=["query"]))
    file = tmp_path / peft_folder.WEIGHTS
    save_file(load_file(file) | {f"base_model.model.{key}": torch.ones(2, 2)}, file)
    with pytest.raises(LabError, match=key):
        peft_folder.read(tmp_path)


def test_a_head_is_set_aside_and_said(tmp_path):
    save(tmp_path / "e", LoraConfig(task_type="SEQ_CLS", target_modules=["query"]), head="AutoModelForSequenceClassification")
    for reader in (in_the_bank, lambda folder: in_the_library(folder, tmp_path)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reader(tmp_path / "e")
        assert any(issubclass(each.category, Notice) and "classifier.weight" in str(each.message) for each in caught)
    assert "classifier.weight" in arithmetic.read(tmp_path / "e").notes[0]


def test_adapters_of_a_task_model_and_of_the_plain_one_go_together(tmp_path):
    """In arithmetic and in likeness."""
    save(tmp_path / "task", LoraConfig(task_type="SEQ_CLS", target_modules=["query"]), head="AutoModelForSequenceClassification")
    save(tmp_path / "plain", LoraConfig(target_modules=["query"]))
    task, plain = (arithmetic.read(tmp_path / name) for name in ("task", "plain"))
    both = arithmetic.add([plain, task], [1.0, 1.0], "cat")
    layer = f"encoder.{QUERY}"
    assert tiny.rel(both.update(layer), plain.update(layer) + task.update(f"bert.{layer}")) < 1e-6
    experts = [library.SavedExpert(tmp_path / name) for name in ("task", "plain")]
    assert np.isfinite(library.similarity(experts).to_numpy()).all()


def test_filled_up_values_can_be_trained(tmp_path):
    """A lower rank and lacking layers are filled with fresh values: nothing is written from them, and gradients reach them."""
    save(tmp_path, LoraConfig(r=2, target_modules=["query"], layers_to_transform=[1]))
    bank, _ = in_the_bank(tmp_path)
    expert = bank.expert(0)
    assert expert["encoder.layer.1.attention.self.query.lora_A"].abs().min() > 0
    assert not expert["encoder.layer.1.attention.self.query.lora_B"][:, 2:].any()
    assert not expert[f"encoder.{QUERY}.lora_B"].any() and expert[f"encoder.{QUERY}.lora_A"].any()
