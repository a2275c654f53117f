"""Model cards: what a saved model is, in words, with the metadata that the hub reads at the head of README.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.adapters import hub
from lab.inference.origin import Origin
from lab.models.learner import Learner, needs_task

LIBRARY = "adapter-routing-lab"


def of_model(learner: Learner, origin: Origin) -> str:
    """The card of a routed model."""
    config, run = origin.config, origin.run
    kind = learner.bank.kind.options.name
    parts = [
        f"# {run.get('recipe')} on {', '.join(origin.tasks[: origin.met])}",
        f"{len(learner.bank)} expert(s) of kind {kind} and a router in the frozen backbone {_backbone(learner)}, "
        f"trained by recipe {run.get('recipe')} of the adapter-routing lab.",
        "## Use",
        '```python\nimport lab\n\nmodel = lab.load("THIS_FOLDER")\nmodel'
        + ('.generate(["a text"])' if not learner.head.space.names else f'.predict(["a text"]{_told(origin, learner)})')
        + "\n```",
        "## Data",
        f"Stream `{config['stream']['name']}`, scenario {config['scenario']}, tasks in the order in which they were learned:",
        table(("task", "labels"), [(name, ", ".join(labels) or "free text") for name, labels in _learned(origin)]),
        "## Results",
        matrix(origin),
        "## Recipe",
        "\n".join(f"- {line}" for line in _recipe(config)),
        *_end(learner, origin),
    ]
    tags = ["adapter-routing", "continual-learning", kind, config["router"]["name"]]
    return front(learner, origin, LIBRARY, tags) + "\n\n".join(parts) + "\n"


def of_expert(learner: Learner, origin: Origin, name: str, use: str, remarks: Sequence[str]) -> str:
    """The card of a single expert; `use`: Python that loads it, `remarks`: what must be known of its head."""
    parts = [
        f"# {name}",
        f"Expert `{name}` of run `{origin.run.get('run')}`, trained by recipe {origin.run.get('recipe')} of the "
        f"adapter-routing lab, for the frozen backbone {_backbone(learner)}.",
        "## Use",
        f"```python\n{use}\n```",
        "\n".join(f"- {remark}" for remark in remarks),
        "## Data",
        f"Stream `{origin.config['stream']['name']}`, tasks {', '.join(origin.tasks[: origin.met])}.",
        *_end(learner, origin),
    ]
    return front(learner, origin, "peft", ["lora", "adapter-routing"]) + "\n\n".join(filter(None, parts)) + "\n"


def of_merged(learner: Learner, origin: Origin, sentence: str) -> str:
    """The card of a backbone that experts were merged into."""
    parts = [f"# {origin.run.get('recipe')}, merged into its backbone", sentence, *_end(learner, origin)]
    return front(learner, origin, "transformers", ["adapter-routing", "merge"]) + "\n\n".join(parts) + "\n"


def front(learner: Learner, origin: Origin, library: str, tags: Sequence[str]) -> str:
    """The metadata, between lines of dashes."""
    from huggingface_hub import ModelCardData

    data = str(origin.config["stream"]["name"])
    data = data.removeprefix("hf:").partition(":")[0].partition("@")[0] if data.startswith("hf:") else ""
    task = "text-generation" if not learner.head.space.names else "text-classification"
    values = ModelCardData(
        base_model=learner.backbone.hub_id,
        library_name=library,
        tags=[*dict.fromkeys(tags)],
        datasets=[data] if hub.ID.fullmatch(data) else None,
        pipeline_tag=task,
    )
    return f"---\n{values.to_yaml()}\n---\n\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(value).replace('|', '/') for value in line)} |" for line in lines)


def matrix(origin: Origin) -> str:
    """The scores after each task, and their average."""
    run, tasks = origin.run, origin.tasks[: origin.met]
    rows = [
        (tasks[t], *("" if score is None else f"{score:.3f}" for score in scores[: len(tasks)]))
        for t, scores in enumerate((run.get("matrix") or [])[: origin.after + 1])
    ]
    average = run.get("average_accuracy")
    whole = f"\n\nAverage accuracy after the last task of the run: {average:.3f}." if isinstance(average, float) else ""
    return f"Scores on test examples, after learning (rows) on (columns).\n\n{table(('after', *tasks), rows)}{whole}"


def _learned(origin: Origin) -> list[tuple[str, list[str]]]:
    return [*zip(origin.tasks, origin.labels, strict=True)][: origin.met]


def _told(origin: Origin, learner: Learner) -> str:
    return f", task={origin.tasks[0]!r}" if needs_task(learner) else ""


def _backbone(learner: Learner) -> str:
    backbone = learner.backbone
    revision = f" at revision {backbone.commit}" if backbone.commit else ""
    return f"`{backbone.hub_id or backbone.config.name}`{revision} (SHA-256 of what is computed with: `{backbone.identity}`)"


def _recipe(config: Mapping[str, Any]) -> list[str]:
    """The sections of a configuration that make the model, a line each."""
    parts = ("experts", "router", "consolidation", "composition", "methods", "train", "router_training", "memory", "backbone")

    def text(value: Any) -> str:
        kept = {k: v for k, v in value.items() if v not in (None, {}, [])} if isinstance(value, Mapping) else value
        return ", ".join(f"{k} {v}" for k, v in kept.items()) if isinstance(kept, Mapping) else str(kept)

    return [f"{name}: {text(config[name])}" for name in (*parts, "seed") if config.get(name) not in (None, {}, [])]


def _end(learner: Learner, origin: Origin) -> list[str]:
    """Limits, versions and licences."""
    used = [name for name in ("lab", "python", "torch", "transformers", "peft") if origin.run.get("versions", {}).get(name)]
    uses = origin.run.get("uses") or {}
    given = "is given the task of every text" if needs_task(learner) else "is not told the task of a text"
    stored = f"; {uses['stored_examples']} examples of old tasks were stored in training" if uses.get("stored_examples") else ""
    return [
        "## Limits",
        f"- Texts are cut to {learner.backbone.max_length} tokens.\n- The model {given}{stored}.\n"
        "- It knows the tasks and labels above only: a text of none of them gets one of these answers all the same.\n"
        "- Scores are those of one run, on its own test examples.",
        "## Versions",
        ", ".join(f"{name} {origin.run['versions'][name]}" for name in used) or "not recorded",
        "## Licence",
        "- Backbone: its own, see its page; it is no part of this folder.\n- Data: those of the stream, see their sources; "
        "no text is part of this folder.\n- Experts, router and classifier: choose one before you publish them.",
    ]
