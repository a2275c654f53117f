"""Composed experts: against dense matrices, numpy's SVD and peft's merges; what cannot be composed is refused."""

import math

import numpy as np
import pytest
from test_library import LAYERS, save

from lab import arithmetic, library
from lab.arithmetic import OPERATIONS, WAYS, alignment, composed, keep
from lab.errors import LabError

PEFT = {"query": (12, 10), "value": (12, 10)}


def dense(expert) -> dict[str, np.ndarray]:
    """The update s B A of each layer, of a saved or a composed expert: (O, I)."""
    layers, scale = (expert.layers, 1.0) if isinstance(expert, arithmetic.Composed) else (expert.layers(), None)
    if scale is None:
        config = expert.config()
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    return {name: scale * layer["lora_B"] @ layer["lora_A"] for name, layer in layers.items()}


@pytest.fixture
def three(tmp_path):
    """Experts of different ranks and scales; the second one is an rsLoRA."""
    return [
        save(tmp_path / "a", 3, 1),
        save(tmp_path / "b", 2, 2, use_rslora=True),
        save(tmp_path / "c", 3, 3, alpha=1.0),
    ]


def test_joining_is_the_exact_sum(three):
    made, weights = composed(three, [0.5, -2.0, 1.0]), (0.5, -2.0, 1.0)
    assert made.rank == 8 and set(made.layers) == set(LAYERS)
    for name, update in dense(made).items():
        expected = sum(weight * dense(expert)[name] for weight, expert in zip(weights, three, strict=True))
        np.testing.assert_allclose(update, expected, atol=1e-12)
    assert made.norm() == pytest.approx(math.sqrt(sum(np.sum(update**2) for update in dense(made).values())))


def test_a_negated_expert_undoes_its_expert_and_an_analogy_moves_by_a_difference(three):
    a, b, c = three
    opposite = composed([b], OPERATIONS["negate"])
    both = composed([a, b, b], [1.0, 1.0, -1.0])
    for name in LAYERS:
        np.testing.assert_allclose(dense(opposite)[name], -dense(b)[name], atol=1e-12)
        np.testing.assert_allclose(dense(both)[name], dense(a)[name], atol=1e-12)
        like = dense(composed([a, b, c], OPERATIONS["analogy"]))[name]
        np.testing.assert_allclose(like - dense(c)[name], dense(b)[name] - dense(a)[name], atol=1e-12)


def test_svd_is_the_nearest_update_of_its_rank(three):
    made, whole = composed(three, [1.0, 1.0, -0.5], "svd"), dense(composed(three, [1.0, 1.0, -0.5]))
    assert made.rank == 3
    for name, update in dense(made).items():
        u, s, v = np.linalg.svd(whole[name])
        np.testing.assert_allclose(update, (u[:, :3] * s[:3]) @ v[:3], atol=1e-10)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, -0.4)])
def test_every_way_is_that_of_peft(tmp_path, how, weights):
    import torch
    from peft import LoraConfig, get_peft_model

    experts = [save(tmp_path / name, 3, seed, layers=PEFT) for seed, name in enumerate("ab")]
    net = torch.nn.ModuleDict({name: torch.nn.Linear(*shape) for name, shape in PEFT.items()})
    config = LoraConfig(r=3, lora_alpha=6, target_modules=list(PEFT))
    model = get_peft_model(net, config, "a")
    model.add_adapter("b", config)
    for name, expert in zip("ab", experts, strict=True):
        for layer, parts in expert.layers().items():
            for part, value in parts.items():
                getattr(net[layer], part)[name].weight.data = torch.tensor(value, dtype=torch.float32)
    model.add_weighted_adapter(["a", "b"], list(weights), "made", how, density=0.4)
    for layer, update in dense(composed(experts, weights, how, 0.4)).items():
        np.testing.assert_allclose(update, net[layer].get_delta_weight("made").numpy(), atol=2e-5)


def test_alignment_is_the_cosine_of_the_dense_updates(three):
    made = composed(three, [1.0, -1.0, 0.2])
    table = alignment(made, three)
    assert list(table.columns) == [expert.key for expert in three] and list(table.index) == [*LAYERS, "all layers"]
    ours = dense(made)
    for expert in three:
        others = dense(expert)
        for name in LAYERS:
            cosine = np.sum(ours[name] * others[name]) / np.linalg.norm(ours[name]) / np.linalg.norm(others[name])
            assert table.loc[name, expert.key] == pytest.approx(cosine)
        x, y = (np.concatenate([one[name].ravel() for name in LAYERS]) for one in (ours, others))
        assert table.loc["all layers", expert.key] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    np.testing.assert_allclose(alignment(composed(three[:1], [-3.0]), three[:1]), -1)
    nothing = save(three[0].folder.parent / "zero", zero=True)
    assert alignment(made, [nothing]).isna().all(axis=None)


def test_what_is_kept_has_the_same_update_and_is_a_plain_expert(three, runs):
    made = composed(three, [1.0, -1.0, 0.2])
    kept = keep(made, "mixture")
    assert kept.key == "imported/mixture" and [one.key for one in library.experts([])] == ["imported/mixture"]
    for name, update in dense(kept).items():
        np.testing.assert_allclose(update, dense(made)[name], atol=1e-5)
    assert library.describe(kept)["norm"] == pytest.approx(made.norm(), rel=1e-6)
    assert kept.config()["r"] == 8 and not kept.config()["use_rslora"]
    for name in ("mixture", "Bad name", "../x"):
        with pytest.raises(LabError, match=r"already|cannot name"):
            keep(made, name)


@pytest.mark.parametrize(
    ("change", "weights", "how", "said"),
    [
        ({}, [1.0], "cat", "2 expert"), ({}, [0.0, 0.0], "cat", "not all of them 0"), ({}, [1.0, math.nan], "cat", "numbers"),
        ({}, [1.0, 1.0], "ca", "'cat'"), ({"rank": 2}, [1.0, 1.0], "linear", "another rank"),
        ({"layers": {"other": (12, 10)}}, [1.0, 1.0], "cat", "other layers"),
        ({"base_model_name_or_path": "bert"}, [1.0, 1.0], "svd", "another backbone"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(tmp_path, change, weights, how, said):
    chosen = [save(tmp_path / "a"), save(tmp_path / "b", seed=1, **change)]
    with pytest.raises(LabError, match=said):
        composed(chosen, weights, how)
    with pytest.raises(LabError, match="above 0"):
        composed(chosen[:1], [1.0], "ties", 0.0)


def test_a_read_only_lab_keeps_nothing(three, runs, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    with pytest.raises(LabError, match="read-only"):
        keep(composed(three, [1.0, 1.0, 1.0]), "mixture")
    assert not (runs / ".library").exists()
