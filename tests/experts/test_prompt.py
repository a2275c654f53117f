"""Soft prompts against peft's prompt tuning, Progressive Prompts and L2P against hand-worked cases."""

import warnings

import pytest
import torch
from support import tiny, toy
from support.errors import assert_says
from support.tiny import hidden, rel
from typer.testing import CliRunner

from lab.cli import main
from lab.core.errors import LabError
from lab.core.registry import routers
from lab.routers.base import Decision, LayerDecision, Request, single_expert

LENGTH = 3


def bank(name: str = "bert", how: str = "mix", heads: int = 1, count: int = 3, inside=None):
    return tiny.bank(name, kind="prompt", composition=how, heads=heads, experts=count, inside=inside, length=LENGTH)


def in_peft(name: str, prompt: torch.Tensor):
    """peft's prompt tuning with this prompt (P, D) around the same backbone."""
    from peft import PromptTuningConfig, TaskType, get_peft_model

    host = tiny.model(name)
    heads = {"num_layers": 2, "num_attention_heads": 4}
    settings = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=len(prompt), token_dim=32, **heads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(host, settings).eval()
    wrapped.prompt_encoder["default"].embedding.weight.data.copy_(prompt)
    return wrapped


def prompts(made) -> list[torch.Tensor]:
    return [next(iter(made.expert(k).values())) for k in range(len(made))]


def only(*experts: int) -> Decision:
    return Decision(torch.ones(1, 1, 1, len(experts)), experts=experts)


@pytest.mark.parametrize("chosen", [(1,), (0, 1, 2)])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_hidden_states_and_gradients_are_peft_s(name, chosen):
    """Several prompts are one long prompt, the newest first; what comes out are the hidden states of the tokens."""
    host, made = bank(name)
    inputs = tiny.tokens()
    theirs = in_peft(name, torch.cat([prompts(made)[k].data for k in reversed(chosen)]))
    with made.routed(only(*chosen)):
        ours = hidden(host, inputs)
        tiny.readout(ours, inputs["attention_mask"]).backward()
    expected = hidden(theirs, inputs)[:, LENGTH * len(chosen) :]
    tiny.readout(expected, inputs["attention_mask"]).backward()
    real = inputs["attention_mask"].bool()
    assert ours.shape == (4, 6, 32) and rel(ours[real], expected[real]) < 1e-5
    gradient = theirs.prompt_encoder["default"].embedding.weight.grad.split(LENGTH)
    for k, wanted in zip(reversed(chosen), gradient, strict=True):
        assert rel(prompts(made)[k].grad, wanted) < 1e-5
    assert all(prompts(made)[k].grad is None for k in range(3) if k not in chosen)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_rows_with_different_prompts_are_those_rows_alone(name):
    """Zero weights leave no gap: neither attention nor positions know of a prompt that is not chosen."""
    host, made = bank(name)
    inputs = tiny.tokens()
    rows = [(), (0, 2), (1,), (0, 1, 2)]
    weights = torch.tensor([[float(k in row) for k in range(3)] for row in rows])[:, None, None]
    with torch.no_grad():
        with made.routed(Decision(weights)):
            found = hidden(host, inputs)
        for i, row in enumerate(rows):
            one = {key: value[i : i + 1] for key, value in inputs.items()}
            with made.routed(only(*row) if row else None):
                assert rel(found[i], hidden(host, one)[0]) < 1e-5


def test_soft_weights_scale_and_merge_sums():
    host, made = bank(how="mix")
    other, merged = bank(how="merge")
    inputs, real = tiny.tokens(), tiny.tokens()["attention_mask"].bool()
    w = torch.tensor([0.2, 0.5, 0.3])
    scaled = torch.cat([w[k] * prompts(made)[k].data for k in (2, 1, 0)])
    total = sum(w[k] * prompts(made)[k].data for k in range(3))
    with torch.no_grad():
        for model, own, prompt in ((host, made, scaled), (other, merged, total)):
            with own.routed(Decision(w.view(1, 1, 1, 3))):
                found = hidden(model, inputs)
            expected = hidden(in_peft("bert", prompt), inputs)[:, len(prompt) :]
            assert rel(found[real], expected[real]) < 1e-5


def test_heads_weigh_blocks_of_features():
    host, made = bank(heads=2, count=2)
    inputs, real = tiny.tokens(), tiny.tokens()["attention_mask"].bool()
    w = torch.tensor([[0.5, 0.0], [2.0, 3.0]])  # (H, E)
    first, second = prompts(made)
    blocks = [torch.cat([w[0, k] * p.data[:, :16], w[1, k] * p.data[:, 16:]], dim=1) for k, p in ((1, second), (0, first))]
    with torch.no_grad():
        with made.routed(Decision(w.view(1, 1, 2, 2))):
            found = hidden(host, inputs)
        expected = hidden(in_peft("bert", torch.cat(blocks)), inputs)[:, 2 * LENGTH :]
    assert rel(found[real], expected[real]) < 1e-5


