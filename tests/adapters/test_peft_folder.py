"""The one reader and writer: what is read is exact, what cannot be read so is refused by its name, everywhere alike."""

import json
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import saved_experts, tiny

from lab.adapters import arithmetic, library, peft_folder
from lab.core.errors import LabError

LAYERS = {"encoder.layer.0.query": (4, 6)}


@pytest.fixture
def folder(tmp_path):
    return saved_experts.save(tmp_path / "e", layers=LAYERS).folder


def change(folder, **fields) -> None:
    config = json.loads((folder / peft_folder.CONFIG).read_text())
    (folder / peft_folder.CONFIG).write_text(json.dumps(config | fields))


def test_what_is_written_is_read_to_the_bit(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        f"a.b.{name}": draw.normal(size=shape).astype(np.float32) for name, shape in (("lora_A", (2, 5)), ("lora_B", (3, 2)))
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0}
    peft_folder.write(tmp_path, arrays, config)
    assert set(load_file(tmp_path / peft_folder.WEIGHTS)) == {f"base_model.model.a.b.lora_{side}.weight" for side in "AB"}
    saved = peft_folder.read(tmp_path)
    assert (
        saved.config.items() >= config.items()
        and saved.config["target_modules"] == ["a.b"]
        and saved.kind == "LORA"
        and peft_folder.scale(saved.config) == 2
    )
    assert all(np.array_equal(saved.arrays[name], arrays[name]) for name in arrays) and saved.arrays.keys() == arrays.keys()


def test_a_kind_of_the_lab_keeps_its_names(tmp_path):
    arrays = {"layer.weight": np.ones((2, 2), np.float32), "layer.bias": np.zeros(2, np.float32)}
    peft_folder.write(tmp_path, arrays, {"expert": {"name": "full"}, "name": "sea"})
    saved = peft_folder.read(tmp_path)
    assert saved.kind == "full" and saved.arrays.keys() == arrays.keys() and saved.layers().keys() == {"layer"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_numbers_are_read_as_torch_reads_them(folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / peft_folder.WEIGHTS).items()}
    save_file(tensors, folder / peft_folder.WEIGHTS)
    for name, array in peft_folder.read(folder).arrays.items():
        assert array.dtype == np.float32
        assert torch.equal(torch.from_numpy(array), tensors[f"base_model.model.{name}.weight"].float())


def test_numbers_of_another_type_are_refused(folder):
    tensors = {name: tensor.to(torch.int32) for name, tensor in load_file(folder / peft_folder.WEIGHTS).items()}
    save_file(tensors, folder / peft_folder.WEIGHTS)
    with pytest.raises(LabError, match="I32 are not read, save F64, F32, F16 or BF16"):
        peft_folder.read(folder)


def in_a_bank(folder):
    """Through the bank of a backbone whose experts would fit."""
    tiny.bank("bert", rank=3, experts=0)[1].load_compatible(folder)


def in_arithmetic(folder):
    arithmetic.read(folder)


def in_the_library(folder, runs):
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.iterdir():
            archive.writestr(f"e/{path.name}", path.read_bytes())
    library.import_expert(packed.getvalue(), "mine", runs)


