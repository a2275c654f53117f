"""Arithmetic on saved experts against peft, and against what the formulas say of the updates themselves."""

import json
import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import tiny
from support.commands import lab
from support.tiny import rel

from lab.adapters import arithmetic, peft_folder
from lab.adapters.arithmetic import Adapter
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.routers.base import Decision

SHAPES = {"encoder.layer.0.query": (8, 12), "encoder.layer.1.value": (10, 6)}  # (O, I)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(seed: int, rank: int = 3, alpha: float = 5.0, rslora: bool = False, name: str = "", **config) -> Adapter:
    tensors = {}
    for i, (layer, (outputs, inputs)) in enumerate(SHAPES.items()):
        tensors[f"{layer}.lora_A"] = numbers(rank, inputs, seed=10 * seed + i)
        tensors[f"{layer}.lora_B"] = numbers(outputs, rank, seed=500 + 10 * seed + i)
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "base_model_name_or_path": "base"}
    return Adapter(tensors, plain | config, name or f"e{seed}")


def ia3(seed: int) -> Adapter:
    tensors = {f"{layer}.ia3_l": 1 + 0.3 * numbers(shape[0], 1, seed=seed + i) for i, (layer, shape) in enumerate(SHAPES.items())}
    return Adapter(tensors, {"peft_type": "IA3", "base_model_name_or_path": "base"}, f"i{seed}")


def updates(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {layer: adapter.update(layer) for layer in adapter.layers}


def total(adapters, weights) -> dict[str, torch.Tensor]:
    found = [updates(adapter) for adapter in adapters]
    return {layer: sum(w * each[layer] for w, each in zip(weights, found, strict=True)) for layer in found[0]}


# arithmetic -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [-1.0, 0.5, -2.0, 0.0])
def test_scaled_and_negated_updates(by):
    """One factor only: the update has the factor itself, not its square; negation is the opposite update."""
    one = lora(1)
    for layer, update in updates(arithmetic.scaled(one, by)).items():
        assert torch.allclose(update, by * one.update(layer), atol=1e-6)
    for name, tensor in arithmetic.negate(one, by).tensors.items():
        assert torch.allclose(tensor, -by * one.tensors[name] if name.endswith("lora_B") else one.tensors[name])
    other = ia3(1)
    for name, tensor in arithmetic.negate(other, by).tensors.items():  # 1 + s - s l
        assert torch.allclose(tensor, 1 + by - by * other.tensors[name], atol=1e-6)
    assert all(torch.equal(tensor, lora(1).tensors[name]) for name, tensor in one.tensors.items())  # nothing is changed


def test_addition_is_the_mean_of_every_parameter():
    for make in (lora, ia3):
        one, two = make(1), make(2)
        half, more = arithmetic.add([one, two]), arithmetic.add([one, two], [3, 1])
        for name in one.tensors:
            assert torch.allclose(half.tensors[name], (one.tensors[name] + two.tensors[name]) / 2, atol=1e-6)
            assert torch.allclose(more.tensors[name], 0.75 * one.tensors[name] + 0.25 * two.tensors[name], atol=1e-6)
    a, b = lora(1), lora(2)
    cross = arithmetic.add([a, b]).update("encoder.layer.1.value")
    assert rel(cross, total([a, b], [0.5, 0.5])["encoder.layer.1.value"]) > 0.1  # a merge of parameters, not of updates


def test_analogy():
    task, target, source = lora(1), lora(2), lora(3)
    made = arithmetic.analogy(task, target, source, (0.7, 0.4))
    for name in made.tensors:
        sign = -1 if name.endswith("lora_B") else 1
        expected = 0.7 * task.tensors[name] + 0.4 * (target.tensors[name] + sign * source.tensors[name])
        assert torch.allclose(made.tensors[name], expected, atol=1e-6)
    one, two, three = ia3(1), ia3(2), ia3(3)
    for name, tensor in arithmetic.analogy(one, two, three, (0.7, 0.4)).tensors.items():  # 1 - c0 + c0 v + c1 a - c1 b
        expected = 1 - 0.7 + 0.7 * one.tensors[name] + 0.4 * two.tensors[name] - 0.4 * three.tensors[name]
        assert torch.allclose(tensor, expected, atol=1e-6)
    same = arithmetic.analogy(one, two, two)
    assert all(torch.allclose(tensor, one.tensors[name], atol=1e-6) for name, tensor in same.tensors.items())


# merges -----------------------------------------------------------------------------------------------------------------------


def in_peft(name: str, **options):
    """A bank of random experts, the same in peft, and each as an adapter."""
    _, made = tiny.bank(name, **options)
    wrapped = tiny.in_peft(made, name)
    config = made.kind.peft_config([layer.name for layer in made.layers], "base")
    return wrapped, [
        Adapter({key: p.detach().clone() for key, p in made.expert(k).items()}, config, f"e{k}") for k in range(len(made))
    ]


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], [1.0, -0.4, 0.7]])
@pytest.mark.parametrize("how", ["linear", "cat", "svd", "ties"])
def test_merges_are_peft_s(how, weights):
    wrapped, adapters = in_peft("bert")
    density = {"density": 0.4} if how == "ties" else {}
    rank = {"svd_rank": tiny.RANK} if how == "svd" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.add_weighted_adapter(["e0", "e1", "e2"], weights, "made", combination_type=how, **density, **rank)
    found = arithmetic.add(adapters, weights, how, **density)
    for layer in found.layers:
        expected = wrapped.base_model.model.get_submodule(layer).get_delta_weight("made").detach()
        assert rel(found.update(layer).float(), expected) < 1e-5, layer


