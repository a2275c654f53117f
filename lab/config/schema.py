"""The configuration of a run as pydantic models.

The command line, the form of the dashboard and the documentation are generated from the fields below and from the `Options` of
the plug-ins. lab.config.resolve fills them from recipes and options.
"""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lab.core import names, registry
from lab.core.errors import LabError
from lab.core.registry import Fields, Options, OwnPlugin, Registry

CUSTOM = "custom"  # recipe of a run that starts from the defaults alone


class Section(Fields):
    """A group of options."""


def name_of_file(name: str) -> str:
    """Refuses what cannot name a file or folder."""
    if problem := names.fault(name, path=True):
        raise ValueError(f"the name {problem}")
    return name


Name = Annotated[str, AfterValidator(name_of_file)]


class StreamConfig(Section):
    name: Name = Field(default="builtin", description="stream to learn: builtin, a hub benchmark, or a folder of task folders")
    sources: list[Name] = Field(default=[], description="streams or folders to join into one stream; `name` then only labels it")
    tasks: list[Name] | str | None = Field(
        default=None, description="tasks in order of learning, or the name of a published order; null: all tasks, alphabetically"
    )
    labels_as_text: bool = Field(default=False, description="the model generates the name of the label instead of classifying")
    max_train: int | None = Field(
        default=None, ge=2, description="maximum training examples per task, balanced over labels, drawn with the seed; null: all"
    )
    max_validation: int | None = Field(default=None, ge=2, description="maximum validation examples per task; null: all")
    max_test: int | None = Field(default=None, ge=2, description="maximum test examples per task; null: all")
    max_per_label: int | None = Field(
        default=None, ge=1, description="maximum training examples per label of a task, drawn with the seed; null: all"
    )

    @property
    def limits(self) -> dict[str, int | None]:
        """Maximum number of examples per split and per label, as arguments of lab.data.loading.load_tasks."""
        return {name: getattr(self, name) for name in ("max_train", "max_validation", "max_test", "max_per_label")}


class BackboneConfig(Section):
    name: Name = Field(
        default="minilm",
        description="pretrained language model: minilm, tiny, strings, a hub id, or a folder with weights and tokenizer",
    )
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        default="auto",
        description="how the last hidden states become one vector per text; auto: mean for encoders, last token for decoders",
    )
    max_length: int = Field(default=128, ge=4, le=8192, description="maximum tokens per text; longer texts are truncated")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="precision of the forward pass; auto: bfloat16 autocast on CUDA and on CPUs with bfloat16 instructions",
    )
    device: str = Field(default="auto", description="where the model computes: auto, cpu, cuda or cuda:N")
    threads: int = Field(default=0, ge=0, le=512, description="number of CPU threads; 0: one per core, for tiny and strings one")


class DecodingConfig(Section):
    max_tokens: int | None = Field(
        default=None, ge=1, le=8192, description="maximum tokens of a generated answer; null: the longest training target"
    )
    beams: int = Field(default=1, ge=1, le=64, description="number of beams in beam search; 1: greedy decoding")


class MemoryConfig(Section):
    per_task: int = Field(default=0, ge=0, description="training examples stored per task, drawn at random; 0: none")
    per_class: int = Field(
        default=0, ge=0, description="training examples stored per class, drawn at random; replaces per_task; 0: off"
    )
    total: int = Field(default=0, ge=0, description="training examples stored in total; replaces per_task and per_class; 0: off")
    policy: Literal["reservoir", "balanced"] = Field(
        default="reservoir",
        description="which examples `total` keeps; reservoir: each example seen with equal probability; balanced: equally many "
        "per class",
    )


class TrainConfig(Section):
    lr: float = Field(default=2e-3, gt=0, le=10, description="AdamW learning rate of experts and classifier")
    epochs: int = Field(default=2, ge=1, le=1000, description="passes over the training examples of each task")
    batch_size: int = Field(default=16, ge=1, le=4096, description="training examples of the task per optimiser step")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW weight decay")
    warmup: float = Field(
        default=0.06,
        ge=0,
        lt=1,
        description="fraction of the steps in which the learning rate rises from 0; after it the rate falls linearly to 0",
    )
    clip: float = Field(default=1.0, ge=0, description="maximum norm of the gradient, above which it is clipped; 0: no clipping")
    loss_classes: Literal["task", "seen"] = Field(
        default="task",
        description="classes in the softmax of the training loss; task: those of the current task; seen: all seen so far",
    )


class RouterTrainingConfig(Section):
    steps: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="optimiser steps that train the routers on the memory before each evaluation (stage B); 0: no such training",
    )
    lr: float = Field(default=0.1, gt=0, le=10, description="learning rate of the routers")
    batch_size: int = Field(default=16, ge=1, le=4096, description="stored examples per optimiser step")
    classifier: Literal["frozen", "tuned"] = Field(
        default="tuned", description="whether training on the memory also updates the classifier"
    )
    classifier_lr: float = Field(
        default=1e-3, gt=0, le=10, description="learning rate of the classifier in training on the memory"
    )
    warm_start: bool = Field(
        default=False,
        description="start from the routers and classifier of the previous training on the memory; false: from initial routers "
        "and from the classifier as the tasks trained it",
    )


