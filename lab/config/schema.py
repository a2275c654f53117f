"""What a run is made of, as models. The command line, the form of the dashboard and the documentation are generated from the
fields below and from the `Options` of the plug-ins. How they are filled: lab.config.resolve.
"""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from lab.core import registry
from lab.core.errors import LabError
from lab.core.registry import Options

CUSTOM = "custom"  # the name of no recipe: the defaults alone


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
    loss_classes: Literal["task", "seen"] = Field(
        "task", description="classes that compete in the training loss: those of the current task, or all seen so far"
    )


class RouterTrainingConfig(Section):
    steps: int = Field(0, ge=0, le=100_000, description="optimiser steps on the memory before each evaluation (stage B); 0: none")
    lr: float = Field(0.1, gt=0, le=10, description="learning rate of the routers")
    batch_size: int = Field(16, ge=1, le=4096, description="stored examples in one step")
    classifier: Literal["frozen", "tuned"] = Field("tuned", description="whether the classifier is tuned on the memory too")
    classifier_lr: float = Field(1e-3, gt=0, le=10, description="learning rate of the classifier on the memory")
    warm_start: bool = Field(False, description="go on from the previous stage, not anew from the isolated classifier")


class CheckpointConfig(Section):
    every: int = Field(100, ge=1, description="optimiser steps between saved states, beside one at every task boundary")


def plugin(kind: registry.Registry, section: str) -> Any:
    """Type of a field that holds the options of one plug-in: a name, or a mapping with `name` and options."""
    return Annotated[SerializeAsAny[Options], BeforeValidator(partial(kind.options, section=section))]


def plugins(kind: registry.Registry, section: str) -> Any:
    """Type of a field that holds several plug-ins: a mapping from name to options."""

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
    consolidation: plugin(registry.consolidations, "consolidation") = Field(
        {"name": "none"}, validate_default=True, description="what becomes of the trained experts before one is chosen"
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
    router_training: RouterTrainingConfig = RouterTrainingConfig()
    protocol: plugin(registry.protocols, "protocol") = Field(
        {"name": "sequential"}, validate_default=True, description="in what order the run trains and evaluates"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    reuse: bool = Field(True, description="take isolated experts from the store if data and settings are equal")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in config.yaml."""
        return self.model_dump(mode="json")
