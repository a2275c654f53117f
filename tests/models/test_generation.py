"""Tasks of free text: loss and decoding against transformers and peft, routing by what is asked, scores by hand."""

import os
from pathlib import Path

import pytest
import torch
from support import tiny
from support.generation import ASKED, MODELS, ROWS, asked, host, learner, peft_of, session, tasks, tokenizer
from support.tiny import rel

from lab.core import registry
from lab.core.errors import LabError
from lab.data.batching import UNLABELLED
from lab.data.loading import open_stream
from lab.data.stream import Example, Task, as_text
from lab.models.heads import exact_match, rouge_l
from lab.routers.base import Decision, LayerDecision, one_hot, single_expert
from lab.run_folder.writer import create_run

# -- against transformers and peft -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_transformers_own(name, folders):
    """Of the frozen model, with padding at the other side, and the prompt left out by its labels."""
    made = learner(folders[name])
    batch = asked(made)
    ours = made.head.loss(made.head.logits(batch), batch)
    tokens = tokenizer()
    targets = [[*tokens(answer[0])["input_ids"], 2] for answer in batch.answers]
    prompts = [tokens(text)["input_ids"] for text in ASKED]
    if name == "t5":
        inputs = tokens(ASKED, padding=True, padding_side="right", return_tensors="pt")
        labels = [torch.tensor(target) for target in targets]
    else:
        inputs = {"input_ids": [torch.tensor(p + t) for p, t in zip(prompts, targets, strict=True)]}
        inputs["attention_mask"] = [torch.ones_like(row) for row in inputs["input_ids"]]
        inputs = {key: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for key, rows in inputs.items()}
        labels = [torch.tensor([-100] * len(p) + t) for p, t in zip(prompts, targets, strict=True)]
    labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    with torch.no_grad():
        theirs = host(name)(**inputs, labels=labels).loss
    assert rel(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_routed_loss_and_gradients_are_peft_s_row_by_row(name, folders):
    made = learner(folders[name])
    peft, batch = peft_of(made, name), asked(made)
    if name == "t5":  # whose gradients are further apart in float32 than the bound
        peft, made = peft.double(), made.double()
    for k in range(3):
        made.bank.trainable(k, True)
    with made.bank.routed(Decision(one_hot(ROWS, 3, 1))):
        logits = made.head.logits(batch)
        rows = [batch._replace(label=batch.label[i : i + 1], task=batch.task[i : i + 1]) for i in range(4)]
        losses = [made.head.loss(logits[i : i + 1], row) for i, row in enumerate(rows)]
        sum(losses).backward()
    theirs = []
    for i, k in enumerate(ROWS.tolist()):
        peft.set_adapter(f"e{k}")
        for parameter in peft.parameters():
            parameter.requires_grad_(True)
        prompt, target = batch.ids[i][batch.mask[i] > 0], batch.label[i][batch.label[i] != UNLABELLED]
        if name == "t5":
            theirs.append(peft(input_ids=prompt[None], labels=target[None]).loss)
        else:
            ids, labels = torch.cat([prompt, target]), torch.cat([torch.full_like(prompt, -100), target])
            theirs.append(peft(input_ids=ids[None], labels=labels[None]).loss)
        theirs[-1].backward()
    assert rel(torch.stack(losses), torch.stack(theirs)) < 1e-5
    for k in range(3):
        for layer in made.bank.layers:
            for parameter in ("lora_A", "lora_B"):
                expected = tiny.peft_parameter(peft, layer.name, parameter, f"e{k}").grad
                assert expected.any() and rel(made.bank.expert(k)[f"{layer.name}.{parameter}"].grad, expected) < 1e-5


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_routed_decoding_is_peft_s_row_by_row(name, beams, folders):
    """Four rows with three experts in one padded batch, against one unpadded row after the other."""
    made = learner(folders[name], f"decoding.beams={beams}", "decoding.max_tokens=6")
    peft, batch = peft_of(made, name), asked(made)
    ours = made.head.answers(batch, Decision(one_hot(ROWS, 3, 1)), 3).predicted
    tokens, how = tokenizer(), {"num_beams": beams, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}

    def theirs(row: int, k: int) -> str:
        peft.set_adapter(f"e{k}")
        prompt = batch.ids[row][batch.mask[row] > 0][None]
        with torch.no_grad():
            found = peft.base_model.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **how)
        return tokens.decode(found[0, 0 if name == "t5" else prompt.shape[1] :], skip_special_tokens=True)

    assert list(ours) == [theirs(row, k) for row, k in enumerate(ROWS.tolist())]
    assert list(ours) != [theirs(row, 1) for row in range(4)]  # the experts do write different things