def test_the_sequence_representation_is_pooled_over_the_text():
    made = toy.session("l2r", "experts=prompt", "experts.length=3")
    made.learner.add_task(0)
    batch, backbone = made.learner.backbone.collate(made.rows[0, "train"][:4]), made.learner.backbone
    (prompt,) = made.learner.bank.expert(0).values()
    with torch.no_grad(), made.learner.bank.routed(single_expert(0, made.learner.backbone.device)):
        found = backbone.embed(batch)
    with torch.no_grad():
        tokens = backbone.model.get_input_embeddings()(batch.ids)
        mask = torch.cat([torch.ones(4, 3, dtype=torch.long), batch.mask], 1)
        plain = backbone.model(inputs_embeds=torch.cat([prompt.expand(4, -1, -1), tokens], 1), attention_mask=mask)
        text = plain.last_hidden_state[:, 3:]
        by_hand = torch.stack([row[: m.sum()].mean(0) for row, m in zip(text, batch.mask, strict=True)])
    assert rel(found, by_hand) < 1e-5


def test_nothing_of_a_batch_is_remembered_where_prompts_enter_it():
    """What the blocks make of a batch depends on the prompts, so none of it may stand for the same batch with other prompts."""
    made = toy.session("l2p", "experts.allocation=3", "router.top=1")
    learner, backbone = made.learner, made.learner.backbone
    learner.add_task(0)
    rows, found = made.rows[0, "test"][:4], {}
    batch = learner.backbone.collate(rows)
    for k in range(3):
        with torch.no_grad():
            with backbone.prefix_cached(rows, lasting=True), learner.bank.routed(only(k)):
                found[k] = backbone.embed(batch)
            with learner.bank.routed(only(k)):
                assert torch.equal(found[k], backbone.embed(batch))
    assert rel(found[0], found[1]) > 1e-3 and rel(found[1], found[2]) > 1e-3


def test_an_empty_slot_is_the_base_exactly():
    host, _ = bank()
    assert torch.equal(hidden(host, tiny.tokens()), hidden(tiny.model("bert"), tiny.tokens()))


def test_requests_that_cannot_be_met():
    host, made = bank("llama")
    inputs = tiny.tokens()

    def refusal(decision: Decision, **more) -> str:
        with pytest.raises(LabError) as error, made.routed(decision):
            host(**inputs, **more)
        return str(error.value)

    per_token = LayerDecision(lambda layer, x: torch.ones(4, 6, 1, 3))
    assert refusal(per_token) == "experts of kind 'prompt' are chosen per example, not per token: use another router"
    cached = {"past_key_values": host(**inputs).past_key_values}
    assert refusal(only(0), **cached) == "experts of kind 'prompt' stand before the whole text: generate without a cache"
    assert refusal(Decision(torch.ones(3, 1, 1, 3))) == "the routing decision is for 3 rows, layer embed_tokens was given 4"
    with pytest.raises(LabError) as error:
        toy.session("progprompt", "backbone.max_length=500")
    assert_says(error, "500 tokens", "backbone.max_length", "20 positions", "2 prompt(s)", "512 positions", "shorten")
    toy.session("progprompt", "backbone.max_length=492")
    toy.session("progprompt", "backbone.max_length=500", "composition=merge")  # summed, they take the place of one


@pytest.mark.parametrize("recipe", ["progprompt", "l2p"])
def test_prompts_longer_than_the_backbone_are_refused_before_anything_is_written(recipe, tmp_path):
    options = ["--backbone", "tiny", "-o", "stream.max_train=32", "-o", "experts.length=300", "--runs", tmp_path / "runs"]
    result = CliRunner().invoke(main.app, list(map(str, ["run", recipe, *options])))
    assert result.exit_code == 2 and result.stdout == ""
    assert "shorten the prompts" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# Progressive Prompts ----------------------------------------------------------------------------------------------------------


def test_progressive_weights_and_their_privilege():
    router = routers.get("progressive")(routers.options({"name": "progressive", "heads": 2}), [], 4)
    router.grow(3)
    decision = router(Request(torch.ones(2, 5), task=torch.tensor([0, 1])))
    assert decision.weights.tolist() == [[[[1, 0, 0]] * 2], [[[1, 1, 0]] * 2]]
    with pytest.raises(LabError, match="needs the task identity"):
        router(Request(torch.ones(2, 5)))


