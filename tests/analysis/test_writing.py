"""Models that write, asked again: against plain transformers and peft, against what the run wrote, and token by token."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import architectures, generation, toy
from support.tiny import rel
from typer.testing import CliRunner

from lab.analysis.loss_decomposition import decompose
from lab.analysis.pruning import pruned
from lab.cli import main
from lab.core.errors import LabError
from lab.data.stream import Task
from lab.inference.loading import load
from lab.inference.override import Override
from lab.inference.routed_model import END
from lab.routers.base import LayerDecision
from lab.run_folder.prediction import kept
from lab.run_folder.writer import update_info

NAMES = ("llama", "gpt2", "t5", "bart")


def of_different_lengths(task: Task) -> Task:
    """Its test examples with right answers of one to three characters, so that batches of them are padded."""
    return replace(task, test=[e._replace(targets=(e.targets[0][: 1 + i % 3],)) for i, e in enumerate(task.test)])


TASKS = {task.name: of_different_lengths(task) for task in generation.tasks(("a", "b"))}
FAST = ("router.query=backbone", "train.lr=0.02", "train.epochs=2", "decoding.beams=1")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Finished runs of models that write, by architecture and recipe, with the folder of the checkpoint."""
    root, made = tmp_path_factory.mktemp("writing"), {}

    def of(name: str, recipe: str = "l2r", *options: str, tasks: dict[str, Task] = TASKS):
        key = (name, recipe, options)
        if key not in made:
            folder = root / name
            if not folder.is_dir():
                architectures.save(name, folder)
            options = options or FAST[0 if recipe == "l2r" else 1 :]
            session = generation.session(folder, recipe, *options, of=[*tasks.values()])
            made[key] = toy.recorded(session, root / "runs", f"r{len(made)}")
        return made[key]

    return of


@pytest.fixture
def data(monkeypatch):
    """The tasks are of no stream of the registry: what is opened again gets them from here."""
    for module in ("training.runner", "inference.loading"):
        monkeypatch.setattr(f"lab.{module}.tasks_of", lambda stream, seed, **_: [TASKS[task] for task in stream.tasks])


