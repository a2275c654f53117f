"""Labels chosen by the probability of their words: against transformers, among the classes that a classifier has, in runs."""

import random

import pytest
import torch
from support import generation
from support.tiny import rel

import lab
from lab.analysis.taxonomy import place
from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.data.batching import UNLABELLED
from lab.data.stream import Example, Task
from lab.inference.loading import load
from lab.routers.base import Decision, one_hot
from lab.training.stages import ExpertTraining
from lab.training.trainer import Session, prepare

LABELS = {"a": ("w4 w5 w6", "w7"), "b": ("w7", "w8 w9"), "c": ("w40", "w41 w4", "w42")}  # w7 is a label of two tasks
ASKED = ["w14 w15 w16", "w17 w30", "w18 w19 w20 w21 w22", "w23 w24"]  # of different lengths
ROWS = torch.tensor([2, 0, 1, 2])  # the expert of each


def tasks(*names: str, train: int = 40) -> list[Task]:
    """One of two words, at both ends, says the label; every task has a word of its own."""
    made = []
    for number, name in enumerate(names or LABELS):
        draw, rows = random.Random(name), {}
        while len(rows) < train + 12:
            label = len(rows) % 2
            said, words = ("w58", "w59")[label], [f"w{draw.randint(20, 50)}" for _ in range(draw.randint(1, 4))]
            rows[" ".join([said, f"w{10 + number}", *words, said])] = label
        examples = [Example(text, label) for text, label in rows.items()]
        made.append(Task(name, LABELS[name], examples[:train], examples[train : train + 4], examples[train + 4 :]))
    return made


def session(folder, recipe: str = "l2r", *options: str, of=None) -> Session:
    return generation.session(folder, recipe, "answer=words", *options, of=tasks() if of is None else of)


def learner(folder, *options: str):
    return generation.learner(folder, "answer=words", *options, of=tasks())


def asked(made, task: int = 0, labels=(0, 1, 1, 0)):
    return made.backbone.collate(
        made.encode([Example(text, label) for text, label in zip(ASKED, labels, strict=True)], task, "test")
    )


