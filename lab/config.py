"""What a run is made of: configuration models, recipes, overrides. Everything is checked before a model is loaded.

Precedence: defaults < recipe file < what fits the stream < `-o key=value`. The command line, the form of the dashboard and the
documentation are generated from the fields below and from the `Options` of the plug-ins.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_serializer

from lab import registry
from lab.errors import LabError, bad_yaml, unknown
from lab.registry import Options

RECIPES = Path(__file__).parent / "recipes"
CUSTOM = "custom"  # the name of no recipe: the defaults alone
BUDGETS = ("per_task", "per_class", "total")  # of the memory; one of them counts
NAMED = ("stream", "backbone", "experts", "router")  # sections that may be given by their name alone


class Section(BaseModel):
    """A group of options; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StreamConfig(Section):
    name: str = Field("builtin", description="a shipped stream, a hub benchmark, or a folder of task folders")
    sources: list[str] = Field([], description="several streams or folders joined into one; `name` is then only a title")
    tasks: list[str] | str | None = Field(None, description="tasks in order, or a published order; null: all, alphabetical")
    labels_as_text: bool = Field(False, description="write the name of the label instead of choosing a class")
    max_train: int | None = Field(None, ge=2, description="training examples per task, label-balanced and seeded; null: all")
    max_validation: int | None = Field(None, ge=2, description="validation examples per task; null: all")
    max_test: int | None = Field(None, ge=2, description="test examples per task; null: all")
    max_per_label: int | None = Field(None, ge=1, description="training examples of each label of a task, seeded; null: all")

    @property
    def limits(self) -> dict[str, int | None]:
        """How much of each task is used, as arguments of sources.load_tasks."""
        return {name: getattr(self, name) for name in ("max_train", "max_validation", "max_test", "max_per_label")}

    @model_serializer(mode="wrap")
    def _serialised(self, plain: Any) -> dict[str, Any]:
        """A stream without a limit per label says nothing of it."""
        return {name: value for name, value in plain(self).items() if name != "max_per_label" or value is not None}


class BackboneConfig(Section):
    name: str = Field("minilm", description="minilm, tiny, strings, a hub id, or a folder with weights and tokenizer")
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto", description="sequence representation from the last hidden states; auto: mean in encoders, last token in decoders"
    )
    max_length: int = Field(128, ge=4, le=8192, description="tokens per text; longer texts are cut")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bfloat16 autocast on CUDA and on CPUs that compute in it"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, le=512, description="CPU threads; 0: all cores, 1 for tiny and strings")


class DecodingConfig(Section):
    max_tokens: int | None = Field(
        None, ge=1, le=8192, description="longest answer that is written; null: as the longest target of the training examples"
    )
    beams: int = Field(1, ge=1, le=64, description="width of the beam search; 1: greedy")


class MemoryConfig(Section):
    per_task: int = Field(0, ge=0, description="random training examples stored per task; 0: none")
    per_class: int = Field(0, ge=0, description="random training examples stored per class, in place of per_task; 0: off")
    total: int = Field(0, ge=0, description="stored examples in all, in place of per_task and per_class; 0: off")
    policy: Literal["reservoir", "balanced"] = Field(
        "reservoir", description="how `total` is shared: all examples seen equally likely to stay, or equally many of each class"
    )


class TrainConfig(Section):
    lr: float = Field(2e-3, gt=0, le=10, description="learning rate of experts and classifier (AdamW)")
    epochs: int = Field(2, ge=1, le=1000, description="passes over the training examples of a task")
    batch_size: int = Field(16, ge=1, le=4096, description="examples of the task in one step")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay")
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps with a rising rate; then it falls linearly to 0")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: not clipped")
    classes: Literal["task", "seen"] = Field(
        "task", description="classes that compete in the training loss: those of the current task, or all seen so far"
    )


class MemoryTrainingConfig(Section):
    steps: int = Field(0, ge=0, le=100_000, description="optimiser steps on the memory before each evaluation (stage B); 0: none")
    lr: float = Field(0.1, gt=0, le=10, description="learning rate of the routers")
    batch_size: int = Field(16, ge=1, le=4096, description="stored examples in one step")
    classifier: Literal["frozen", "tuned"] = Field("tuned", description="whether the classifier is tuned on the memory too")
    classifier_lr: float = Field(1e-3, gt=0, le=10, description="learning rate of the classifier on the memory")
    warm_start: bool = Field(False, description="go on from the previous stage, not anew from the isolated classifier")