@pytest.mark.parametrize("how", ["linear", "cat", "svd", "ties"])
def test_merges_of_rslora_have_the_size_of_their_parts(how):
    """The same updates written with rsLoRA's scale give the same merge; peft's would be sqrt(r) too large."""
    plain = [lora(k, rank=4, alpha=4.0) for k in range(3)]
    same = [lora(k, rank=4, alpha=2.0, rslora=True) for k in range(3)]
    for a, b in zip(plain, same, strict=True):
        assert all(torch.equal(a.update(layer), b.update(layer)) for layer in a.layers)
    found = [arithmetic.add(adapters, [0.5, 0.3, 0.2], how, density=0.5) for adapters in (plain, same)]
    for layer in found[0].layers:
        assert rel(found[1].update(layer), found[0].update(layer)) < 1e-6
        if how == "cat":
            assert rel(found[1].update(layer), total(plain, [0.5, 0.3, 0.2])[layer]) < 1e-6


def test_cat_takes_any_ranks_and_scales_and_svd_is_the_best_of_its_rank():
    parts, weights = [lora(1, rank=2), lora(2, rank=4, alpha=1.0), lora(3, rank=3, rslora=True)], [0.6, -0.3, 1.2]
    cat, svd = arithmetic.add(parts, weights, "cat"), arithmetic.add(parts, weights, "svd")
    assert (cat.config["r"], svd.config["r"]) == (9, 2)
    for layer, exact in total(parts, weights).items():
        assert rel(cat.update(layer), exact) < 1e-6
        u, s, v = torch.linalg.svd(exact, full_matrices=False)
        assert rel(svd.update(layer), u[:, :2] * s[:2] @ v[:2]) < 1e-5


def first_layer_of(adapter: Adapter) -> Adapter:
    return replace(adapter, tensors={name: tensor for name, tensor in adapter.tensors.items() if ".0." in name})