def log_probability(peft, name: str, expert: int, text: str, words: str) -> torch.Tensor:
    """Of the words of a label and the end after a text, one row without padding; an own sum over transformers' logits."""
    tokens = generation.tokenizer()
    prompt, answer = tokens(text)["input_ids"], [*tokens(words)["input_ids"], 2]
    peft.set_adapter(f"e{expert}")
    with torch.no_grad():
        if name == "t5":
            before = torch.tensor([[0, *answer[:-1]]])
            logits = peft(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits[0]
        else:
            logits = peft(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return sum(row.log_softmax(-1)[token] for row, token in zip(logits, answer, strict=True))


# against transformers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_best_label_has_the_most_probable_words(name, folders):
    """Four rows with three experts in one padded batch, against one unpadded row and label after the other in peft."""
    made = learner(folders[name])
    peft, batch = generation.peft_of(made, name), asked(made)
    competing = made.head.space.competing(batch.task, 3, "seen")
    decision = Decision(one_hot(ROWS, 3, 1))
    with torch.no_grad(), made.bank.routed(decision):
        found = made.head.scores(batch, competing)
    labels = [label for own in LABELS.values() for label in own]
    expected = torch.stack(
        [
            torch.stack([log_probability(peft, name, int(k), text, words) for words in labels])
            for text, k in zip(ASKED, ROWS, strict=True)
        ]
    )
    once = [0, 1, 3, 4, 5, 6]  # the words of the third are those of the second
    assert found.shape == (4, 7) and rel(found[:, once], expected[:, once]) < 1e-5 and (found[:, 2] == float("-inf")).all()
    expected[:, 2] = float("-inf")
    with torch.no_grad():
        answers = made.head.answers(batch, decision, 3)
    best = expected.argmax(1)
    assert [labels[c] for c in answers.predicted] == [labels[c] for c in best.tolist()]
    assert torch.allclose(torch.tensor(answers.probability).float(), expected.softmax(-1).amax(1), rtol=1e-4)
    with torch.no_grad(), made.bank.routed(Decision(one_hot(ROWS[1:2], 3, 1))):  # alone, so without padding
        one = made.head.scores(made.backbone.collate(made.encode([Example(ASKED[1], 1)], 0, "test")), competing[:1])
    assert rel(one[:, once], found[1:2, once]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_loss_is_that_of_the_right_label_s_words(name, folders):
    """The mean over all tokens of the batch; a row without a label counts for nothing."""
    made = learner(folders[name])
    peft, batch = generation.peft_of(made, name), asked(made, 2, (1, 2, UNLABELLED, 0))
    with made.bank.routed(Decision(one_hot(ROWS, 3, 1))):
        found = made.head.loss(made.head.logits(batch), batch)
    rows = [(0, "w41 w4"), (1, "w42"), (3, "w40")]
    total = sum(log_probability(peft, name, int(ROWS[i]), ASKED[i], words) for i, words in rows)
    assert rel(found.detach(), -total / (3 + 2 + 2)) < 1e-5


def test_labels_compete_as_those_of_a_classifier_do(folders):
    for scenario, seen, expected in (("class", 2, [0, 1, 3]), ("class", 3, [0, 1, 3, 4, 5, 6]), ("task", 3, [2, 3])):
        made = learner(folders["llama"], f"scenario={scenario}")
        batch, kept = asked(made, 1), made.head.scores
        shown = []

        def watched(batch, competing, shown=shown, kept=kept):
            shown.append(kept(batch, competing))
            return shown[0]

        made.head.scores = watched
        answers = made.head.answers(batch, None, seen)
        assert shown[0].isfinite().any(0).nonzero().flatten().tolist() == [*expected]
        assert set(answers.predicted.tolist()) <= {*expected, 2}  # an answer that is right is called by the row's own label


def test_classes_with_the_same_words_are_one_answer(folders):
    made = learner(folders["llama"])
    for task, own in ((0, 1), (1, 2)):  # w7 is class 1 as a label of task a, and class 2 as one of task b
        batch = asked(made, task, (own % 2,) * 4)
        made.head.scores = lambda batch, competing: torch.tensor([[0.0, 5, 5, 0, 0, 0, 0]] * 3 + [[0.0, 0, 0, 9, 0, 0, 0]])
        answers = made.head.answers(batch, None, 3)
        assert answers.predicted.tolist() == [own, own, own, 3] and answers.correct.tolist() == [True] * 3 + [False]


# runs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), [("llama", "sequential"), ("llama", "arrow"), ("t5", "l2r"), ("llama", "sapt")])
def test_recipes_learn_words_and_have_no_classifier(name, recipe, folders):
    query = ["router.query=backbone"] if recipe == "l2r" else []
    made = session(folders[name], recipe, "train.lr=0.02", "train.epochs=12", "train.batch_size=8", *query, of=tasks("a", "b"))
    list(made.train())
    assert made.scores.matrix[0][0] > 0.8, made.scores.matrix
    assert made.learner.head.parameters_of(range(2)) == {} and all(
        not p.numel() for p in made.learner.head.classifier.parameters()
    )
    assert "classifier" not in place(made.config)["kept per task"]


def test_poly_on_t5_learns_jointly_and_meets_a_new_task_by_the_words_of_its_labels(folders):
    options = [
        "train.lr=0.02",
        "train.epochs=8",
        "train.batch_size=8",
        "experts.allocation=2",
        "protocol.shots=[8]",
        "protocol.held_out=[b]",
        "protocol.adaptation.steps=4",
        "answer=words",
        "experts.skip=0",
        "backbone.dtype=float32",
        "backbone.device=cpu",
        "backbone.threads=1",
    ]
    of = tasks("a", "b")
    made = Session(prepare(configure("poly", options, backbone=str(folders["t5"])), of), of)
    steps = [event for event in made.train() if type(event).__name__ == "Step"]
    assert made.scores.trained["a"] > 0.8 and 0 <= made.scores.held_out["b"]["8"] <= 1, made.scores
    assert [len([step for step in steps if step.task == stage]) for stage in (0, 1)] == [40, 4]
    assert all(made.learner.bank.expert(k) for k in (0, 1)) and made.learner.head.parameters_of(range(2)) == {}


def test_a_run_on_the_built_in_stream_is_recorded_and_can_be_asked(tmp_path):
    small = [
        "stream.tasks=[product_review, news_topic]",
        "stream.max_train=8",
        "stream.max_validation=2",
        "stream.max_test=6",
        "train.epochs=1",
        "memory.per_task=5",
        "router_training.steps=2",
        "backbone.max_length=48",
    ]
    run = lab.run("l2r", [*small, "answer=words"], backbone="strings", runs=tmp_path, progress=False)
    table, model = run.predictions(), load(run)
    assert run.status == "finished" and run.config["answer"] == "words" and len(table) == 12
    for row in table.itertuples():
        answer = model.answer(model_text(run, row), None)
        assert answer.prediction == row.prediction or answer.prediction.split("/")[1] == row.prediction.split("/")[1]
        assert answer.probabilities.max() == pytest.approx(row.probability, rel=1e-4)
    assert set(table["prediction"]) <= {
        f"{task}/{label}" for task, own in zip(run.tasks, run.recorded_scores["labels"], strict=True) for label in own
    }


def test_an_expert_that_has_learned_words_is_kept_for_these_words(folders):
    splits = [tasks("a")[0].split(split) for split in ("train", "validation", "test")]

    def address(answer: str, *labels: str) -> str:
        options = (f"answer={answer}", "router.query=backbone")
        made = session(folders["llama"], "l2r", *options, of=[Task("a", labels, *splits)])
        return ExpertTraining(made, 0).address()

    assert address("words", "w4", "w5") == address("words", "w4", "w5") != address("words", "w5", "w6")
    assert address("classifier", "w4", "w5") == address("classifier", "w5", "w6")


def model_text(run, row) -> str:
    from lab.data.loading import open_stream
    from lab.data.stream import limited

    limits = (run.config["stream"][name] for name in ("max_train", "max_validation", "max_test"))
    return limited(open_stream("builtin").load(row.task), run.config["seed"], *limits).test[row.row].text


# what is refused ------------------------------------------------------------------------------------------------------------


def refusal(folder, *options: str, recipe: str = "l2r", of=None) -> str:
    with pytest.raises(LabError) as caught:
        session(folder, recipe, *options, of=of)
    return str(caught.value)


def test_what_label_words_do_not_go_with(folders):
    assert refusal("tiny") == (
        "backbone 'tiny' cannot write text: it is an encoder; free text and answer=words need a decoder or an encoder-decoder, "
        "for example the backbone strings"
    )
    assert refusal(folders["llama"], "stream.labels_as_text=true") == (
        "stream.labels_as_text writes labels, answer=words chooses among them: drop one of the two"
    )
    assert refusal(folders["llama"], of=generation.tasks(("a",))) == (
        "answer=words chooses among labels, task 'a' asks for free text: use answer=classifier"
    )
    assert refusal(folders["llama"], "methods.lwf={}", recipe="sequential").startswith(
        "methods.lwf works on the probabilities of classes, answer=words has no classifier: use one of "
    )
    unknown = Task("u", ("yes", "no"), *(tasks("a")[0].split(split) for split in ("train", "validation", "test")))
    assert refusal(folders["llama"], of=[unknown]) == (
        f"labels 'yes' and 'no' are the same tokens for backbone '{folders['llama']}': "
        "answer=words cannot tell them apart, use answer=classifier"
    )
