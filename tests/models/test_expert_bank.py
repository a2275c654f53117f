"""The bank inside real architectures, against peft with the same experts, and the promises of its life cycle."""

import copy
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny
from support.tiny import hidden, rel

from lab.core import registry
from lab.core.errors import LabError, RunFailed
from lab.experts.base import LayerInfo
from lab.models.expert_bank import Bank
from lab.routers.base import Decision, LayerDecision, Request, one_hot

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's remarks on configurations
ROWS = torch.tensor([2, 0, 1, 0])


def chosen(rows: torch.Tensor = ROWS, heads: int = 1, experts: int = tiny.EXPERTS) -> Decision:
    return Decision(one_hot(rows, experts, heads))


def of_layers(made: Bank, rows: int, heads: int = 1) -> torch.Tensor:
    """Weights (B, L, H, E), different in every layer."""
    return tiny.weights(rows, len(made.layers), heads, len(made))


def looped(name: str, made: Bank, how: str, weights: list[torch.Tensor]):
    """The same model with hooks that add the experts one by one; weights[layer] (B, T, E)."""
    host, scale = tiny.model(name), made.kind.scale
    for i, layer in enumerate(made.layers):
        a = [made.expert(k)[f"{layer.name}.lora_A"].detach() for k in range(len(made))]
        b = [made.expert(k)[f"{layer.name}.lora_B"].detach() for k in range(len(made))]

        def mix(module, args, out, a=a, b=b, w=weights[i]):
            return out + scale * sum(w[..., k, None] * (args[0] @ a[k].T @ b[k].T) for k in range(len(a)))

        def merge(module, args, out, a=a, b=b, w=weights[i]):
            s = sum(w[..., k, None] * (args[0] @ a[k].T) for k in range(len(a)))
            return out + scale * sum(w[..., k, None] * (s @ b[k].T) for k in range(len(a)))

        host.get_submodule(layer.name).register_forward_hook(mix if how == "mix" else merge)
    return host


# -- against peft ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_logits_of_task_models_are_peft_s(kind):
    name = "llama" if kind.startswith("Llama") else "bert"
    head = "AutoModelForCausalLM" if name == "llama" else "AutoModelForSequenceClassification"
    host, made = tiny.bank(name, inside=tiny.model(name, head))
    peft, inputs = tiny.in_peft(made, name, inside=tiny.model(name, head)), tiny.tokens()
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(1,))):
        ours = host(**inputs).logits
    peft.set_adapter("e1")
    assert rel(ours, peft(**inputs).logits) < 1e-5


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_scale_and_rslora_are_peft_s(name, rslora):
    host, made = tiny.bank(name, rslora=rslora)
    peft, inputs = tiny.in_peft(made, name), tiny.tokens()
    peft.set_adapter("e2")
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(2,))):
        assert rel(hidden(host, inputs), hidden(peft, inputs)) < 1e-5