REFUSED = {
    "rank": (lambda: arithmetic.add([lora(1), lora(2, rank=2)]), "'e1' and 'e2' have different ranks, 3 and 2: use how=cat or"),
    "scale": (lambda: arithmetic.add([lora(1), lora(2, alpha=1.0)]), "'e1' and 'e2' are scaled by 1.66667 and 0.333333: use"),
    "backbone": (
        lambda: arithmetic.add([lora(1), lora(2, base_model_name_or_path="other")], how="cat"),
        "'e1' and 'e2' belong to different backbones, base and other, whose weights are not the same or not here",
    ),
    "layers": (
        lambda: arithmetic.add([lora(1), first_layer_of(lora(2))], how="cat"),
        "'e1' and 'e2' adapt different layers: only one of them has encoder.layer.1.value",
    ),
    "kind": (lambda: arithmetic.add([lora(1), ia3(2)]), "'e1' and 'i2' are of different kinds, LORA and IA3"),
    "ia3 merge": (lambda: arithmetic.add([ia3(1), ia3(2)], how="cat"), "how = cat merges updates of LoRA experts, these are"),
    "count": (lambda: arithmetic.add([lora(1), lora(2)], [1.0]), "1 weights were given for 2 experts: give one for each"),
    "negative": (
        lambda: arithmetic.add([lora(1), lora(2)], [2.0, -1.0]),
        "weights 2, -1: one is negative, and they are normalised",
    ),
    "zero": (lambda: arithmetic.add([lora(1), lora(2)], [0.0, 0.0]), "weights 0, 0 sum to zero, they cannot be normalised"),
    "density": (lambda: arithmetic.add([lora(1), lora(2)], how="ties", density=0.0), "density = 0.0: the share of values"),
    "none": (lambda: arithmetic.add([]), "no expert was given"),
    "not a number": (lambda: arithmetic.add([lora(1), lora(2)], [math.nan, 1.0]), "the numbers nan, 1 must be finite in float32"),
    "svd": (lambda: arithmetic.add([lora(1), lora(2)], [math.nan, 1.0], "svd"), "the numbers nan, 1 must be finite in float32"),
    "infinite": (lambda: arithmetic.add([lora(1), lora(2)], [math.inf, 1.0]), "the numbers inf, 1 must be finite in float32"),
    "negate": (lambda: arithmetic.negate(lora(1), math.nan), "the number nan must be finite in float32"),
    "scaled": (lambda: arithmetic.scaled(ia3(1), -math.inf), "the number -inf must be finite in float32"),
    "analogy": (
        lambda: arithmetic.analogy(lora(1), lora(2), lora(3), (math.nan, 1.0)),
        "the numbers nan, 1 must be finite in float32",
    ),
    "huge": (lambda: arithmetic.add([lora(1), lora(2)], [1e308, 1.0], "svd"), "the numbers 1e+308, 1 must be finite in float32"),
    "overflow": (lambda: arithmetic.scaled(lora(1), 3e38), "the result has values that float32 cannot hold: use smaller numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, text = REFUSED[case]
    with pytest.raises(LabError, match="^" + re.escape(text)):
        call()


# clusters ---------------------------------------------------------------------------------------------------------------------


def family(groups: int, size: int, noise: float = 0.4) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """Experts near a few common ones, in mixed order, and the group of each."""
    roots = [lora(90 + g).tensors for g in range(groups)]
    order = [i % groups for i in torch.randperm(groups * size, generator=torch.Generator().manual_seed(5)).tolist()]
    made = [
        {name: t + noise * numbers(*t.shape, seed=1000 + 31 * i + j) for j, (name, t) in enumerate(roots[g].items())}
        for i, g in enumerate(order)
    ]
    return made, order


def published(experts: list[dict[str, torch.Tensor]], count: int, quantile: float = 0.8) -> np.ndarray:
    """The published recipe with scikit-learn: long vectors, the smallest values zero, a truncated SVD, k-means on cosines."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.metrics.pairwise import cosine_similarity

    x = np.stack([np.concatenate([expert[name].numpy().ravel() for name in sorted(expert)]) for expert in experts]).astype(float)
    x[np.abs(x) <= np.quantile(np.abs(x), quantile, axis=1, keepdims=True)] = 0
    place = TruncatedSVD(min(64, len(x)), n_iter=5, random_state=42).fit_transform(x)
    return KMeans(count, n_init=10, random_state=42).fit_predict(cosine_similarity(place))


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_clusters_are_those_of_scikit_learn(groups):
    from sklearn.metrics import adjusted_rand_score

    experts, order = family(groups, 6)
    found = arithmetic.clusters(arithmetic.products(experts, "parameters"), groups)
    assert adjusted_rand_score(found, published(experts, groups)) == 1.0
    assert adjusted_rand_score(found, order) == 1.0
    assert adjusted_rand_score(arithmetic.clusters(arithmetic.products(experts, "update"), groups), order) == 1.0
    assert list(dict.fromkeys(found)) == list(range(groups))  # numbered by first members


def test_products_of_updates_are_exact_and_do_not_depend_on_the_factors():
    experts, _ = family(2, 3)
    dense = [
        torch.cat([(e[f"{layer}.lora_B"].double() @ e[f"{layer}.lora_A"].double()).flatten() for layer in sorted(SHAPES)])
        for e in experts
    ]
    expected = torch.stack([torch.stack([a @ b for b in dense]) for a in dense])
    assert rel(arithmetic.products(experts), expected) < 1e-10
    turn = numbers(3, 3, seed=4).double() + 3 * torch.eye(3)
    other = {
        name: (torch.linalg.inv(turn) @ t.double() if name.endswith("lora_A") else t.double() @ turn)
        for name, t in experts[0].items()
    }
    assert rel(arithmetic.products([other, *experts[1:]]), expected) < 1e-6
    assert rel(arithmetic.products([other, *experts[1:]], "parameters"), arithmetic.products(experts, "parameters")) > 0.01


def test_more_clusters_than_experts_are_refused():
    experts, _ = family(2, 2)
    assert sorted(arithmetic.clusters(arithmetic.products(experts), 4)) == [0, 1, 2, 3]
    for count in (0, 5):
        with pytest.raises(LabError, match=f"^{count} clusters of 4 experts cannot be: ask for 1 to 4$"):
            arithmetic.clusters(arithmetic.products(experts), count)


# folders and the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Two experts of a tiny model in folders, and their bank."""
    _, made = tiny.bank("bert")
    for k in range(2):
        made.export(k, tmp_path / f"e{k}", "base")
    return tmp_path, made


def test_a_composed_folder_loads_in_peft_and_in_the_bank(saved):
    from peft import PeftModel

    folder, _ = saved
    done = lab("add", folder / "e0", folder / "e1", "--how", "svd", "--weights", "0.5,0.5", "--out", folder / "both", "--json")
    assert done.exit_code == 0, done.output
    theirs = PeftModel.from_pretrained(tiny.model("bert"), str(folder / "both")).eval()
    exact = arithmetic.add([arithmetic.read(folder / "e0"), arithmetic.read(folder / "e1")], [0.5, 0.5], "svd")
    for layer in exact.layers:
        assert (
            rel(theirs.base_model.model.get_submodule(layer).get_delta_weight("default").detach(), exact.update(layer).float())
            < 1e-5
        )
    host, other = tiny.bank("bert", experts=0, alpha=float(tiny.RANK))
    other.import_expert(folder / "both", "both")
    batch = tiny.tokens()
    with torch.no_grad(), other.routed(Decision(torch.ones(1, 1, 1, 1))):
        assert rel(tiny.hidden(host, batch), theirs(**batch).last_hidden_state) < 1e-5
    text = (folder / "both" / "README.md").read_text()
    digest = atomic_io.sha256(folder / "e0" / "adapter_model.safetensors")
    assert "lab compose add" in text and "--how svd" in text and digest in text and str(folder / "e0") in text


def test_the_command_line(saved):
    folder, _ = saved
    assert lab("negate", folder / "e0", "--by", "2", "--out", folder / "n").exit_code == 0
    assert lab("scaled", folder / "e0", "--by", "0.5", "--out", folder / "h").exit_code == 0
    assert lab("analogy", folder / "e0", folder / "e1", folder / "e0", "--out", folder / "a").exit_code == 0
    told = lab("cluster", folder / "e0", folder / "e1", folder / "h", "--clusters", "2", "--json")
    assert [row["cluster"] for row in json.loads(told.stdout)] == [0, 1, 0]
    e0 = arithmetic.read(folder / "e0")
    for name, by in (("n", -2.0), ("h", 0.5)):
        got = arithmetic.read(folder / name)
        assert all(rel(got.update(layer), by * e0.update(layer)) < 1e-6 for layer in e0.layers)
    for words, text in (
        (("cluster", folder / "e0", folder / "e1", "--clusters", "3"), "3 clusters of 2 experts cannot be"),
        (("negate", folder / "e0", "--out", folder / "n"), "exists already: name a new folder"),
        (("negate", folder / "zz", "--out", folder / "m"), "there is no expert"),
        (("add", folder / "e0", folder / "e1", "--weights", "1,x", "--out", folder / "m"), "--weights = 1,x: write numbers"),
        (("add", folder / "e0", folder / "e1", "--weights", "1,-1", "--out", folder / "m"), "one is negative"),
        (
            ("add", folder / "e0", folder / "e1", "--weights", "inf,1", "--out", folder / "m"),
            "the numbers inf, 1 must be finite in float32",
        ),
        (("negate", folder / "e0", "--by", "nan", "--out", folder / "m"), "the number nan must be finite in float32"),
    ):
        done = lab(*words)
        assert done.exit_code == 2 and text in done.output, done.output
        assert not (folder / "m").exists()


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_folder_is_written_whole_or_not_at_all(failing, saved, monkeypatch):
    folder, _ = saved
    before, written, real = sorted(folder.rglob("*")), [], atomic_io.replace_bytes

    def replace_bytes(path, content):
        written.append(path)
        if len(written) == failing:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(atomic_io, "replace_bytes", replace_bytes)
    e0 = arithmetic.read(folder / "e0")
    with pytest.raises(LabError, match=r"new cannot be written: No space left on device$"):
        arithmetic.write(e0, folder / "new", "words", [e0])
    assert sorted(folder.rglob("*")) == before
    monkeypatch.undo()
    arithmetic.write(e0, folder / "new", "words", [e0])
    assert sorted(path.name for path in (folder / "new").iterdir()) == [peft_folder.CARD, peft_folder.CONFIG, peft_folder.WEIGHTS]


def test_an_expert_with_values_that_are_not_finite_is_damaged(saved):
    folder, made = saved
    made.expert(0)[f"{made.layers[0].name}.lora_A"].data[0, 0] = math.nan
    made.export(0, folder / "nan", "base")
    with pytest.raises(LabError, match=r"nan holds values that are not finite in .*query.lora_A.weight: it was damaged"):
        arithmetic.read(folder / "nan")


def test_only_lora_and_ia3_are_read(saved, tmp_path):
    _, other = tiny.bank("bert", kind="bottleneck", size=4)
    other.export(0, tmp_path / "b")
    with pytest.raises(LabError, match=r"holds an expert of kind bottleneck: arithmetic is defined for LoRA and \(IA\)\^3$"):
        arithmetic.read(tmp_path / "b")
    config = json.loads((tmp_path / "e0" / "adapter_config.json").read_text())
    (tmp_path / "e0" / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(LabError, match=r"use_dora = True: .*DoRA"):
        arithmetic.read(tmp_path / "e0")


# (IA)^3 as an expert kind -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_ia3_is_peft_s_with_the_gradient(name, tmp_path):
    """Outputs and gradients of one expert, through a saved folder; targets and feed-forward layers are those of peft."""
    from peft import IA3Config, PeftModel, get_peft_model

    host, made = tiny.bank(name, kind="ia3")
    made.export(1, tmp_path)
    theirs = PeftModel.from_pretrained(tiny.model(name), str(tmp_path), is_trainable=True)
    own = get_peft_model(tiny.model(name), IA3Config())
    adapted = {n for n, m in own.base_model.model.named_modules() if hasattr(m, "ia3_l")}
    assert {layer.name for layer in made.layers} == adapted
    batch = tiny.tokens()
    with made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(1,))):
        out = tiny.hidden(host, batch)
        tiny.readout(out, batch["attention_mask"]).backward()
    expected = theirs(**batch).last_hidden_state
    tiny.readout(expected, batch["attention_mask"]).backward()
    assert rel(out.detach(), expected.detach()) < 1e-5
    assert rel(out.detach(), tiny.hidden(tiny.model(name), batch)) > 0.05
    for layer in made.layers:
        module = theirs.base_model.model.get_submodule(layer.name)
        assert rel(made.expert(1)[f"{layer.name}.ia3_l"].grad, module.ia3_l["default"].grad) < 1e-4
        assert module.is_feedforward == made.kind.scales_input(layer.name)


def test_ia3_experts_mix_to_the_weighted_vector_per_block():
    """With weights that sum to one the layer is scaled by the mean of the vectors, block by block of its features."""
    _, made = tiny.bank("bert", kind="ia3", heads=2)
    w = tiny.weights(4, 1, 2, 3)
    for layer in made.routed_layers:
        x = numbers(4, 5, layer.info.inputs, seed=layer.index)
        stack = layer.stack((0, 1, 2))
        vector = torch.einsum("bthe,ehd->bthd", w, stack["ia3_l"].reshape(3, 2, -1)).flatten(2)  # (4, 1, features)
        expected = layer.base(x * vector) if made.kind.scales_input(layer.info.name) else layer.base(x) * vector
        assert rel(made.kind.output(layer.base, x, stack, w, "mix").detach(), expected.detach()) < 1e-5


def test_ia3_arithmetic_acts_on_the_output():
    """The negated expert of a layer that scales its output takes away what the expert adds."""
    one = ia3(1)
    for name, tensor in one.tensors.items():
        y = numbers(4, *tensor.shape[:1])
        added, taken = y * tensor[:, 0] - y, y * arithmetic.negate(one).tensors[name][:, 0] - y
        assert torch.allclose(added, -taken, atol=1e-6)
    assert math.isclose(
        np.mean([t.mean() for t in arithmetic.add([one, arithmetic.negate(one)]).tensors.values()]), 1.0, abs_tol=1e-6
    )
