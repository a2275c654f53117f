"""The contract of an expert kind, for every kind there is."""

import pytest
import torch
from support import tiny
from support.tiny import hidden, rel

from lab.config.schema import BackboneConfig, RunConfig
from lab.core.errors import LabError
from lab.core.registry import experts
from lab.core.rng import generator
from lab.data.stream import Example, Task
from lab.experts.base import Expert, InputExpert, LayerInfo
from lab.models.learner import Learner
from lab.models.pretrained import resolve
from lab.routers.base import Decision, one_hot, single_expert

KINDS = experts.names()
LAYER = LayerInfo("some.layer", 12, 16, (("weight", (16, 12)), ("bias", (16,))))


def kind_of(name: str, **options) -> Expert:
    return experts.get(name)(experts.options({"name": name, **options}))


def grown(name: str, how: str = "mix", heads: int = 1, count: int = 3):
    return tiny.bank("bert", kind=name, composition=how, heads=heads, experts=count)


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("name", [name for name in KINDS if not issubclass(experts.get(name), InputExpert)])
def test_a_fresh_expert_changes_nothing(name, how):
    host, made = grown(name, how, count=0)
    made.grow("a", 0)
    inputs = tiny.tokens()
    base = hidden(host, inputs)
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1))):
        assert rel(hidden(host, inputs), base) < 1e-6
    made.grow("b", 1)
    with torch.no_grad(), made.routed(Decision(tiny.weights(4, 1, 1, 2))):
        assert rel(hidden(host, inputs), base) < 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_expert_can_learn(name):
    """Some of its parameters have a gradient at the start: not all of them may be at a saddle."""
    host, made = grown(name, count=0)
    made.grow("a", 0)
    inputs = tiny.tokens()
    with made.routed(Decision(torch.ones(1, 1, 1, 1))):
        tiny.readout(hidden(host, inputs), inputs["attention_mask"]).backward()
    for layer in made.routed_layers:
        assert any(p.grad is not None and p.grad.any() for p in layer.experts[0].values())


@pytest.mark.parametrize("name", KINDS)
def test_new_is_decided_by_its_generator(name):
    kind = kind_of(name)
    one, again, other = (kind.new(LAYER, generator(seed)) for seed in (1, 1, 2))
    assert set(one) == set(again) == set(other)
    assert all(torch.equal(one[key], again[key]) for key in one)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    kind.new(LAYER, generator(3))
    assert torch.equal(state, torch.get_rng_state())  # nobody else's chance is used
    if any(tensor.unique().numel() > 1 for tensor in one.values()):
        assert any(not torch.equal(one[key], other[key]) for key in one)
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in one.values())


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_shapes(name, heads, how):
    host, made = grown(name, how, heads)
    met = []
    for layer in made.routed_layers:
        layer.register_forward_hook(lambda layer, args, out: met.append((layer, args[0])))
    hidden(host, tiny.tokens(4, 5))
    assert {layer.info for layer, _ in met} == set(made.layers)
    for layer, x in met:
        for shape in ((1, 1), (4, 1), (1, 5), (4, 5)):
            w = tiny.weights(*shape, heads, 3)
            stack = layer.stack((0, 1, 2)) | made.shared
            out = made.kind.output(layer.base, x, stack, w, how)
            assert out.expand(4, 5, -1).shape == (4, 5, layer.info.outputs)
            assert rel(out, made.kind.output(layer.base, x, stack, w.expand(4, 5, heads, 3), how)) < 1e-5
    with torch.no_grad(), made.routed(Decision(tiny.weights(4, len(made.layers), heads, 3))):
        assert hidden(host, tiny.tokens()).shape == (4, 6, 32)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_one_hot_weights_are_the_expert_itself_in_mix_and_in_merge(name, heads):
    inputs, rows, found = tiny.tokens(), torch.tensor([2, 0, 1, 0]), {}
    for how in ("mix", "merge"):
        host, made = grown(name, how, heads)
        with torch.no_grad(), made.routed(Decision(one_hot(rows, 3, heads))):
            found[how] = hidden(host, inputs)
        for row, k in enumerate(rows.tolist()):
            with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(k,))):
                assert rel(found[how][row], hidden(host, inputs)[row]) < 1e-5
    assert rel(found["mix"], found["merge"]) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_an_isolated_expert_is_trained_to_the_same_bits_for_every_composition_and_router(name, dtype):
    """Recipes share isolated experts, so none of what comes after may decide their bits."""
    task = Task("a", ("no", "yes"), [Example(f"a text of {i} words", i % 2) for i in range(4)], (), ())
    settings, found = resolve(BackboneConfig(name="tiny", device="cpu", dtype=dtype, threads=1)), []
    for how, router in (
        ("mix", {"name": "uniform"}),
        ("merge", {"name": "uniform"}),
        ("merge", {"name": "gates", "heads": 4, "query": "backbone"}),
    ):
        learner = Learner(RunConfig(backbone=settings, experts={"name": name}, composition=how, router=router), [task])
        learner.add_task(0)
        tiny.randomise(learner.bank)
        batch = learner.backbone.collate(learner.backbone.encode(task.train, 0, "train"))
        with learner.bank.routed(single_expert(0, learner.backbone.device)):
            torch.nn.functional.cross_entropy(learner.head.logits(batch), batch.label).backward()
        found.append([p.grad for p in (*learner.bank.expert(0).values(), *learner.head.classifier.parameters())])
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_every_option_has_a_default_and_is_documented(name):
    kind = experts.get(name)
    assert kind.about()
    assert kind.Options().name == kind.name == name
    for field, about in kind.Options.model_fields.items():
        assert field == "name" or about.description, field
    with pytest.raises(ValueError, match="no_such_option"):
        kind.Options(no_such_option=1)


@pytest.mark.parametrize("name", KINDS)
def test_saved_and_brought_in_again_to_the_bit(name, tmp_path):
    host, made = grown(name)
    made.export(1, tmp_path)
    other_host, other = grown(name, count=0)
    assert other.import_expert(tmp_path, "again") == 0
    assert other.expert(0).keys() == made.expert(1).keys()
    assert all(torch.equal(p, other.expert(0)[key]) for key, p in made.expert(1).items())
    inputs = tiny.tokens()
    with torch.no_grad():
        with made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(1,))):
            ours = hidden(host, inputs)
        with other.routed(Decision(torch.ones(1, 1, 1, 1))):
            assert torch.equal(ours, hidden(other_host, inputs))
    made.export(1, tmp_path / "twice")
    assert (tmp_path / "twice" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_heads_must_divide(name):
    kind = kind_of(name)
    for heads in (1, 2, 4):
        kind.check_heads(LAYER, heads)
    with pytest.raises(
        LabError, match=r"^router.heads = 7 does not divide the width \d+ of layer some.layer: choose one of 1, 2, 4"
    ):
        kind.check_heads(LAYER, 7)
