"""Default layers of experts, in the architectures that peft knows and in those whose names say what layers are."""

import re
from functools import cache

import pytest
import torch
from support import architectures

from lab.core.errors import LabError
from lab.core.registry import experts
from lab.models.expert_bank import Bank

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's remarks on configurations
KINDS = ("lora", "ia3", "bottleneck")


@cache
def on_meta(model_type: str):
    """A model of this type, of the registry's sizes where it has some, without weights."""
    from transformers import CONFIG_MAPPING, AutoModel

    listed = model_type in architectures.ARCHITECTURES
    with torch.device("meta"):
        return AutoModel.from_config(architectures.config(model_type) if listed else CONFIG_MAPPING[model_type]())


def kind_of(name: str, **options):
    return experts.get(name)(experts.options({"name": name, **options}))


def adapted(name: str, kind: str, **options) -> list:
    """The layers of a bank in this architecture."""
    host = on_meta.__wrapped__(name)
    return Bank(host, host.config.model_type, kind_of(kind, **options)).layers


def known_to_peft() -> list[str]:
    from peft.utils import constants
    from transformers import CONFIG_MAPPING

    lora = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    ia3 = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    return sorted((lora.keys() | ia3.keys()) & set(CONFIG_MAPPING))


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_that_peft_knows_has_defaults(kind):
    assert len(known_to_peft()) > 30
    assert not [name for name in known_to_peft() if not kind_of(kind).targets(on_meta(name))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_of_the_registry_has_defaults_but_those_without_projections(kind):
    listed = [name for name in architectures.ARCHITECTURES if not kind_of(kind).targets(on_meta(name))]
    assert listed == ["xlnet"]


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_the_layers_of_architectures_in_peft_s_tables_are_peft_s(kind):
    """Adapted by peft itself without a word on layers: the same layers, and of (IA)^3 the same sides of them."""
    from peft import IA3Config, LoraConfig, get_peft_model
    from peft.utils import constants

    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{kind.upper()}_TARGET_MODULES_MAPPING")
    both = sorted((table.keys() & architectures.ARCHITECTURES.keys()) - {"mixtral"})  # where peft forgets its own table
    assert len(both) > 20
    for name in both:
        theirs = get_peft_model(on_meta.__wrapped__(name), LoraConfig() if kind == "lora" else IA3Config()).base_model.model
        own = {layer.name for layer in adapted(name, kind)}
        replaced = {part for part, module in theirs.named_modules() if hasattr(module, "base_layer")}
        assert own == replaced, name
        if kind == "ia3":
            rescaled = kind_of("ia3")
            assert all(rescaled.scales_input(layer) == theirs.get_submodule(layer).is_feedforward for layer in own), name


HEAD_AND_FEED_FORWARD = {  # (LoRA, (IA)^3, bottleneck): endings in a block, of what peft does not know
    "xlm-roberta": ("query value", "key value attention.output.dense output.dense", "attention.output.dense output.dense"),
    "albert": ("query value", "key value ffn_output", "attention.dense ffn_output"),
    "mpnet": ("q v", "k v output.dense", "attn.o output.dense"),
    "distilbert": ("q_lin v_lin", "k_lin v_lin lin2", "out_lin lin2"),
    "modernbert": ("Wqkv", "Wqkv mlp.Wo", "attn.Wo mlp.Wo"),
    "deberta-v3": (
        "query_proj value_proj",
        "key_proj value_proj attention.output.dense output.dense",
        "attention.output.dense output.dense",
    ),
    "phi3": ("qkv_proj", "qkv_proj down_proj", "o_proj down_proj"),
    "gpt2": ("c_attn", "c_attn mlp.c_proj", "attn.c_proj mlp.c_proj"),
    "gpt_neox": ("query_key_value", "query_key_value dense_4h_to_h", "attention.dense dense_4h_to_h"),
    "t5": (
        "SelfAttention.q SelfAttention.v EncDecAttention.q EncDecAttention.v",
        "SelfAttention.k SelfAttention.v EncDecAttention.k EncDecAttention.v wo",
        "SelfAttention.o EncDecAttention.o wo",
    ),
    "mixtral": ("q_proj v_proj", "k_proj v_proj", "o_proj"),
    "qwen2_moe": ("q_proj v_proj", "k_proj v_proj shared_expert.down_proj", "o_proj shared_expert.down_proj"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HEAD_AND_FEED_FORWARD)
def test_layers_by_what_they_are_called(name, kind):
    wanted = HEAD_AND_FEED_FORWARD[name][KINDS.index(kind)].split()
    layers = [layer.name for layer in adapted(name, kind)]
    assert all(any(layer.endswith(ending) for ending in wanted) for layer in layers)
    for ending in wanted:
        blocks = sum(f".{layer}".endswith(f".{ending}") for layer in layers)
        assert blocks == {"albert": 1, "t5": 2 if ending.startswith("EncDec") else 4}.get(name, 2) or ending == "output.dense"


def test_what_is_read_by_its_input_is_what_ends_a_feed_forward_layer():
    kind, layers = kind_of("ia3"), {layer.name.rpartition(".")[2]: layer.name for layer in adapted("t5", "ia3")}
    assert {word: kind.scales_input(name) for word, name in layers.items()} == {"k": False, "v": False, "wo": True}


def test_an_architecture_without_projections_is_refused_with_the_endings_to_choose_from():
    for kind in KINDS:
        with pytest.raises(
            LabError, match=re.escape("'xlnet' to adapt is not known: name them with experts.targets, from layer_1")
        ):
            adapted("xlnet", kind)
    assert [layer.name for layer in adapted("xlnet", "bottleneck", placement="pfeiffer")] == [
        f"layer.{i}.ff.layer_2" for i in range(2)
    ]
    with pytest.raises(LabError, match="mixtral"):  # its feed-forward layers are mixtures of experts
        adapted("mixtral", "bottleneck", placement="pfeiffer")