VARIANTS = [
    ({"use_dora": True}, "use_dora = True: "),
    ({"use_dora": "false"}, "use_dora = 'false': "),
    ({"rank_pattern": {"query": 2}}, "layer encoder.layer.0.query needs lora_A and lora_B of rank 2"),
    ({"rank_pattern": {"(": 2}}, "'(' in its configuration is no regular expression"),
    ({"alpha_pattern": {"query": "2"}}, "alpha_pattern = {'query': '2'}: input should be a valid number"),
    ({"alpha_pattern": [2]}, "alpha_pattern = [2]: input should be a valid dictionary"),
    ({"use_rslora": 1}, "use_rslora = 1: input should be a valid boolean"),
    ({"bias": "lora_only"}, "bias = 'lora_only': "),
    ({"lora_bias": True}, "lora_bias = True: "),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4': this initialisation changes the weights"),
    ({"layer_replication": [[0, 1]]}, "layer_replication = "),
    ({"modules_to_save": ["embed_tokens", "score"]}, "embed_tokens was trained as a whole"),
    ({"of_a_later_version": 7}, "of_a_later_version = 7 is no field of LORA"),
    ({"of_a_later_version": 0}, "of_a_later_version = 0 is no field of LORA"),
    ({"peft_type": "LOHA"}, "peft_type LOHA: LORA and IA3 can be read"),
    ({"r": 0}, "r = 0: input should be greater than"),
    ({"r": 2}, "needs lora_A and lora_B of rank 2"),
    ({"lora_alpha": None}, "lora_alpha = None: input should be a valid number"),
    ({"target_modules": ["query", "value"]}, "target_modules names value, of which no tensor is there"),
    ({"target_modules": "(q"}, "no regular expression"),
    ({"target_modules": ["key"]}, "layer encoder.layer.0.query has parameters and is none of its target_modules"),
    ({"target_modules": ["query"], "exclude_modules": "encoder.*"}, "is none of its target_modules"),
    ({"target_modules": ["query"], "layers_to_transform": [1]}, "is none of its target_modules"),
]


@pytest.mark.parametrize(("fields", "text"), VARIANTS)
def test_a_variant_is_refused_alike_by_every_reader(fields, text, folder, tmp_path):
    change(folder, **fields)
    messages = set()
    for reader in (in_a_bank, in_arithmetic, lambda path: in_the_library(path, tmp_path / "runs")):
        with pytest.raises(LabError) as error:
            reader(folder)
        assert text in str(error.value) and "\n" not in str(error.value)
        messages.add(str(error.value).replace(str(tmp_path / "runs" / ".library" / "mine"), str(folder)))
    assert len(messages) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_save": ["classifier", "score"]},
        {"init_lora_weights": "gaussian"},
        {"rank_pattern": {}, "use_dora": False, "peft_version": "1.0", "of_a_later_version": None},
        {"lora_dropout": 0.1, "task_type": "SEQ_CLS"},
    ],
)
def test_fields_that_change_nothing_are_read(fields, folder):
    change(folder, **fields)
    assert peft_folder.read(folder).arrays


def test_the_defaults_of_peft_are_read(folder):
    """A field that peft gives a value by default must be known to change nothing."""
    from peft import LoraConfig

    fields = LoraConfig(r=3, lora_alpha=6).to_dict() | {"peft_type": "LORA"}
    (folder / peft_folder.CONFIG).write_text(json.dumps(fields))
    assert peft_folder.read(folder).arrays


@pytest.mark.parametrize("part", [peft_folder.CONFIG, peft_folder.WEIGHTS])
def test_a_missing_or_damaged_file_is_named(part, folder):
    (folder / part).write_bytes(b"\xff")
    with pytest.raises(LabError, match=f"cannot be read: {part}"):
        peft_folder.read(folder)
    (folder / part).unlink()
    with pytest.raises(LabError, match=f"holds no saved expert: {part} is missing"):
        peft_folder.read(folder)


def test_the_head_of_a_task_model_is_left_out(folder):
    tensors = load_file(folder / peft_folder.WEIGHTS)
    save_file(tensors | {"base_model.model.classifier.weight": torch.ones(2, 4)}, folder / peft_folder.WEIGHTS)
    saved = peft_folder.read(folder)
    assert saved.layers().keys() == LAYERS.keys() and "classifier.weight" in saved.notes[0]
    save_file(tensors | {"base_model.model.pooler.weight": torch.ones(2, 4)}, folder / peft_folder.WEIGHTS)
    with pytest.raises(LabError, match=r"tensor base_model.model.pooler.weight of shape"):
        peft_folder.read(folder)


def test_values_that_are_not_finite(folder):
    tensors = load_file(folder / peft_folder.WEIGHTS)
    save_file({name: tensor / 0 for name, tensor in tensors.items()}, folder / peft_folder.WEIGHTS)
    with pytest.raises(LabError, match="not finite"):
        peft_folder.read(folder)
    assert peft_folder.read(folder, finite=False).arrays