def test_an_exported_expert_writes_the_same_in_peft(folders, tmp_path):
    from peft import PeftModel

    for name, task in (("llama", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")):
        made = learner(folders[name], "decoding.max_tokens=6")
        made.bank.export(1, tmp_path / name, str(folders[name]))
        peft = PeftModel.from_pretrained(host(name), tmp_path / name).eval()
        assert peft.peft_config["default"].task_type == task
        batch = asked(made)
        ours = made.head.answers(batch, single_expert(1, made.backbone.device), 3).predicted
        with torch.no_grad():
            found = peft.generate(
                input_ids=batch.ids, attention_mask=batch.mask, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=2
            )
        start = 0 if name == "t5" else batch.ids.shape[1]
        assert list(ours) == tokenizer().batch_decode(found[:, start:], skip_special_tokens=True)


# -- routing -----------------------------------------------------------------------------------------------------------------


def with_gates(folder, *options: str):
    """A learner whose gates are random and read the text in every layer."""
    made = learner(folder, "router.query=layer", "router.heads=2", *options)
    draw = torch.Generator().manual_seed(6)
    for parameter in made.router.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    return made


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_text_is_routed_by_what_is_asked(name, folders):
    """The weights are the same whatever is the answer, in training and while it is written, alone and beside longer texts."""
    made, weights = with_gates(folders[name], "decoding.max_tokens=5"), []
    for targets in (("w5 w6", "w9", "w10 w11 w4", "w20"), ("w30", "w31 w32 w33 w34", "w35", "w36")):
        batch = asked(made, targets)
        decision = made.decide(batch)
        with torch.no_grad(), made.bank.routed(decision):
            made.head.logits(batch)
        weights.append(decision.recorded())
    decision = made.decide(batch)
    written = made.head.answers(batch, decision, 3).predicted
    weights.append(decision.recorded())
    assert weights[0].shape == (4, len(made.bank.layers), 2, 3) and weights[0].std(0).max() > 0.01
    for found in weights[1:]:
        assert rel(found, weights[0]) < 1e-5
    fixed = Decision(weights[0])
    assert list(written) == list(made.head.answers(batch, fixed, 3).predicted)
    one = made.encode([Example(ASKED[0], 0, targets=("w5",))], 0, "test")
    decision = made.decide(made.backbone.collate(one))
    assert made.head.answers(made.backbone.collate(one), decision, 3).predicted[0] == written[0]
    assert rel(decision.recorded()[0], weights[0][0]) < 1e-5


def test_what_decides_per_token_decides_at_every_new_token(folders):
    made, seen = learner(folders["llama"], "decoding.max_tokens=4"), []

    def decide(layer: int, x: torch.Tensor) -> torch.Tensor:
        seen.append((layer, x.shape[1]))
        return torch.full((*x.shape[:2], 1, 3), 1 / 3)

    batch = asked(made)
    made.head.answers(batch, decision := LayerDecision(decide), 3)
    first = [tokens for layer, tokens in seen if layer == 0]
    assert first == [batch.ids.shape[1]] * 2 + [1] * 3  # once to record the text, then the text and one token after the other
    assert decision.recorded().shape == (4, len(made.bank.layers), 1, 3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_through_activation_checkpointing(reentrant, folders):
    found = []
    for checkpointing in (False, True):
        made = with_gates(folders["llama"])
        model = made.backbone.model
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        model.train()
        for parameter in made.router.parameters():
            parameter.requires_grad_(True)
        made.bank.trainable(1, True)
        passes = []
        model.get_submodule(made.bank.layers[0].name).register_forward_hook(lambda *_, passes=passes: passes.append(1))
        batch = asked(made)
        decision = made.decide(batch, noise=torch.Generator().manual_seed(8))
        with made.bank.routed(decision):
            made.head.loss(made.head.logits(batch), batch).backward()
        assert len(passes) == 1 + checkpointing
        found.append([p.grad for p in (*made.router.parameters(), *made.bank.expert(1).values()) if p.grad is not None])
    assert found[0] and all(gradient.any() for gradient in found[0])
    for plain, again in zip(*found, strict=True):
        assert rel(again, plain) < 1e-6


# -- scores ------------------------------------------------------------------------------------------------------------------


def test_exact_match_by_hand():
    assert exact_match("The cat.", ["the  cat"])
    assert exact_match("b", ["a", "b"]) and not exact_match("ab", ["a", "b"])
    assert not exact_match("!", ["?"]) and exact_match("?", ["?"])
    assert not exact_match("", ["a"])


def test_rouge_l_by_hand():
    right = "the cat sat on the mat"
    assert rouge_l(right, [right]) == 1.0 and rouge_l("dog", [right]) == 0.0 and rouge_l("", [right]) == 0.0
    # longest common subsequence: the cat on mat; precision 4/5, recall 4/6
    assert rouge_l("the cat on a mat", [right]) == pytest.approx(2 * 0.8 * (4 / 6) / (0.8 + 4 / 6))
    assert rouge_l("the cat on a mat", ["no", right]) == rouge_l("the cat on a mat", [right])
    assert rouge_l("cats", ["cat"]) == 1.0  # stems


# -- whole runs --------------------------------------------------------------------------------------------------------------


RECIPES = ["l2r", "l2r-merge", "sequential", "replay", "uniform", "oracle", "inclora", "multitask", "agem"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_learn_to_write(recipe, folders):
    """After training, a text that was trained on is more probable than before; every score is a mean over test rows."""
    made = session(folders["llama"], recipe, "train.lr=0.01", "train.epochs=4", "decoding.max_tokens=2", of=tasks(("a", "b")))
    rows = made.rows[1, "train"]

    def loss() -> float:
        batch = made.learner.backbone.collate(rows)
        decision = made.learner.decide(batch)
        with torch.no_grad(), made.learner.bank.routed(decision):
            return made.learner.head.loss(made.learner.head.logits(batch), batch).item()

    before = loss()
    events = list(made.train())
    assert loss() < before
    assert len(made.scores.matrix) == 2 and made.scores.matrix[0][1] is None
    evaluated = [event for event in events if type(event).__name__ == "Evaluated" and event.after == 1]
    for event in evaluated:
        assert event.score == event.predictions.correct.mean() == made.scores.matrix[1][event.task]
        assert event.scores == {"rouge_l": event.predictions.scores["rouge_l"].mean()}
        assert list(event.predictions.label) == [example.targets[0] for example in made.tasks[event.task].test]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_other_backbones_learn_to_write(name, folders):
    made = session(folders[name], "l2r", "train.lr=0.01", of=tasks(("a", "b")))
    assert made.config.router.query == (
        "backbone" if name == "t5" else "layer"
    )  # the decoder reads the answer: the encoder decides
    list(made.train())
    assert made.learner.head.longest == 2 and len(made.scores.matrix) == 2
    assert all(len(layer) == 12 for layer in made.learner.inputs.layer_queries(made.learner.router, made.rows[0, "train"]))


def test_a_run_folder_holds_the_texts_and_goes_on_after_a_kill(folders, tmp_path):
    from lab.run_folder.run import Run
    from lab.training.recorder import record

    def recorded(id: str) -> Run:
        return create_run(session(folders["llama"], of=tasks(("a", "b"))).config.to_dict(), tmp_path, id)

    run = recorded("whole")
    list(record(run, session(folders["llama"], of=tasks(("a", "b")))))
    table = run.predictions()
    assert set(table.columns) == {"task", "row", "label", "prediction", "correct", "probability", "rouge_l"}
    assert table["label"].tolist()[:4] == [example.targets[0] for example in tasks(("a",))[0].test]
    assert table["probability"].isna().all() and run.result()["average_accuracy"] == table["correct"].mean()
    broken = recorded("broken")
    for event in record(broken, session(folders["llama"], "l2r", "checkpoint.every=2", of=tasks(("a", "b")))):
        if type(event).__name__ == "Step" and event.task == 1 and event.phase == "memory" and event.step == 4:
            break
    list(record(broken, session(folders["llama"], "l2r", "checkpoint.every=2", of=tasks(("a", "b")))))
    assert broken.recorded_scores["matrix"] == run.recorded_scores["matrix"]
    for file in ("predictions/after_1.parquet", "routing/after_1.safetensors", "router.safetensors"):
        assert (broken.dir / file).read_bytes() == (run.dir / file).read_bytes()


def test_labels_as_text(folders):
    labelled = Task("t", ("w4", "w5"), [Example("w6", 0), Example("w7", 1)], [Example("w8", 1)], [Example("w9", 0, "w10")])
    made = as_text(labelled)
    assert made.generates and made.train == [Example("w6", 0, None, ("w4",)), Example("w7", 0, None, ("w5",))]
    assert made.test == [Example("w9", 0, "w10", ("w4",))] and as_text(made) is made
    assert made.digest() != labelled.digest()


# -- what is refused ---------------------------------------------------------------------------------------------------------


def refusal(folder, *options: str, recipe: str = "l2r", of=None) -> str:
    with pytest.raises(LabError) as caught:
        session(folder, recipe, *options, of=of)
    return str(caught.value)


def test_what_cannot_write_or_work_on_texts_is_refused(folders):
    encoder = "cannot write text: it is an encoder; free text and answer=words need a decoder or an encoder-decoder, "
    assert refusal("tiny") == f"backbone 'tiny' {encoder}for example the backbone strings"
    assert refusal("minilm").endswith(f"{encoder}for example the backbone strings")
    labelled = Task("t", ("yes", "no"), [Example("w4", 0), Example("w5", 1)], [Example("w6", 0)], [Example("w7", 1)])
    assert refusal(folders["llama"], of=[*tasks(("a",)), labelled]) == (
        "task 'a' asks for free text and task 't' for labels: "
        "stream.labels_as_text=true writes labels as text, or name tasks of one kind in stream.tasks"
    )
    for recipe in ("arrow", "phatgoose", "mbc", "moduleformer"):
        assert refusal(folders["t5"], recipe=recipe).endswith(
            f"decoder layers of backbone '{folders['t5']}' are given the answer: use another router, or a decoder"
        )
    classes = [name for name in registry.methods.names() if registry.methods.get(name).needs_classes]
    assert {"derpp", "ewc", "lwf"} <= set(classes)
    for name in classes:
        given = [f"methods.{name}={{}}", "memory.per_task=4"]
        assert refusal(folders["llama"], *given, recipe="sequential").startswith(
            f"methods.{name} works on the probabilities of classes, task 'a' asks for free text: use one of "
        )


# -- streams -----------------------------------------------------------------------------------------------------------------

SMALL = [
    "stream.max_train=8",
    "stream.max_validation=2",
    "stream.max_test=4",
    "train.epochs=1",
    "memory.per_task=4",
    "router_training.steps=2",
    "backbone.max_length=48",
    "decoding.max_tokens=4",
]


def test_a_classification_stream_with_labels_as_text(tmp_path):
    import lab

    tasks = "stream.tasks=[product_review, news_topic]"
    run = lab.run("l2r", [*SMALL, tasks, "stream.labels_as_text=true"], backbone="strings", runs=tmp_path, progress=False)
    table = run.predictions()
    assert len(table) == 8 and set(table["label"]) <= {
        *open_stream("builtin").load("product_review").labels,
        *open_stream("builtin").load("news_topic").labels,
    }
    assert [len(row) for row in run.result()["measures"]["rouge_l"]] == [2, 2]


def test_super_natural_instructions(tmp_path):
    """Two of its tasks, end to end, on the texts as they are; several answers may be right."""
    import lab

    folder = Path(os.environ.get("LAB_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "superni15"
    if not folder.is_dir():
        pytest.skip("the stream superni15 is not in LAB_DATA")
    names = ["task1572_samsum_summary", "task181_outcome_extraction"]
    given = [*SMALL, f"stream.tasks=[{', '.join(names)}]"]
    run = lab.run("l2r", given, stream=str(folder), backbone="strings", runs=tmp_path, progress=False)
    assert run.status == "finished" and run.tasks == names and len(run.predictions()) == 8
    assert 0 <= run.recorded_scores["measures"]["rouge_l"][1][0] <= 1
