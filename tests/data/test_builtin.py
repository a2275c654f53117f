"""The built-in texts: as many and as varied as promised, and harder for a bag of words than for a language model."""

import itertools
import re

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lab.data.stream import SPLITS, check
from lab.data.streams.builtin import Builtin, grammar

STREAM = Builtin()
TASKS = STREAM.names()
NEAR = [("product_review", "review_aspect"), ("support_intent", "support_urgency")]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """5-word shingles of the lower-cased words; a shorter text is its own shingle."""
    words = re.findall(r"[\w']+", text.lower())
    return frozenset(tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4)))


def test_tasks_and_sizes():
    assert len(TASKS) >= 6
    for name in TASKS:
        task = check(STREAM.load(name))
        assert (len(task.train), len(task.validation), len(task.test)) >= (600, 100, 200)
        for split in SPLITS:
            counts = [sum(example.label == label for example in task.split(split)) for label in range(len(task.labels))]
            assert max(counts) - min(counts) <= 1, f"{name} {split} is not balanced: {counts}"


@pytest.mark.parametrize("name", TASKS)
def test_written_by_hand_and_widened(name: str):
    spec = grammar.read(grammar.FOLDER / f"{name}.yaml")
    for label, templates in spec["labels"].items():
        assert len(templates) >= 40, f"{name}/{label} has {len(templates)} sentences"
        assert len(set(templates)) == len(templates)
    assert sum(len(values) for values in spec["slots"].values()) >= 300


@pytest.mark.parametrize("name", TASKS)
def test_no_pair_across_splits_is_nearly_the_same(name: str):
    task = STREAM.load(name)
    sets = {split: [shingles(example.text) for example in task.split(split)] for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        index: dict[tuple[str, ...], list[int]] = {}
        for row, found in enumerate(sets[first]):
            for shingle in found:
                index.setdefault(shingle, []).append(row)
        for found in sets[second]:
            shared: dict[int, int] = {}
            for shingle in found:
                for row in index.get(shingle, ()):
                    shared[row] = shared.get(row, 0) + 1
            for row, count in shared.items():
                assert count / min(len(found), len(sets[first][row])) < 0.6


def test_the_same_texts_every_time():
    again = grammar.load("question_type")
    assert again == grammar.load("question_type")
    assert STREAM.load("question_type").digest() == Builtin().load("question_type").digest()


@pytest.mark.parametrize(("first", "second"), NEAR)
def test_near_domain_tasks_share_their_vocabulary(first: str, second: str):
    def words(name: str) -> set[str]:
        return {word for example in STREAM.load(name).train for word in re.findall(r"[a-z]+", example.text.lower())}

    near = len(words(first) & words(second)) / len(words(first) | words(second))
    far = len(words(first) & words("question_type")) / len(words(first) | words("question_type"))
    assert near > far + 0.1


def bag_of_words(name: str) -> float:
    """Test accuracy of a bag-of-words classifier."""
    task = STREAM.load(name)
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(features.fit_transform([e.text for e in task.train]), [e.label for e in task.train])
    return model.score(features.transform([e.text for e in task.test]), [e.label for e in task.test])


@pytest.mark.slow
def test_a_bag_of_words_stays_below_a_lora():
    """At least five points on average over the tasks, each task alone, one seed."""
    import lab

    bags, loras = [], []
    for name in TASKS:
        events = lab.train("sequential", stream={"name": "builtin", "tasks": [name]}, router_training={"steps": 0})
        loras += [event.score for event in events if type(event).__name__ == "Evaluated" and event.after == 0]
        bags.append(bag_of_words(name))
    print({name: (round(bag, 3), round(lora, 3)) for name, bag, lora in zip(TASKS, bags, loras, strict=True)})
    assert sum(loras) / len(loras) >= sum(bags) / len(bags) + 0.05