def same_with_gradients(host, made: Bank, peft, inputs, w: list[float]) -> None:
    """The outputs are peft's; gradients are left in the parameters of both."""
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
    expected = hidden(peft.eval(), inputs)
    tiny.readout(expected, inputs["attention_mask"]).backward()
    with made.routed(Decision(torch.tensor(w)[None, None, None])):
        found = hidden(host, inputs)
        tiny.readout(found, inputs["attention_mask"]).backward()
    assert rel(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_mix_is_peft_s_cat(name):
    host, made = tiny.bank(name)
    peft, inputs, w = tiny.in_peft(made, name), tiny.tokens(), [0.5, 0.2, 0.9]
    peft.add_weighted_adapter(["e0", "e1", "e2"], w, "mixed", combination_type="cat")
    peft.set_adapter("mixed")
    same_with_gradients(host, made, peft, inputs, w)
    for layer in made.layers:  # theirs are [s w_i A_i] and [B_i], side by side
        a, b = (tiny.peft_parameter(peft, layer.name, f"lora_{part}", "mixed").grad for part in "AB")
        for k, (down, up) in enumerate(zip(a.split(tiny.RANK), b.split(tiny.RANK, dim=1), strict=True)):
            assert rel(made.expert(k)[f"{layer.name}.lora_A"].grad, made.kind.scale * w[k] * down) < 1e-4
            assert rel(made.expert(k)[f"{layer.name}.lora_B"].grad, up) < 1e-4


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_merge_is_peft_s_linear_of_squared_weights(name):
    host, made = tiny.bank(name, composition="merge")
    peft, inputs, w = tiny.in_peft(made, name), tiny.tokens(), [0.5, 0.2, 0.9]
    peft.add_weighted_adapter(["e0", "e1", "e2"], [x * x for x in w], "merged", combination_type="linear")
    peft.set_adapter("merged")
    same_with_gradients(host, made, peft, inputs, w)
    for layer in made.layers:  # theirs are the sums of sqrt(s) w_i A_i and of sqrt(s) w_i B_i
        for part in "AB":
            theirs = tiny.peft_parameter(peft, layer.name, f"lora_{part}", "merged").grad
            for k in range(len(made)):
                assert rel(made.expert(k)[f"{layer.name}.lora_{part}"].grad, made.kind.scale**0.5 * w[k] * theirs) < 1e-4


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_weights_per_token_are_peft_s_x_lora(name):
    """X-LoRA's layers, given its scalings, beside a decision of the same weights per token; with the gradient of the weights."""
    from types import SimpleNamespace

    from peft import XLoraConfig
    from peft.tuners.xlora.layer import XLoraLinearLayer

    host, made = tiny.bank(name)
    peft, inputs = tiny.in_peft(made, name), tiny.tokens()
    peft.base_model.set_adapter([f"e{k}" for k in range(len(made))])
    w = tiny.weights(len(made.layers), *inputs["input_ids"].shape, 1, len(made)).requires_grad_()  # (L, B, T, 1, E)
    scalings = w.detach()[:, :, :, 0].permute(1, 2, 0, 3).clone().requires_grad_()  # (B, T, L, E)
    settings = XLoraConfig(hidden_size=32, adapters={f"e{k}": "" for k in range(len(made))})
    for i, layer in enumerate(made.layers):
        target = peft.base_model.model.get_submodule(layer.name)
        theirs = XLoraLinearLayer(SimpleNamespace(disabled=False), target, target.forward, i, settings)
        target.forward = lambda x, theirs=theirs: theirs.forward(x, scalings=scalings)
    with made.routed(tiny.per_token(w)):
        ours = hidden(host, inputs)
        tiny.readout(ours, inputs["attention_mask"]).backward()
    expected = hidden(peft, inputs)
    tiny.readout(expected, inputs["attention_mask"]).backward()
    assert rel(ours, expected) < 1e-5
    assert rel(w.grad[:, :, :, 0].permute(1, 2, 0, 3), scalings.grad) < 1e-4
    for layer in made.layers:
        for k in range(len(made)):
            for part in ("lora_A", "lora_B"):
                theirs = tiny.peft_parameter(peft, layer.name, part, f"e{k}").grad
                assert rel(made.expert(k)[f"{layer.name}.{part}"].grad, theirs) < 1e-4


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_merge_with_heads_is_peft_s_poly(name, heads):
    from peft import PolyConfig, get_peft_model

    host, made = tiny.bank(name, composition="merge", heads=heads, alpha=1.0, targets=["query", "value", "q_proj", "v_proj"])
    settings = PolyConfig(
        task_type="FEATURE_EXTRACTION",
        r=tiny.RANK,
        n_tasks=3,
        n_skills=tiny.EXPERTS,
        n_splits=heads,
        target_modules=[layer.name for layer in made.layers],
        init_weights=False,
    )
    poly, draw = get_peft_model(tiny.model(name), settings).eval(), torch.Generator().manual_seed(4)
    task, used = torch.tensor([0, 2, 1, 0]), []
    for layer in made.layers:
        theirs = poly.base_model.model.get_submodule(layer.name)
        a, b = theirs.poly_lora_A["default"], theirs.poly_lora_B["default"]  # (H, S, I/H, r), (H, S, r, O/H)
        b.data = torch.randn(b.shape, generator=draw) * 0.3
        router = theirs.poly_router["default"]
        router.module_logits.data = torch.randn(router.module_logits.shape, generator=draw)
        used.append(router(task, None).detach())  # (B, H, S)
        for k in range(tiny.EXPERTS):
            made.expert(k)[f"{layer.name}.lora_A"].data = a.data[:, k].reshape(layer.inputs, -1).T
            made.expert(k)[f"{layer.name}.lora_B"].data = b.data[:, k].transpose(1, 2).reshape(layer.outputs, -1)
    inputs = tiny.tokens()
    with torch.no_grad(), made.routed(Decision(torch.stack(used, 1))):
        assert rel(hidden(host, inputs), hidden(lambda **x: poly(**x, task_ids=task), inputs)) < 1e-5


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_weights_per_token_are_the_loop_over_experts(name, how):
    host, made = tiny.bank(name, composition=how)
    inputs = tiny.tokens()
    w = tiny.weights(len(made.layers), *inputs["input_ids"].shape, 1, len(made))
    with torch.no_grad(), made.routed(tiny.per_token(w)) as decision:
        assert rel(hidden(host, inputs), hidden(looped(name, made, how, list(w[:, :, :, 0])), inputs)) < 1e-5
    assert torch.equal(decision.recorded(), w.mean(2).transpose(0, 1))


@pytest.mark.parametrize("how", ["mix", "merge"])
def test_weights_per_row_and_layer_are_the_loop_over_experts(how):
    host, made = tiny.bank("bert", composition=how)
    inputs, w = tiny.tokens(), of_layers(made, 4)
    loop = looped("bert", made, how, list(w.transpose(0, 1)))  # (L, B, 1, E)
    with torch.no_grad(), made.routed(Decision(w)):
        assert rel(hidden(host, inputs), hidden(loop, inputs)) < 1e-5


# -- files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_an_exported_expert_computes_the_same_in_peft(name, rslora, tmp_path):
    from peft import PeftModel

    host, made = tiny.bank(name, rslora=rslora)
    made.export(1, tmp_path / "e1", base="some/model")
    assert json.loads((tmp_path / "e1" / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"
    peft, inputs = PeftModel.from_pretrained(tiny.model(name), tmp_path / "e1").eval(), tiny.tokens()
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(1,))):
        assert rel(hidden(host, inputs), hidden(peft, inputs)) < 1e-5


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_lora_saved_by_peft_computes_the_same_in_the_bank(name, tmp_path):
    _, source = tiny.bank(name)
    peft, inputs = tiny.in_peft(source, name), tiny.tokens()
    peft.save_pretrained(tmp_path, selected_adapters=["e1"])
    host, made = tiny.bank(name, experts=2)
    k = made.import_expert(tmp_path / "e1", "theirs")
    assert (k, made.names) == (2, ["e0", "e1", "theirs"])
    assert not any(parameter.requires_grad for parameter in made.expert(k).values())
    peft.set_adapter("e1")
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(k,))):
        assert rel(hidden(host, inputs), hidden(peft, inputs)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_of_a_task_model_comes_in_without_its_prefix_and_head(tmp_path, dtype):
    """Names are `bert.encoder...` there, and the classifier is saved beside the LoRA; many are saved in bfloat16."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        task_type="SEQ_CLS", r=tiny.RANK, lora_alpha=tiny.ALPHA, target_modules=["query", "value"], init_lora_weights=False
    )
    peft = get_peft_model(tiny.model("bert", "AutoModelForSequenceClassification"), settings).eval()
    peft.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    assert any("classifier" in key for key in tensors)
    assert any(".bert.encoder" in key for key in tensors)
    save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, file)
    host, made = tiny.bank("bert", experts=0, inside=tiny.model("bert", "AutoModelForSequenceClassification").bert)
    made.import_expert(tmp_path, "theirs")
    inputs = tiny.tokens()
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1))):
        assert rel(hidden(host, inputs), hidden(peft.base_model.model.bert, inputs)) < (1e-5 if dtype == torch.float32 else 2e-2)


def snapshot(made: Bank) -> tuple:
    return (
        list(made.names),
        [len(layer.experts) for layer in made.routed_layers],
        {f"{k}.{name}": p.detach().clone() for k in range(len(made)) for name, p in made.expert(k).items()},
    )


def same(before: tuple, after: tuple) -> bool:
    return before[:2] == after[:2] and all(torch.equal(before[2][name], after[2][name]) for name in before[2] | after[2])


REFUSED = {
    "rank": ({"rank": 4}, "its rank is 4, the experts of this bank have 3: use -o experts.rank=4"),
    "layers": (
        {"targets": ["key"]},
        "it adapts layer encoder.layer.0.attention.self.key, these experts do not: use -o experts.lay",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_the_bank_as_it_was(case, tmp_path):
    options, text = REFUSED[case]
    _, other = tiny.bank("bert", **options)
    other.export(0, tmp_path)
    host, made = tiny.bank("bert")
    before, inputs = snapshot(made), tiny.tokens()
    with made.routed(chosen()):
        output = hidden(host, inputs)
    with pytest.raises(LabError, match=re.escape(text)):
        made.import_expert(tmp_path, "new")
    assert same(before, snapshot(made))
    with made.routed(chosen()):
        assert torch.equal(hidden(host, inputs), output)


def test_another_kind_a_missing_file_and_a_taken_name_are_refused(tmp_path):
    _, other = tiny.bank("bert", kind="bottleneck", size=4)
    other.export(0, tmp_path / "bottleneck")
    _, made = tiny.bank("bert")
    before = snapshot(made)
    with pytest.raises(LabError, match="holds no expert of kind 'lora'"):
        made.import_expert(tmp_path / "bottleneck", "new")
    made.export(0, tmp_path / "lora")
    with pytest.raises(LabError, match="holds no expert of kind 'bottleneck'"):
        other.import_expert(tmp_path / "lora", "new")
    with pytest.raises(LabError, match=re.escape("holds no saved expert: adapter_config.json is missing")):
        made.import_expert(tmp_path, "new")
    with pytest.raises(LabError, match="already has an expert called 'e0'"):
        made.import_expert(tmp_path / "lora", "e0")
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LabError, match="cannot be read"):
        made.import_expert(tmp_path / "lora", "new")
    assert same(before, snapshot(made))


# -- life cycle --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
def test_an_empty_slot_is_the_base_exactly(name):
    host, made = tiny.bank(name)
    inputs, base = tiny.tokens(), tiny.model(name)
    assert torch.equal(hidden(host, inputs), hidden(base, inputs))
    with made.routed(None):
        assert torch.equal(hidden(host, inputs), hidden(base, inputs))
    with made.routed(chosen()):
        assert not torch.equal(hidden(host, inputs), hidden(base, inputs))
    assert torch.equal(hidden(host, inputs), hidden(base, inputs))


@pytest.mark.parametrize("how", ["mix", "merge"])
def test_an_expert_of_weight_zero_gets_exactly_no_gradient(how):
    host, made = tiny.bank("bert", composition=how)
    inputs = tiny.tokens()
    with made.routed(chosen(torch.tensor([0, 2, 2, 0]))):
        tiny.readout(hidden(host, inputs), inputs["attention_mask"]).backward()
    assert all(not parameter.grad.any() for parameter in made.expert(1).values())
    assert all(parameter.grad.any() for k in (0, 2) for parameter in made.expert(k).values())


def test_growing_leaves_old_outputs_and_frozen_experts_do_not_move():
    host, made = tiny.bank("bert", heads=2)
    inputs = tiny.tokens()
    for k in range(3):
        made.trainable(k, False)
    before, w = snapshot(made), tiny.weights(4, 1, 2, 3)
    with torch.no_grad(), made.routed(Decision(w)):
        old = hidden(host, inputs)
    made.grow("e3", "test", 3)
    with made.routed(Decision(torch.cat([w, torch.full((4, 1, 2, 1), 0.7)], -1))):  # a fresh expert changes nothing
        new = hidden(host, inputs)
        assert rel(new, old) < 1e-6
        tiny.readout(new, inputs["attention_mask"]).backward()
    trained = [p for layer in made.routed_layers for experts in layer.experts for p in experts.values() if p.requires_grad]
    assert len(trained) == 2 * len(made.layers)
    torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5).step()
    after = snapshot(made)
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])
    assert any(after[2][name].any() for name in after[2] if name.startswith("3.") and name.endswith("lora_B"))


def test_the_stack_of_frozen_experts_follows_what_is_loaded():
    host, made = tiny.bank("bert")
    inputs, everything = tiny.tokens(), tiny.weights(4, 1, 1, 3)
    for k in range(3):
        made.trainable(k, False)
    with torch.no_grad(), made.routed(Decision(everything)):
        first = hidden(host, inputs)
    made.load_expert(1, {name: torch.randn_like(p) * 0.3 for name, p in made.expert(1).items()})
    with torch.no_grad(), made.routed(Decision(everything)):
        second = hidden(host, inputs)
        expected = hidden(looped("bert", made, "mix", [everything[:, 0]] * len(made.layers)), inputs)
    assert rel(second, expected) < 1e-5
    assert rel(first, second) > 0.01


def test_only_the_experts_of_the_decision_act():
    host, made = tiny.bank("bert")
    inputs, w = tiny.tokens(), tiny.weights(4, 1, 1, 2)
    with torch.no_grad():
        with made.routed(Decision(w, experts=(2, 0))):
            part = hidden(host, inputs)
        with made.routed(Decision(torch.stack([w[..., 1], torch.zeros(4, 1, 1), w[..., 0]], -1))):
            assert rel(hidden(host, inputs), part) < 1e-6


def test_weights_for_another_number_of_experts_are_refused():
    """They would be spread over all experts without a word where the last axis is 1."""
    host, made = tiny.bank("bert")
    for given in (Decision(torch.ones(1, 1, 1, 1)), Decision(torch.ones(1, 1, 1, 3), experts=(0, 1))):
        with pytest.raises(RunFailed, match=r"expected .*experts [23]"), made.routed(given):
            hidden(host, tiny.tokens())
    assert made.slot is None


def test_blocks_do_not_nest_and_an_error_inside_closes_the_block():
    _, made = tiny.bank("bert")
    again, text = made.routed(chosen()), "^the bank is already routed: close the open block first$"
    with made.routed(chosen()), pytest.raises(LabError, match=text), again:
        pass
    with pytest.raises(ZeroDivisionError), made.routed(chosen()):
        raise ZeroDivisionError
    assert made.slot is None


# -- shapes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mix", "merge"])
def test_two_dimensional_inputs(how):
    """The pooler of BERT sees (B, d)."""
    host, made = tiny.bank("bert", composition=how, targets=["pooler.dense"])
    peft, inputs = tiny.in_peft(made, "bert"), tiny.tokens()
    with torch.no_grad(), made.routed(chosen()):
        pooled = host(**inputs).pooler_output
        direct = made.routed_layers[0](torch.ones(4, 32))
    assert direct.shape == (4, 32)
    for row, k in enumerate(ROWS.tolist()):
        peft.set_adapter(f"e{k}")
        assert rel(pooled[row], peft(**inputs).pooler_output[row]) < 1e-5
        assert rel(direct[row], peft.base_model.model.pooler.dense(torch.ones(1, 32))[0]) < 1e-5


def test_tokens_in_one_row_each_belong_to_their_examples():
    """Some layers flatten (B, T, d) to (B * T, d)."""
    _, made = tiny.bank("bert", heads=2)
    layer, x, w = made.routed_layers[0], torch.randn(4, 5, 32), tiny.weights(4, 1, 2, 3)
    with torch.no_grad(), made.routed(Decision(w)):
        assert rel(layer(x.reshape(20, 32)), layer(x).reshape(20, 32)) < 1e-6


@pytest.mark.parametrize("how", ["mix", "merge"])
def test_rows_repeated_as_in_beam_search(how):
    host, made = tiny.bank("llama", composition=how)
    inputs, w = tiny.tokens(), of_layers(made, 4)
    many = {key: value.repeat_interleave(3, 0) for key, value in inputs.items()}
    with torch.no_grad(), made.routed(Decision(w)):
        assert rel(hidden(host, many), hidden(host, inputs).repeat_interleave(3, 0)) < 1e-5
    with torch.no_grad(), made.routed(Decision(of_layers(made, 5))), pytest.raises(LabError, match="5 rows"):
        hidden(host, inputs)


def test_beam_search_is_peft_s_row_by_row():
    host, made = tiny.bank("llama", inside=tiny.model("llama", "AutoModelForCausalLM"))
    peft = tiny.in_peft(made, "llama", inside=tiny.model("llama", "AutoModelForCausalLM"))
    ids, how = (
        tiny.tokens()["input_ids"],
        {"num_beams": 2, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0},
    )
    with torch.no_grad(), made.routed(chosen()):
        ours = host.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
    for row, k in enumerate(ROWS.tolist()):
        peft.set_adapter(f"e{k}")
        one = ids[row : row + 1]
        theirs = peft.generate(input_ids=one, attention_mask=torch.ones_like(one), **how)
        assert torch.equal(ours[row], theirs[0])


# -- arithmetic --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_bfloat16_autocast(kind, how, heads):
    _, made = tiny.bank("bert", kind=kind, composition=how, heads=heads)
    x, draw = torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(2)), tiny.weights(2, 4, 6, heads, 3)
    layer = made.routed_layers[0]
    x = x if layer.info.inputs == 32 else torch.cat([x, x], -1)[..., : layer.info.inputs]
    for decision in (Decision(draw[0, :, :1].transpose(1, 2).reshape(4, 1, heads, 3)), tiny.per_token(draw)):
        with torch.no_grad(), made.routed(decision):
            exact = layer(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                low = layer(x)
        assert low.dtype == torch.bfloat16
        assert rel(low.float(), exact) < 2e-2


def gates(made: Bank, **options):
    router = registry.routers.get("gates")(
        registry.routers.options({"name": "gates", "query": "layer", **options}), made.layers, 32
    )
    router.grow(len(made))
    draw = torch.Generator().manual_seed(6)
    for parameter in router.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    return router


def gradients(name: str, how: str, checkpointing: bool | None) -> list[torch.Tensor]:
    """Of experts and routers in training; checkpointing None: off, else the value of use_reentrant."""
    host, made = tiny.bank(name, composition=how)
    if checkpointing is not None:
        host.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
        if checkpointing:
            host.enable_input_require_grads()
        assert host.is_gradient_checkpointing
    host.train()
    router, inputs, passes = gates(made), tiny.tokens(), []
    host.get_submodule(made.layers[0].name).register_forward_hook(lambda *_: passes.append(1))
    decision = router(Request(inputs["attention_mask"], noise=torch.Generator().manual_seed(8)))
    with made.routed(decision):
        out = hidden(host, inputs)
        tiny.readout(out, inputs["attention_mask"]).backward()
    assert len(passes) == (1 if checkpointing is None else 2)  # layers did run again
    experts = [p.grad for k in range(len(made)) for p in made.expert(k).values()]
    return [out.detach(), decision.recorded().detach(), *experts, *(p.grad for p in router.parameters())]


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_activation_checkpointing_gives_the_same_gradients(name, how):
    plain = gradients(name, how, None)
    assert all(found.any() for found in plain)
    for reentrant in (True, False):
        for found, expected in zip(gradients(name, how, reentrant), plain, strict=True):
            assert rel(found, expected) < 1e-6


# -- what is refused ---------------------------------------------------------------------------------------------------------


def refusal(name: str, model_type: str, heads: int = 1, kind: str = "lora", **options) -> str:
    made = registry.experts.get(kind)(registry.experts.options({"name": kind, **options}))
    host = tiny.model(name)
    modules = [type(module) for module in host.modules()]
    with pytest.raises(LabError) as caught:
        Bank(host, model_type, made, heads=heads)
    assert modules == [type(module) for module in host.modules()]  # the model is untouched
    return str(caught.value)


def test_requests_that_cannot_be_met():
    assert refusal("bert", "bert", targets=["nowhere"]) == (
        "experts.targets = ['nowhere'] matches no linear layer of this backbone; there are dense, key, query, value"
    )
    assert refusal("bert", "bert", targets=[]) == (
        "experts.targets = [] matches no linear layer of this backbone; there are dense, key, query, value"
    )
    assert refusal("bert", "bert", heads=5) == (
        "router.heads = 5 does not divide the width 32 of layer encoder.layer.0.attention.self.query: "
        "choose one of 1, 2, 4, 8, 16, 32"
    )
    # keys and values of this Llama have 16 features
    assert refusal("llama", "llama", heads=32, targets=["q_proj", "v_proj"]) == (
        "router.heads = 32 does not divide the width 16 of layer layers.0.self_attn.v_proj: choose one of 1, 2, 4, 8, 16"
    )
    assert refusal("bert", "bert", heads=3, kind="bottleneck") == (
        "router.heads = 3 does not divide the width 32 of layer encoder.layer.0.attention.output.dense: "
        "choose one of 1, 2, 4, 8, 16, 32"
    )


def test_endings_of_names_match_whole_words_only():
    _, made = tiny.bank("bert", kind="bottleneck", size=4)
    assert [layer.name for layer in made.layers] == [
        f"encoder.layer.{i}.{part}.dense" for i in range(2) for part in ("attention.output", "output")
    ]
    _, made = tiny.bank("bert", kind="bottleneck", size=4, placement="pfeiffer")
    assert [layer.name for layer in made.layers] == ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]
    assert refusal("bert", "bert", targets=["uery"]).startswith("experts.targets = ['uery'] matches no linear layer")
    _, made = tiny.bank("gpt2")
    shapes = (("weight", (32, 96)), ("bias", (96,)))
    assert made.layers == [LayerInfo(f"h.{i}.attn.c_attn", 32, 96, shapes) for i in range(2)]


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_lowest_blocks_can_be_left_without_experts(name: str):
    whole, upper = tiny.bank(name)[1].layers, tiny.bank(name, skip=0.5)[1].layers  # two blocks
    assert upper == whole[len(whole) // 2 :] and upper
    assert tiny.bank(name, skip=0.2)[1].layers == whole
    first = whole[0].name
    assert refusal(name, tiny.config(name).model_type, targets=[first], skip=0.5) == (
        "experts.skip = 0.5 leaves no layer to adapt: the targets stand in blocks 0 of 2"
    )


def test_a_copy_of_the_model_has_a_bank_of_its_own():
    """Nothing shares parameters by accident: two banks of one key are equal and independent."""
    _, first = tiny.bank("bert")
    _, second = tiny.bank("bert")
    kept = copy.deepcopy({name: p.detach() for name, p in second.expert(0).items()})
    first.load_expert(0, {name: torch.zeros_like(p) for name, p in first.expert(0).items()})
    assert all(torch.equal(p, kept[name]) for name, p in second.expert(0).items())


def test_a_layer_decision_without_layers_has_nothing_recorded():
    assert LayerDecision(lambda layer, x: x).recorded() is None
