"""The built-in text tasks: short English sentences made from hand-written templates.

One YAML file per task holds `about` (one sentence), `labels` (label -> list of templates) and
`slots` (slot -> list of values). A text is made in four steps:

1. The templates of each label are shuffled with a key and cut into train, validation and test
   templates, so no template serves two splits: a learner is tested on sentences it never saw.
2. Each split walks through its templates in turn, so all are used about equally often.
3. Every `{slot}` of a template is replaced by a random value. All labels share the same slots, so
   slot words say nothing about the label. `{city}` written twice repeats its value; `{city2}` is
   another value of `city`. A value may hold slots itself; no value occurs twice in one text that way.
4. Where the file has `openings`, four texts in five begin with one of them, whatever their label: they
   say what kind of text it is (a letter to support, a note for whoever sorts the inbox), not its label, and
   so make near tasks as easy to tell apart as they would be where such texts come from.

Every random choice comes from a `random.Random` with a text key, so the texts are the same on every
machine and in every run. No text occurs twice in a task.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from lab.core.documents import yaml_value

FOLDER = Path(__file__).parent
SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}  # of each label's templates
SIZES = {"train": 600, "validation": 100, "test": 200}  # texts, over all labels
MIN_TEMPLATES = 8  # per label: enough for every split to get at least one
MAX_REDRAWS = 200
OPENED = 0.8  # share of texts that get an opening

SLOT = re.compile(r"\{([a-z_]+)\d?\}")
SENTENCE_START = re.compile(r"(^|[.?!] )[\"'(]?$")

Example = tuple[str, int]


def names(folder: Path = FOLDER) -> list[str]:
    """The tasks of a folder: its YAML files, in alphabetical order."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def load(name: str, sizes: dict[str, int] | None = None, folder: Path = FOLDER) -> dict:
    """The task `name`: its name, about, labels, and per split a list of (text, label index)."""
    spec = read(Path(folder) / f"{name}.yaml")
    sizes = SIZES | (sizes or {})
    task = {"name": name, "about": spec["about"], "labels": list(spec["labels"])}
    seen: set[str] = set()
    for split in SHARES:
        examples: list[Example] = []
        for index, (label, templates) in enumerate(spec["labels"].items()):
            count = _share(sizes[split], index, len(task["labels"]))
            chosen = split_templates(name, label, templates)[split]
            rng = random.Random(f"builtin/{name}/{split}/{label}")
            examples += [(text, index) for text in _texts(chosen, spec, count, rng, seen)]
        random.Random(f"builtin/{name}/{split}/order").shuffle(examples)
        task[split] = examples
    return task


def read(path: Path) -> dict:
    """A task file as a dict, checked; ValueError names the file and what is wrong in it."""
    spec = yaml_value(Path(path).read_bytes(), str(path))
    if not isinstance(spec, dict) or set(spec) - {"openings"} != {"about", "labels", "slots"}:
        raise ValueError(f"{path}: needs the keys about, labels, slots, and may have openings")
    slots, used = spec["slots"], set()
    for label, templates in spec["labels"].items():
        if len(templates) < MIN_TEMPLATES:
            raise ValueError(f"{path}: label {label!r} has {len(templates)} templates, needs {MIN_TEMPLATES}")
        _check_texts(f"{path}: label {label!r}", templates, slots, used)
        if fixed := [text for text in templates if not _slots_in(text)]:
            raise ValueError(f"{path}: label {label!r}: no slot in {fixed[0]!r}")
    for slot, values in slots.items():
        _check_texts(f"{path}: slot {slot!r}", values, slots, used)
        if slot in _reachable(slot, slots):
            raise ValueError(f"{path}: slot {slot!r} contains itself")
    if unused := sorted(set(slots) - used):
        raise ValueError(f"{path}: unused slots {unused}")
    return spec


def split_templates(task: str, label: str, templates: list[str]) -> dict[str, list[str]]:
    """The templates of one label, cut by a keyed shuffle into disjoint parts."""
    order = list(templates)
    random.Random(f"builtin/{task}/templates/{label}").shuffle(order)
    first = round(len(order) * SHARES["train"])
    second = first + max(1, round(len(order) * SHARES["validation"]))
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def fill(template: str, slots: dict[str, list[str]], rng: random.Random) -> str:
    """The template with every slot replaced by a drawn value, sentence starts in capitals."""
    used: set[str] = set()

    def expand(text: str) -> str:
        bound: dict[str, str] = {}

        def value(match: re.Match) -> str:
            key = match.group(0)
            if key not in bound:
                choice = rng.choice([v for v in slots[match.group(1)] if v not in used])
                used.add(choice)
                bound[key] = expand(choice)
            starts = SENTENCE_START.search(text[: match.start()]) and text is template
            return _capital(bound[key]) if starts else bound[key]

        return SLOT.sub(value, text)

    return _capital(expand(template))


def _texts(templates: list[str], spec: dict, count: int, rng: random.Random, seen: set[str]) -> list[str]:
    """`count` new texts, taking the templates in turn; `seen` gains them."""
    texts, openings = [], spec.get("openings")

    def draw(template: str) -> str:
        text = fill(template, spec["slots"], rng)
        return f"{rng.choice(openings)} {text}" if openings and rng.random() < OPENED else text

    for number in range(count):
        template = templates[number % len(templates)]
        draws = (draw(template) for _ in range(MAX_REDRAWS))
        text = next((draw for draw in draws if draw.lower() not in seen), None)
        if text is None:
            raise ValueError(f"no new text after {MAX_REDRAWS} draws from template {template!r}")
        seen.add(text.lower())
        texts.append(text)
    return texts


def _share(total: int, index: int, parts: int) -> int:
    """The index-th of `parts` nearly equal whole numbers that add up to `total`."""
    return total // parts + (index < total % parts)


def _capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return re.sub(r"[^\W\d_]|\d", lambda match: match.group().upper(), text, count=1)


def _slots_in(text: str) -> list[str]:
    return [match.group(1) for match in SLOT.finditer(text)]


def _reachable(slot: str, slots: dict[str, list[str]]) -> set[str]:
    """The slots that the values of `slot` use, directly or through other slots."""
    reached: set[str] = set()
    todo = [slot]
    while todo:
        inner = {name for text in slots[todo.pop()] for name in _slots_in(text)}
        todo += inner - reached
        reached |= inner
    return reached


def _check_texts(where: str, texts: list[str], slots: dict[str, list[str]], used: set[str]) -> None:
    """Refuse texts that are not text, come twice or name an unknown slot; `used` gains their slots."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {text!r} is not text (put it in quotes)")
        if texts.count(text) > 1:
            raise ValueError(f"{where}: {text!r} occurs twice")
        if unknown := sorted(set(_slots_in(text)) - set(slots)):
            raise ValueError(f"{where}: unknown slots {unknown} in {text!r}")
        if "{" in SLOT.sub("", text) or "}" in SLOT.sub("", text):
            raise ValueError(f"{where}: a malformed slot in {text!r}")
        used.update(_slots_in(text))
