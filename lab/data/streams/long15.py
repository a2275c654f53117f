"""The 15-task "long sequence" of Progressive Prompts: MTL5, six GLUE and SuperGLUE pair tasks, four more, and IMDB.

| here     | first task | O-LoRA and followers | SAPT    | GainLoRA |
| long15-4 | mnli       | order 4              | order 5 | order 4  |
| long15-5 | multirc    | order 5              | -       | -        |
| long15-6 | yelp       | order 6              | order 4 | order 3  |

Progressive Prompts calls the same lists 8 to 10. The papers train on 1,000 examples per label (`stream.max_per_label`). GLUE and
SuperGLUE hide the labels of their test sets, so their validation sets are the test sets, here as in the papers. Validation is cut
off train (in the released files of O-LoRA and SAPT, dev and test are the same bytes); that of multirc and boolq shares paragraphs
with train.
"""

from lab.data.hub_stream import HubStream, HubTask
from lab.data.streams._zhang import STANDARD_ORDERS, ZHANG, ZHANG_ALIASES


def glue(config: str, text: str, pair: str | None, labels: tuple[str, ...], test: str = "validation") -> HubTask:
    """A task of GLUE; its validation set is the test set."""
    revision = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    return HubTask("nyu-mll/glue", text, pair, labels=labels, config=config, revision=revision, test=test)


def super_glue(config: str, text: str, pair: str | None, labels: tuple[str, ...]) -> HubTask:
    """A task of SuperGLUE; its validation set is the test set."""
    revision = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
    return HubTask("aps/super_glue", text, pair, labels=labels, config=config, revision=revision, test="validation")


TRUTH = ("False", "True")
COPA = 'Which sentence is the {question} of "{premise}"? Choose one between A and B.\nA: {choice1}\nB: {choice2}'


class Long15(HubStream):
    """Fifteen English classification tasks: topics, stars, entailment, paraphrase, word sense, reading."""

    name = "long15"
    tasks = {
        **ZHANG,
        "mnli": glue("mnli", "{premise}", "{hypothesis}", ("entailment", "neutral", "contradiction"), "validation_matched"),
        "qqp": glue("qqp", "{question1}", "{question2}", TRUTH),
        "rte": glue("rte", "{sentence1}", "{sentence2}", ("entailment", "contradiction")),
        "sst2": glue("sst2", "{sentence}", None, ("Bad", "Good")),
        "boolq": super_glue("boolq", "{question}", "{passage}", TRUTH),
        "cb": super_glue("cb", "{premise}", "{hypothesis}", ("entailment", "contradiction", "neutral")),
        "copa": super_glue("copa", COPA, None, ("A", "B")),
        "multirc": super_glue("multirc", "question: {question}\ncandidate answer: {answer}", "{paragraph}", TRUTH),
        "wic": super_glue("wic", "word: {word}\n{sentence1}", "{sentence2}", TRUTH),
        "imdb": HubTask(
            repo="stanfordnlp/imdb",
            config="plain_text",
            revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
            text="{text}",
            labels=("Bad", "Good"),
        ),
    }
    aliases = {**ZHANG_ALIASES, "boolqa": "boolq", "sst-2": "sst2"}
    orders = {
        "long15-4": (
            "mnli",
            "cb",
            "wic",
            "copa",
            "qqp",
            "boolq",
            "rte",
            "imdb",
            "yelp",
            "amazon",
            "sst2",
            "dbpedia",
            "agnews",
            "multirc",
            "yahoo",
        ),
        "long15-5": (
            "multirc",
            "boolq",
            "wic",
            "mnli",
            "cb",
            "copa",
            "qqp",
            "rte",
            "imdb",
            "sst2",
            "dbpedia",
            "agnews",
            "yelp",
            "amazon",
            "yahoo",
        ),
        "long15-6": (
            "yelp",
            "amazon",
            "mnli",
            "cb",
            "copa",
            "qqp",
            "rte",
            "imdb",
            "sst2",
            "dbpedia",
            "agnews",
            "yahoo",
            "multirc",
            "boolq",
            "wic",
        ),
        **STANDARD_ORDERS,
    }