class CheckpointConfig(Section):
    every: int = Field(
        default=100, ge=1, description="optimiser steps between two checkpoints; every task boundary has one as well"
    )


def plugin(kind: registry.Registry, section: str) -> BeforeValidator:
    """Reads the options of one plug-in: a name, or a mapping with `name` and options."""
    return BeforeValidator(partial(kind.options, section=section))


def plugins(kind: registry.Registry, section: str) -> BeforeValidator:
    """Reads the options of several plug-ins: a mapping from name to options."""

    def read(content: Any) -> dict[str, Options]:
        if not isinstance(content, dict):
            raise LabError(
                f"{section} = {content!r}: write a mapping of names to options, for example {{{kind.names()[0]}: {{}}}}"
            )
        options = {}
        for name, value in content.items():
            if not isinstance(value, dict | Options | None):
                raise LabError(f"{section}.{name} = {value!r}: write option: value below it, or {{}} for the defaults")
            value = value if isinstance(value, Options) else (value or {}) | {"name": name}
            options[name] = kind.options(value, f"{section}.{name}")
        return options

    return BeforeValidator(read)


class RunConfig(Section):
    """Everything that decides what a run computes.

    Fields of type Any hold the `Options` of a plug-in, whose class the registry finds when they are read.
    """

    recipe: Name = Field(default=CUSTOM, description="name of the recipe")
    about: str = Field(default="", description="one sentence about the recipe")
    scenario: Literal["task", "domain", "class"] = Field(
        default="class",
        description="what the model is told at test time; task: the task, it predicts among that task's labels; domain: no task, "
        "all tasks share one label set; class: no task, it predicts among the (task, label) pairs of all tasks seen",
    )
    scenarios: list[Literal["task", "domain", "class"]] = Field(
        default=["task", "domain", "class"], description="scenarios that the recipe is defined for; a run in another is refused"
    )
    seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="seed of every random generator (order, initial values, sampling, ...)"
    )
    stream: StreamConfig = StreamConfig()
    backbone: BackboneConfig = BackboneConfig()
    experts: Annotated[Any, plugin(registry.experts, "experts")] = Field(
        default={"name": "lora"}, validate_default=True, description="kind of expert and its options"
    )
    router: Annotated[Any, plugin(registry.routers, "router")] = Field(
        default={"name": "uniform"}, validate_default=True, description="router that weights the experts, and its options"
    )
    consolidation: Annotated[Any, plugin(registry.consolidations, "consolidation")] = Field(
        default={"name": "none"},
        validate_default=True,
        description="how trained experts are combined into the experts that the router chooses from",
    )
    composition: Literal["mix", "merge"] = Field(
        default="mix",
        description="mix: weighted sum of the experts' outputs; merge: weighted sum of their parameters, applied as one expert",
    )
    methods: Annotated[dict[str, Any], plugins(registry.methods, "methods")] = Field(
        default={}, description="continual-learning methods that change training (replay, ewc, ...), by name, with their options"
    )
    memory: MemoryConfig = MemoryConfig()
    answer: Literal["classifier", "words"] = Field(
        default="classifier",
        description="how the model predicts a label; classifier: a trained classifier on the vector of the text; words: the "
        "language model scores the words of each label after the text (decoders and encoder-decoders)",
    )
    decoding: DecodingConfig = DecodingConfig()
    train: TrainConfig = TrainConfig()
    router_training: RouterTrainingConfig = RouterTrainingConfig()
    protocol: Annotated[Any, plugin(registry.protocols, "protocol")] = Field(
        default={"name": "sequential"}, validate_default=True, description="order in which the run trains and evaluates"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    reuse: bool = Field(
        default=True,
        description="load isolated experts that an earlier run trained with the same data and settings",
    )

    @property
    def chosen(self) -> list[tuple[Registry, Options]]:
        """The plug-ins that act, each by its registry and its options."""
        one_each = [
            (registry.experts, self.experts),
            (registry.routers, self.router),
            (registry.consolidations, self.consolidation),
            (registry.protocols, self.protocol),
        ]
        return one_each + [(registry.methods, options) for options in self.methods.values()]

    def own_plugins(self) -> list[OwnPlugin]:
        """The plug-ins of this configuration that are not shipped, its streams too."""
        names = [(kind, options.name) for kind, options in self.chosen]
        streams = self.stream.sources or [self.stream.name]
        names += [(registry.streams, name) for name in streams if name in registry.streams.names()]
        return [own for kind, name in names if (own := kind.own(name))]

    def own_digests(self, *kinds: str) -> dict[str, str | None]:
        """By kind and name the SHA-256 of their sources, of all kinds or of these; None where no source is kept."""
        return {f"{own.kind} {own.name}": own.digest for own in self.own_plugins() if own.kind in (kinds or (own.kind,))}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in config.yaml."""
        return self.model_dump(mode="json")