def test_progprompt_trains_the_new_prompt_alone_and_later_tasks_change_no_answer():
    made = toy.session("progprompt", of=toy.tasks("sea", "city", "farm"))
    answers = {}
    for event in made.train():
        t = getattr(event, "task", None)
        if type(event).__name__ == "Step" and event.step == event.steps:
            grads = [next(iter(made.learner.bank.expert(k).values())).grad for k in range(t + 1)]
            assert all(g is None for g in grads[:-1]) and grads[-1].any()
        if type(event).__name__ == "Evaluated" and event.after >= 0:
            answers.setdefault(t, []).append(event.predictions.probability.tolist())
    assert [len(found) for found in answers.values()] == [3, 2, 1]
    for found in answers.values():
        assert all(again == pytest.approx(found[0], abs=1e-5) for again in found)
    assert made.uses() == {"task_id": True, "stored_examples": 0, "generated_examples": 0}
    assert made.scores.oracle is None


# L2P --------------------------------------------------------------------------------------------------------------------------


def test_l2p_chooses_the_nearest_keys_and_pulls_them():
    options = routers.options({"name": "l2p", "top": 2, "pull": 0.25})
    router = routers.get("l2p")(options, [], 2)
    router.grow(3)
    router.key.data = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-3.0, 0.0]])
    query = torch.tensor([[1.0, 0.0], [-3.0, 4.0]])  # cosines: 1, 0, -1 and -0.6, 0.8, 0.6
    decision = router(Request(torch.ones(2, 5), query=query))
    assert decision.weights[:, 0, 0].tolist() == [[1, 1, 0], [0, 1, 1]]
    loss = decision.losses["pull"]
    assert loss.item() == pytest.approx(0.25 * ((0 + 1) + (0.2 + 0.4)) / 2)
    loss.backward()
    along = 0.25 / 2 / 0.5  # d (1 - cos) / d key = -(q - cos k / |k|) / |k|, with key 1 of length 1/2 chosen by both
    expected = [-along * (1.0 - 0.6), -along * (0.0 + 0.8 - 0.8)]
    assert router.key.grad[1].tolist() == pytest.approx(expected)
    assert router.key.grad[0].tolist() == pytest.approx([0, 0], abs=1e-7), "it points along its query already"


def test_l2p_trains_chosen_prompts_and_keys_in_every_task():
    made = toy.session("l2p", "experts.allocation=6", "router.top=2")
    names = [f"pool-{i}" for i in range(6)]
    keys, moved = [], set()
    before = None
    for event in made.train():
        if type(event).__name__ == "TaskStarted":
            assert made.learner.bank.names == names
            keys.append(made.learner.router.key.detach().clone())
            before = [next(iter(made.learner.bank.expert(k).values())).detach().clone() for k in range(6)]
        if type(event).__name__ == "Step":
            assert set(event.terms) == {"task", "pull"}
        if type(event).__name__ == "Learned":
            after = [next(iter(made.learner.bank.expert(k).values())) for k in range(6)]
            moved |= {(event.task, k) for k in range(6) if not torch.equal(before[k], after[k])}
    assert keys[0].abs().max() <= 1 and keys[0].unique().numel() == keys[0].numel(), "drawn, not zero"
    assert not torch.equal(keys[0], keys[1])
    assert {t for t, _ in moved} == {0, 1} and len(moved) >= 4
    other = toy.session("l2p", seed=1)
    other.learner.add_task(0)
    assert not torch.equal(other.learner.router.key[:6], keys[0]), "another seed, other keys"
    batch = made.learner.backbone.collate(made.rows[0, "test"][:5])
    similar = torch.nn.functional.cosine_similarity(
        made.learner.inputs.query(batch)[:, None], made.learner.router.key[None], dim=-1
    )
    chosen = made.learner.decide(batch).weights[:, 0, 0]
    assert torch.equal(chosen.sum(-1), torch.full((5,), 2.0))
    assert (similar.where(chosen == 0, -torch.inf).amax(1) <= similar.where(chosen == 1, torch.inf).amin(1)).all()
    assert made.scores.oracle is None and made.uses()["task_id"] is False


def test_l2p_records_the_routing_of_its_pool(tmp_path):
    run = toy.recorded(toy.session("l2p"), tmp_path)
    routing = run.routing(1)
    assert routing.experts == [f"pool-{i}" for i in range(10)] and routing.layers == ["embeddings.word_embeddings"]
    assert routing.mean(0).sum() == pytest.approx(5)
    assert sorted(path.name for path in (run.dir / "experts").iterdir()) == sorted(routing.experts)
    assert run.result()["routing"]["own_expert_share"] is None
    assert run.result()["why"]["routing.own_expert_share"] == "every task trains all experts"