class AdaptationConfig(Section):
    start: Literal["trained", "average", "fresh"] = Field(
        "trained",
        description="experts to begin with: as joint training left them; their uniform average as one expert, without a router; "
        "or drawn anew",
    )
    tuned: Literal["all", "router"] = Field(
        "all", description="what is tuned beside the new task's classifier rows: the experts and its routing, or its routing"
    )
    steps: int = Field(100, ge=1, le=100_000, description="optimiser steps on the shots of a held-out task")
    batch_size: int = Field(8, ge=1, le=4096, description="shots in one step")
    lr: float | None = Field(None, gt=0, le=10, description="learning rate of experts and classifier rows; null: train.lr")
    router_lr: float | None = Field(None, gt=0, le=10, description="learning rate of its routing; null: transfer.router_lr")


class TransferConfig(Section):
    """The second protocol: joint training on some tasks (settings of `train`), then few-shot adaptation to each of the others."""

    train_tasks: list[str] | None = Field(None, description="tasks of joint training; null: all that are not held out")
    held_out: list[str] | None = Field(
        None, description="tasks met in adaptation only; null: all that are not trained on, or without these the last third"
    )
    shots: list[Annotated[int, Field(ge=2, le=1_000_000)]] = Field(
        [8, 32], min_length=1, description="training examples of a held-out task, label-balanced and seeded; each number is tried"
    )
    router_lr: float = Field(0.1, gt=0, le=10, description="learning rate of the routing in joint training")
    adaptation: AdaptationConfig = AdaptationConfig()

    @staticmethod
    def third(tasks: int) -> int:
        """How many tasks are held out where nobody says which."""
        return max(1, tasks // 3)

    def sides(self, tasks: Sequence[str]) -> tuple[list[str], list[str]]:
        """Tasks to train on and tasks held out, in the order of `tasks`; LabError for names unknown, repeated or on both."""
        given = {"train_tasks": self.train_tasks, "held_out": self.held_out}
        for side, names in given.items():
            for name in names or ():
                if name not in tasks:
                    raise unknown(f"task in transfer.{side}", name, tasks)
                if (names or []).count(name) > 1:
                    raise LabError(f"transfer.{side} names '{name}' twice: name each task once")
                if all(name in (other or ()) for other in given.values()):
                    raise LabError(f"task '{name}' is in transfer.train_tasks and in transfer.held_out: leave it on one side")
        held = self.held_out
        if held is None and self.train_tasks is None:
            held = tasks[-self.third(len(tasks)) :]
        elif held is None:
            held = [name for name in tasks if name not in self.train_tasks]
        train = [name for name in tasks if (name not in held if self.train_tasks is None else name in self.train_tasks)]
        for side, names in {"train_tasks": train, "held_out": held}.items():
            if not names:
                raise LabError(f"transfer.{side} holds no task: of {len(tasks)} tasks some are trained on and some are held out")
        return train, [name for name in tasks if name in held]


class CheckpointConfig(Section):
    every: int = Field(100, ge=1, description="optimiser steps between saved states, beside one at every task boundary")


def plugin(kind: registry.Registry, section: str) -> Any:
    """Type of a field that holds the options of one plug-in: a name, or a mapping with `name` and options."""
    return Annotated[SerializeAsAny[Options], BeforeValidator(partial(kind.options, section=section))]


def plugins(kind: registry.Registry, section: str) -> Any:
    """Type of a field that holds several plug-ins: a mapping from name to options."""

    def read(given: Any) -> dict[str, Options]:
        if not isinstance(given, dict):
            raise LabError(f"{section} = {given!r}: write a mapping of names to options, for example {{{kind.names()[0]}: {{}}}}")
        found = {}
        for name, value in given.items():
            if not isinstance(value, dict | Options | None):
                raise LabError(f"{section}.{name} = {value!r}: write option: value below it, or {{}} for the defaults")
            value = value if isinstance(value, Options) else (value or {}) | {"name": name}
            found[name] = kind.options(value, f"{section}.{name}")
        return found

    return Annotated[dict[str, SerializeAsAny[Options]], BeforeValidator(read)]


class RunConfig(Section):
    """Everything that decides what a run computes."""

    recipe: str = Field(CUSTOM, description="name of the recipe")
    about: str = Field("", description="what the recipe is, for people")
    scenario: Literal["task", "domain", "class"] = Field(
        "class",
        description="task: identity given at test, prediction among the task's labels; class: no identity, union of all "
        "(task, label) pairs seen; domain: no identity, all tasks share one label list",
    )
    scenarios: list[Literal["task", "domain", "class"]] = Field(
        ["task", "domain", "class"], description="scenarios in which the recipe makes sense; any other is refused"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="every use of chance draws from its own generator keyed by this seed")
    stream: StreamConfig = StreamConfig()
    backbone: BackboneConfig = BackboneConfig()
    experts: plugin(registry.experts, "experts") = Field(
        {"name": "lora"}, validate_default=True, description="kind of expert and its options"
    )
    router: plugin(registry.routers, "router") = Field(
        {"name": "uniform"}, validate_default=True, description="what chooses among the experts"
    )
    composition: Literal["mix", "merge"] = Field(
        "mix", description="mix: weighted sum of expert outputs; merge: weighted sum of expert parameters, then one expert"
    )
    methods: plugins(registry.methods, "methods") = Field({}, description="what acts on training beyond routing: replay, ...")
    memory: MemoryConfig = MemoryConfig()
    answer: Literal["classifier", "words"] = Field(
        "classifier",
        description="how a label is chosen; classifier: by trained rows on the sequence representation; words: the label whose "
        "words the language model finds most probable after the text (decoders and encoder-decoders)",
    )
    decoding: DecodingConfig = DecodingConfig()
    train: TrainConfig = TrainConfig()
    memory_training: MemoryTrainingConfig = MemoryTrainingConfig()
    transfer: TransferConfig | None = Field(
        None, description="joint training and few-shot adaptation in place of training on task after task; null: the stream"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    reuse: bool = Field(True, description="take isolated experts from the store if data and settings are equal")

    @model_serializer(mode="wrap")
    def _serialised(self, plain: Any) -> dict[str, Any]:
        """A run on a stream says nothing of transfer, and one with a classifier nothing of another answer."""
        usual = {"transfer": None, "answer": "classifier"}
        return {name: value for name, value in plain(self).items() if name not in usual or value != usual[name]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in config.yaml."""
        return self.model_dump(mode="json")


# -- recipes ---------------------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipes() -> list[dict[str, Any]]:
    """Name, description and settings of every shipped recipe."""
    contents = {name: read_recipe(name) for name in recipe_names()}
    return [{"name": name, "about": content.get("about", ""), "settings": content} for name, content in contents.items()]


def read_recipe(name: str) -> dict[str, Any]:
    """Settings of a shipped recipe or of a YAML file; a recipe may start from another one named by `base`."""
    return _read(name, Path(), ())


def _read(name: str, beside: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe over its bases; files are found relative to the folder `beside`; `above` are the recipes that lead here."""
    path = beside / name if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if path in above:
        raise LabError(f"recipe {path.name} is its own base: {' > '.join(p.name for p in (*above, path))}")
    if not path.is_file():
        raise unknown("recipe", name, recipe_names()) if path.parent == RECIPES else LabError(f"there is no recipe file {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad_yaml(f"recipe {path.name}", error) from error
    if not isinstance(content, dict):
        raise LabError(f"recipe {path.name} must be a mapping of options to values, not {type(content).__name__}")
    base = content.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise LabError(f"recipe {path.name}: base = {base!r} must be the name of a recipe or a YAML file")
    start = _read(base, path.parent, (*above, path)) if base else {}
    return merged(start, content) | {"recipe": content.get("recipe", path.stem)}


def merged(base: Any, change: Any) -> Any:
    """`change` over `base`, section by section; naming another plug-in drops the options of the old one."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "name" in base and change.get("name", base["name"]) != base["name"]:
        base = {}
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


# -- overrides -------------------------------------------------------------------------------------------------------------


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=value` as a nested mapping; the value is read as YAML (numbers, true, null, [lists])."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise LabError(f"'{text}' is not an option: write key=value, for example train.lr=0.001")
    try:
        parsed = yaml.safe_load(value)
        if isinstance(parsed, str):  # YAML reads 1e-3 as text
            parsed = float(parsed)
    except ValueError:
        pass
    except yaml.YAMLError as error:
        raise LabError(f"the value of '{key.strip()}' cannot be read: {value}") from error
    path = key.strip().split(".")
    if path[0] in NAMED and len(path) == 1 and isinstance(parsed, str):
        path = [*path, "name"]
    for part in reversed(path):
        parsed = {part: parsed}
    return parsed


def written(value: Any) -> str:
    """A value as YAML on one line, as `-o` reads it."""
    if isinstance(value, float):
        return f"{value:g}" if math.isclose(float(f"{value:g}"), value, rel_tol=1e-12) else repr(value)
    if isinstance(value, str) and value and yaml.safe_load(value) == value:
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def command_line(content: dict[str, Any]) -> str:
    """The shortest `lab run` that computes what the resolved configuration `content` says.

    Raises LabError for a configuration that options over the recipes of this version cannot express.
    """
    for recipe in dict.fromkeys([content["recipe"] if content["recipe"] in recipe_names() else CUSTOM, CUSTOM]):
        changes = [f"{path}={written(value)}" for path, value in _differences(configure(recipe).to_dict(), content)]
        for change in list(changes):  # naming a plug-in brings its defaults, so some say nothing
            rest = [other for other in changes if other != change]
            changes = rest if _gives(recipe, rest, content) else changes
        if _gives(recipe, changes, content):
            return shlex.join(["lab", "run", recipe, *(word for change in changes for word in ("-o", change))])
    raise LabError("this configuration cannot be written as options over a recipe of this version")


def _differences(base: Any, wanted: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options of `wanted` that are not those of `base`, by dotted path; another plug-in comes with all of its options."""
    base = base if isinstance(base, dict) and base.get("name") == wanted.get("name") else {}
    for name, value in wanted.items():
        if isinstance(value, dict) and value:
            yield from _differences(base.get(name), value, f"{prefix}{name}.")
        elif prefix + name != "about" and base.get(name, ...) != value:
            yield prefix + name, value


def _gives(recipe: str, changes: Sequence[str], content: dict[str, Any]) -> bool:
    """Whether these options over a recipe are this configuration; what it is about does not count."""
    try:
        return configure(recipe, changes).to_dict() | {"about": ""} == content | {"about": ""}
    except LabError:
        return False


def configure(recipe: str = CUSTOM, overrides: Sequence[str] = (), **settings: Any) -> RunConfig:
    """A validated configuration: defaults < recipe < what fits the stream < overrides (`key=value`) < settings.

    `settings` are top-level fields, or `stream`, `backbone`, `router` given by name. Raises LabError with the nearest
    valid name for a misspelt one.
    """
    change: dict[str, Any] = {}  # first on their own: `-o router.heads=2 -o router=oracle` keeps the heads
    for text in overrides:
        change = merged(change, parse_override(text))
    for name, value in settings.items():
        change = merged(change, {name: {"name": value} if name in NAMED and isinstance(value, str) else value})
    return validated(merged(start(recipe, change), change))


def start(recipe: str, change: dict[str, Any]) -> dict[str, Any]:
    """What `change` is laid over: a recipe, with what fits the stream that is then in use."""
    content = read_recipe(recipe) if recipe != CUSTOM else {"recipe": CUSTOM}
    return fitted(content, _stream(merged(content, change)))


def fitted(content: dict[str, Any], stream: str | None) -> dict[str, Any]:
    """A recipe with the settings that fit a stream; they give way to those of a recipe that names the stream itself."""
    fit = registry.streams.get(stream).fit if stream in registry.streams.names() else {}
    return merged(fit, content) if _stream(content) == stream else merged(content, fit)


def _stream(content: dict[str, Any]) -> str | None:
    """The name of the stream in plain settings; None where several are joined, or none is named."""
    given = content.get("stream")
    given = {"name": given} if isinstance(given, str) else given
    return given.get("name") if isinstance(given, dict) and not given.get("sources") else None


def validated(content: dict[str, Any]) -> RunConfig:
    """RunConfig from plain values; every mistake is one line that names the field and what is allowed."""
    return _consistent(typed(content))


def typed(content: dict[str, Any]) -> RunConfig:
    """The same without the question whether the settings go together, for a form that is still being filled."""
    content = {name: {"name": value} if name in NAMED and isinstance(value, str) else value for name, value in content.items()}
    content = merged({"experts": {"name": "lora"}, "router": {"name": "uniform"}}, content)
    try:
        return RunConfig(**content)
    except ValidationError as error:
        raise LabError(registry.explain(error, RunConfig)) from error


def _consistent(config: RunConfig) -> RunConfig:
    """Refuse combinations that cannot work, before anything is loaded."""
    if config.scenario not in config.scenarios:
        allowed = " or ".join(config.scenarios) or "none"
        raise LabError(f"recipe {config.recipe} makes no sense in scenario {config.scenario}: use scenario {allowed}")
    budgets = [name for name in BUDGETS if getattr(config.memory, name)]
    if len(budgets) > 1:
        named = " and ".join(f"memory.{name}" for name in budgets)
        raise LabError(f"{named} exclude each other: set all but one of them to 0")
    if config.memory.policy != "reservoir" and not config.memory.total:
        raise LabError("memory.policy says how memory.total is shared: set memory.total above 0 and the other budgets to 0")
    if config.answer == "words" and config.stream.labels_as_text:
        raise LabError("stream.labels_as_text writes labels, answer=words chooses among them: drop one of the two")
    (_transferable if config.transfer else _streamable)(config, budgets)
    if config.router.name == "oracle" and config.experts.allocation != "per_task":
        raise LabError("router oracle picks the expert of the true task: use experts.allocation=per_task")
    methods = (registry.methods, config.methods.values())
    for kind, chosen in ((registry.experts, [config.experts]), (registry.routers, [config.router]), methods):
        for options in chosen:
            kind.get(options.name).check(config)
    router = registry.routers.get(config.router.name)
    if not config.transfer and not isinstance(config.experts.allocation, str) and not router.learns_with_experts:
        raise LabError(
            f"experts.allocation = {config.experts.allocation}: router {router.name} does not learn with a pool: "
            "set transfer.shots to train on all tasks at once, or use router=l2p or sparse, experts.allocation=per_task or shared"
        )
    return config


def _streamable(config: RunConfig, budgets: Sequence[str]) -> None:
    """Refuse what training on task after task cannot do; `budgets` are those that the memory has."""
    need = "needs stored examples: set memory.per_task, memory.per_class or memory.total above 0"
    if config.memory_training.steps and not budgets:
        raise LabError(f"memory_training.steps {need}")
    isolated = config.experts.allocation == "per_task" and config.experts.isolated
    if isolated and config.train.classes == "seen":
        raise LabError(
            "train.classes = seen trains classifier rows of earlier tasks, isolated experts must not: "
            "use train.classes=task or experts.isolated=false"
        )
    if isolated and registry.routers.get(config.router.name).learns_with_experts:
        raise LabError(
            f"router {config.router.name} learns while the experts do, isolated experts are trained without it: "
            "use experts.isolated=false or a pool (experts.allocation=10)"
        )
    for name, options in config.methods.items():
        if registry.methods.get(name).given(options) == "stored" and not budgets:
            raise LabError(f"methods.{name} {need}")
        if isolated:
            raise LabError(
                f"methods.{name} brings earlier tasks into training, isolated experts must not know of them: "
                "use experts.isolated=false or experts.allocation=shared"
            )


def _transferable(config: RunConfig, budgets: Sequence[str]) -> None:
    """Refuse what joint training and few-shot adaptation cannot do; `budgets` are those that the memory has."""
    if config.scenario != "task":
        raise LabError(f"scenario {config.scenario}: transfer is between known tasks: use scenario=task")
    if config.methods or config.memory_training.steps or budgets:
        raise LabError(f"recipe {config.recipe} stores or replays examples of a stream, transfer has none: drop transfer or them")
    adaptation = config.transfer.adaptation
    if adaptation.start == "average" and config.composition != "merge":
        raise LabError("transfer.adaptation.start = average merges parameters: use composition=merge")
    if adaptation.tuned == "router" and (config.experts.allocation in ("shared", 1) or adaptation.start == "average"):
        raise LabError("transfer.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained")