def peft_of(run, expert):
    """The checkpoint of the run in transformers, with an expert's folder read by peft, and its tokenizer."""
    import transformers
    from peft import PeftModel

    folder = run.config["backbone"]["name"]
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = PeftModel.from_pretrained(kind.from_pretrained(folder), expert).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def logits(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(S, V) at the tokens of the answer, by one plain pass over one row."""
    config = model.base_model.model.config
    with torch.no_grad():
        if config.is_encoder_decoder:
            before = torch.tensor([[config.decoder_start_token_id, *answer[:-1]]])
            return model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits[0]
        return model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]


def ids(tokenizer, answer) -> list[int]:
    names = [{END: tokenizer.eos_token, "␣": " "}.get(token.text, token.text) for token in answer.said]
    return tokenizer.convert_tokens_to_ids(names)


@pytest.mark.parametrize("name", NAMES)
def test_token_probabilities_are_those_of_peft_with_one_expert(name, written):
    run, text = written(name), TASKS["b"].test[0].text
    model, answers = load(run), []
    for k, task in enumerate(run.tasks):
        answer = model.answer(text, Override(expert=k))
        peft, tokenizer = peft_of(run, run.dir / "experts" / task)
        said = ids(tokenizer, answer)
        expected = logits(peft, tokenizer(text)["input_ids"], said).softmax(-1)
        chances = torch.tensor([token.probability for token in answer.said])
        assert rel(chances, expected.gather(-1, torch.tensor(said)[:, None]).flatten()) < 1e-5
        assert answer.probabilities == pytest.approx([chances.prod().item()], rel=1e-5) and answer.writes
        assert answer.prediction == tokenizer.decode(said, skip_special_tokens=True)
        for token, row in zip(answer.said, expected, strict=True):
            assert [p for _, p in token.likeliest] == pytest.approx(row.topk(4).values.tolist(), rel=1e-4)
        assert np.array_equal(answer.by_layer(), np.eye(2)[[k] * len(answer.layers)]) and not answer.decides_per_token
        assert answer.at(0) is answer and answer.by_said_token().columns.tolist() == ["probability"]
        answers.append(answer)
    assert not np.array_equal(answers[0].probabilities, answers[1].probabilities)


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_scores_are_those_that_the_run_recorded(name, written, data):
    run = written(name)
    model, stored = load(run), run.predictions().set_index(["task", "row"])
    assert run.info["longest_answer"] == model.learner.head.limit > 1
    for t, task in enumerate(TASKS.values()):
        for row, example in enumerate(task.test):
            answer, then = model.answer(example.text, right=example.targets), stored.loc[task.name, row]
            assert answer.prediction == then["prediction"] and answer.label == then["label"]
            assert answer.scores == {"exact_match": then["correct"], "rouge_l": then["rouge_l"]}
            recorded = kept(run, None, t)[row]
            assert (recorded.prediction, recorded.scores, recorded.writes) == (answer.prediction, answer.scores, True)
            np.testing.assert_allclose(recorded.weights, answer.weights, atol=2e-5)
    assert not model.answer(example.text).scores
    info = dict(run.info)
    update_info(run, longest_answer=1)
    short = load(run).answer(example.text)
    assert len(short.said) == 1 and short.ended == (short.said[0].text == END)
    (run.dir / "run.json").write_text(json.dumps({key: value for key, value in info.items() if key != "longest_answer"}))
    assert load(run).learner.head.limit == info["longest_answer"], "a run of an earlier version is asked by its data"
    update_info(run, **info)


def test_a_router_that_decides_per_token_is_shown_at_every_token_it_gave(written):
    """The weights are those of the passes of decoding itself, seen from inside."""
    run = written("llama", "moduleformer")
    model, text, seen = load(run), TASKS["a"].test[1].text, []
    learner = model.learner
    answer = model.answer(text)
    batch = learner.backbone.collate(learner.backbone.encode([TASKS["a"].test[1]], 0, "train"))
    own = learner.decide(batch)

    def decide(layer: int, x: torch.Tensor) -> torch.Tensor:
        weights = own.decide(layer, x)["weights"]
        seen.append((layer, weights[0, -1].detach().numpy()))
        return weights

    learner.head.answers(batch, LayerDecision(decide, batch.mask), 2)
    layers = len(answer.layers)
    passes = [np.stack([w for _, w in seen[i : i + layers]]) for i in range(0, len(seen), layers)][1:]  # the first reads the text
    assert [layer for layer, _ in seen[:layers]] == [*range(layers)] and answer.decides_per_token
    for token, expected in zip(answer.said, passes, strict=True):
        np.testing.assert_allclose(token.weights, expected, atol=1e-5)
    assert len({token.weights.tobytes() for token in answer.said}) == len(answer.said) > 1
    table = answer.by_said_token()
    assert table.columns.tolist() == ["probability", "a", "b"]
    np.testing.assert_allclose(table["b"], [token.weights[..., 1].mean() for token in answer.said], rtol=1e-6)
    np.testing.assert_array_equal(answer.at(1).by_layer(0), answer.said[1].weights[:, 0])
    assert answer.token_weights.shape[1] == len(answer.tokens), "the weights of the text are beside those of the answer"
    forced = model.answer(text, Override(expert=1))
    assert all((token.weights == [0, 1]).all() for token in forced.said)
    assert model.answer(text).by_said_token().equals(table), "a change leaves the model as it was"


def test_taking_out_an_expert_without_weight_changes_nothing(written):
    """Told the task, all weight is on its expert: without the other one every bit of the answer stays."""
    model = load(written("gpt2", "oracle"))
    text, own = TASKS["b"].test[0].text, 1
    whole, without = (model.answer(text, change, task=own) for change in (None, Override(pruned=(0,))))
    assert whole.by_said_token().equals(without.by_said_token()) and whole.prediction == without.prediction
    assert not model.answer(text, Override(pruned=(1,)), task=own).by_said_token().equals(whole.by_said_token())


def test_pruning_writes_every_answer_again(written, data):
    run, told = written("llama", "moduleformer"), []
    found = pruned(run, 0.5, lambda *steps: told.append(steps))
    dropped = tuple(k for k, row in enumerate(found["experts"]) if not row["kept"])
    assert dropped and [row["before"] for row in found["tasks"]] == run.matrix[-1].tolist()
    model = load(run)
    for t, row in enumerate(found["tasks"]):
        examples = TASKS[row["task"]].test
        again = [model.answer(example.text, Override(pruned=dropped), right=example.targets).scores for example in examples]
        assert row["after"] == np.mean([scores["exact_match"] for scores in again])
        rouge = row["measures"]["rouge_l"]
        assert rouge == pytest.approx(
            {"before": run.recorded_scores["measures"]["rouge_l"][-1][t], "after": np.mean([s["rouge_l"] for s in again])}
        )
    total = 2 * sum(len(task.test) for task in TASKS.values())
    assert told[0] == ("a", 0, total) and told[-1] == ("b", total, total) and told == sorted(told, key=lambda step: step[1])
    mean = np.mean([row["measures"]["rouge_l"]["after"] for row in found["tasks"]])
    assert found["measures"]["rouge_l"]["after"] == pytest.approx(mean)
    shown = CliRunner().invoke(main.app, ["prune", run.id, "--share", "0.5", "--runs", str(run.dir.parent)])
    assert (
        shown.exit_code == 0 and "rouge_l after" in shown.stdout and f"{total}/{total}" in shown.stderr and "ETA" in shown.stderr
    )


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_loss_per_token_is_transformers_own_and_its_growth_is_the_drift_of_the_expert(name, written, data):
    run = written(name, "sequential")
    losses = decompose(run)["token_loss"]
    (row,) = losses["tasks"]
    for moment, name in (("after_0", "learned"), ("after_1", "last")):
        peft, tokenizer = peft_of(run, next((run.dir / "state" / moment / "experts").iterdir()))
        parts = []
        for example in TASKS["a"].test:
            target = [*tokenizer(example.targets[0], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            found = logits(peft, tokenizer(example.text)["input_ids"], target)
            parts.append(torch.nn.functional.cross_entropy(found, torch.tensor(target), reduction="none"))
        assert row[name] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-5)
    assert row["loss"] == losses["mean"]["loss"] == row["last"] - row["learned"] != 0
    assert row["experts"] == row["loss"] and row["classifier"] == 0 and row["router"] is row["new_classes"] is None


def test_what_was_written_at_earlier_moments_is_written_again_as_long_as_it_was(written, data, monkeypatch):
    """An answer counts as right here if it is longer than one character, which all are."""
    monkeypatch.setattr("lab.models.heads.exact_match", lambda text, right: len(text) > 1)
    run = written("llama", "sequential", *FAST[1:3], "decoding.beams=2")
    assert run.matrix[0][0] > 0 and decompose(run)["tasks"][0]["learned"] == run.matrix[0][0]
    model = load(run, 0)
    for row, then in run.predictions(0).set_index("row").iterrows():
        assert model.answer(TASKS["a"].test[row].text).prediction == then["prediction"]


def test_the_loss_per_token_grows_by_routing_alone_where_experts_are_isolated(written, data):
    run = written("gpt2")
    (row,) = decompose(run)["token_loss"]["tasks"]
    assert row["router"] == pytest.approx(row["loss"]) and row["loss"] != 0 and row["experts"] == row["classifier"] == 0
    shown = CliRunner().invoke(main.app, ["show", run.id, "--decompose", "--runs", str(run.dir.parent)])
    assert shown.exit_code == 0 and "nats per token" in shown.stdout


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_words_of_labels_have_the_probabilities_of_peft(name, written):
    labels = {f"{task}!": toy.task(task, train=16, test=4, labels=("no", "yes")) for task in ("sea", "city")}
    run = written(name, "l2r", *FAST[:3], "answer=words", tasks=labels)
    text, model = labels["city!"].test[0].text, load(run)
    answer = model.answer(text, Override(expert=1))
    peft, tokenizer = peft_of(run, run.dir / "experts" / "city")
    prompt, scores = tokenizer(text)["input_ids"], {}
    for word in ("no", "yes"):
        target = [*tokenizer(word, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        scores[word] = logits(peft, prompt, target).log_softmax(-1).gather(-1, torch.tensor(target)[:, None]).flatten()
    ranked = answer.ranked()
    shares = torch.stack([score.sum() for score in scores.values()]).softmax(0)
    best = answer.prediction.rpartition("/")[2]
    assert ranked.max() == pytest.approx(shares.max().item(), rel=1e-5) and best == ("no", "yes")[int(shares.argmax())]
    assert [token.probability for token in answer.said] == pytest.approx(scores[best].exp().tolist(), rel=1e-5)
    assert "".join(token.text for token in answer.said) == best + END and not answer.writes
    with pytest.raises(LabError, match="chooses a class: right answers are for models that write"):
        model.answer(text, right=["yes"])
