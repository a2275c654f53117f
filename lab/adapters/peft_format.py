"""What a configuration of peft means: its adapter as plain LoRA or (IA)^3, exactly, or a refusal that names field or tensor.

`plain` is the only place that knows the fields of peft's LoraConfig and IA3Config and the names of their tensors. Ranks and
scales per layer become one rank and one scale, with which `PeftModel` computes the same. A field that is not listed here, as of a
later peft, is refused unless it is off. numpy only.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lab.core.errors import LabError

PREFIX = "base_model.model."  # before the name of a layer
KINDS = {"LORA": ("lora_A", "lora_B"), "IA3": ("ia3_l",)}  # parameters of a layer
ENDINGS = {"LORA": ".weight", "IA3": ""}  # behind the name of a parameter
HEADS = ("classifier", "score", "qa_outputs", "classification_head", "pre_classifier")  # they stand behind the backbone
HEAD_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # peft saves a head with these, and asks for it when it loads
Task = Literal["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "FEATURE_EXTRACTION"]
REASONS = {  # parts of names of tensors that plain adapters do not have
    "lora_embedding_": "a LoRA of an embedding is not read",
    "lora_magnitude_vector": "magnitudes of DoRA are not read",
    "lora_B.bias": "a bias of a LoRA (lora_bias) is not read",
    "bias": "biases of the backbone that were trained with it (bias) are not read",
}


# -- fields ----------------------------------------------------------------------------------------------------------------


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ([], {})


def _off(reason: str) -> BeforeValidator:
    """A field that must be off, because of `reason`."""

    def check(value: Any) -> Any:
        if not _is_off(value):
            raise ValueError(f"{reason}: merge it into the backbone with peft (merge_and_unload) to use it")
        return value

    return BeforeValidator(check)


def _plain_start(value: Any) -> Any:
    """Initialisations after which the backbone's weights are as they were; others take part of them into the adapter."""
    if not isinstance(value, bool) and value not in (None, "gaussian", "orthogonal", "eva", "mica"):
        raise ValueError(
            "this initialisation changes the weights of the backbone, so the adapter alone does not say what it computes: "
            "save it with peft's save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL_ADAPTER)"
        )
    return value


def _regular(value: Any) -> Any:
    """Refuse regular expressions that cannot be compiled."""
    for pattern in [value] if isinstance(value, str) else value or ():
        re.compile(pattern)
    return value


def _heads(value: list[str] | None) -> list[str] | None:
    trained = [name for name in value or () if name not in HEADS]
    if trained:
        raise ValueError(f"{', '.join(trained)} was trained as a whole beside the adapter: only heads are set aside")
    return value


Alpha = Annotated[float, Field(ge=-(2.0**127), le=2.0**127)]  # in float32 it is a number; so neither NaN nor infinite
Names = Annotated[str | list[str] | None, AfterValidator(lambda value: _regular(value) if isinstance(value, str) else value)]


class Fields(BaseModel):
    """Fields of every configuration, with the defaults of peft; those that the reader does not look at change no output."""

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: str
    task_type: Task | None = None
    auto_mapping: dict[str, Any] | None = None
    peft_version: Any = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    target_modules: Names = None
    exclude_modules: Names = None
    modules_to_save: Annotated[list[str] | None, AfterValidator(_heads)] = None
    fan_in_fan_out: bool = False  # the layer's own kind decides how it is computed


class Lora(Fields):
    """Fields of LoraConfig."""

    r: int = Field(8, ge=1)
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    rank_pattern: Annotated[dict[str, Annotated[int, Field(ge=1)]] | None, AfterValidator(_regular)] = {}
    alpha_pattern: Annotated[dict[str, Alpha] | None, AfterValidator(_regular)] = {}
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Annotated[list[str] | str | None, AfterValidator(_regular)] = None
    init_lora_weights: Annotated[Any, AfterValidator(_plain_start)] = True
    bias: Annotated[Literal["none"] | None, BeforeValidator(lambda value: _only_none(value))] = "none"
    lora_dropout: Any = 0.0
    loftq_config: Any = {}  # the configurations of initialisations act with init_lora_weights only
    eva_config: Any = None
    corda_config: Any = None
    lora_ga_config: Any = None
    megatron_core: Any = "megatron.core"
    qalora_group_size: Any = 16
    runtime_config: Any = None
    ensure_weight_tying: Any = False  # of embeddings and heads
    use_dora: Annotated[Any, _off("it scales the rows of the whole weight (DoRA)")] = False
    lora_bias: Annotated[Any, _off("a bias in lora_B is no low-rank update")] = False
    layer_replication: Annotated[Any, _off("it makes another backbone, with blocks repeated")] = None
    megatron_config: Annotated[Any, _off("layers of Megatron are not read")] = None
    trainable_token_indices: Annotated[Any, _off("it holds embeddings of tokens of its own")] = None
    target_parameters: Annotated[Any, _off("updates of parameters that are no layer's weight are not read")] = None
    alora_invocation_tokens: Annotated[Any, _off("it acts behind its invocation tokens only (aLoRA)")] = None
    use_qalora: Annotated[Any, _off("it pools the input of a layer (QALoRA)")] = False
    use_bdlora: Annotated[Any, _off("its factors are block-diagonal (BD-LoRA)")] = None
    velora_config: Annotated[Any, _off("it compresses what the layers are given (VeLoRA)")] = None
    monteclora_config: Annotated[Any, _off("it draws its weights (MonteCLoRA)")] = None
    arrow_config: Annotated[Any, _off("it is a router over other adapters (Arrow)")] = None
    kasa_config: Annotated[Any, _off("it changes the weights of the backbone by their singular values (KaSA)")] = None


class Ia3(Fields):
    """Fields of IA3Config."""

    feedforward_modules: Names = None
    init_ia3_weights: Any = True


MODELS: dict[str, type[Fields]] = {"LORA": Lora, "IA3": Ia3}


def _only_none(value: Any) -> Any:
    if value not in (None, "none"):
        raise ValueError("biases of the backbone were trained with it: they are no part of an adapter's update")
    return value


def fields_of(config: Mapping[str, Any]) -> Fields:
    """The checked fields. Raises LabError for what is of another kind, for wrong values, and for what is not known."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in MODELS:
        raise LabError(f"it is an adapter of peft_type {kind}: {' and '.join(MODELS)} can be read")
    try:
        fields = MODELS[kind].model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        name, said = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
        raise LabError(f"{name} = {config.get(name)!r}: {said[:1].lower()}{said[1:]}") from None
    except re.error as error:
        raise LabError(f"{error.pattern!r} in its configuration is no regular expression: {error}") from None
    for name, value in (fields.model_extra or {}).items():
        if not _is_off(value):
            raise LabError(f"{name} = {value!r} is no field of {kind} that this version of the lab knows: it cannot be exact")
    return fields


# -- which layers ----------------------------------------------------------------------------------------------------------


def is_target(fields: Fields, layer: str) -> bool:
    """Whether peft adapts the layer of this name, as `peft.tuners.tuners_utils.check_target_module_exists` decides."""
    if _named(fields.exclude_modules, layer):
        return False
    if any(re.match(rf"(^|.*\.){module}($|\..*)", layer) for module in fields.modules_to_save or ()):
        return False
    targets = fields.target_modules
    if targets is None or targets == "all-linear":  # peft then looks at the model
        return True
    if not _named(targets, layer):
        return False
    if isinstance(targets, str) or layer in targets:
        return True
    blocks = getattr(fields, "layers_to_transform", None)
    if blocks is None or blocks == []:
        return True
    block = _block(layer, fields)
    return block is not None and (block == blocks if isinstance(blocks, int) else block in blocks)


def _named(names: str | list[str] | None, layer: str) -> bool:
    """Whether a regular expression, or one of several endings, names the layer."""
    if isinstance(names, str):
        return bool(re.fullmatch(names, layer))
    return any(layer == name or layer.endswith(f".{name}") for name in names or ())


def _block(layer: str, fields: Fields) -> int | None:
    """Number of the block that `layers_to_transform` counts."""
    patterns = getattr(fields, "layers_pattern", None)
    if not patterns:
        match = re.match(r".*?\.[^.]*\.(?P<block>\d+)\.", layer)
    else:
        patterns = [patterns] if isinstance(patterns, str) else patterns
        matches = (re.match(rf"(?:^|.*?\.){pattern}\.(?P<block>\d+)\.", layer) for pattern in patterns)
        match = next((match for match in matches if match), None)
    return int(match["block"]) if match else None


def _of_layer(pattern: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
    """The value that a pattern of ranks or alphas has for a layer: of the first key that its name ends with."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", layer)), default)


def aligned(theirs: Collection[str], ours: Collection[str]) -> dict[str, str]:
    """Names of layers in one model by those in another that holds the same backbone, perhaps as a part (`bert.`, `model.`).

    Names that have no counterpart stay as they are.
    """
    ours = set(ours)
    beginnings = {name: _beginnings(name) for name in theirs}
    shared = [prefix for prefix in next(iter(beginnings.values()), []) if all(prefix in own for own in beginnings.values())]
    shorter = [{name: name.removeprefix(prefix) for name in theirs} for prefix in shared]
    longer = [{name: prefix + name for name in theirs} for prefix in sorted({p for name in ours for p in _beginnings(name)})]
    best = max([*shorter, *longer], key=lambda names: len(ours & set(names.values())), default={})  # of equals the first
    return {name: renamed if renamed in ours else name for name, renamed in best.items()}


def _beginnings(name: str) -> list[str]:
    """Dotted beginnings of a name, the empty one first."""
    parts = name.split(".")
    return ["".join(f"{part}." for part in parts[:length]) for length in range(len(parts))]


# -- tensors ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Plain LoRA or (IA)^3: the configuration, float32 arrays by `<layer>.<parameter>`, and what was set aside."""

    config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    head: dict[str, np.ndarray]  # of a task model, by the names of its tensors
    notes: tuple[str, ...] = ()


def plain(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Plain:
    """The adapter that these two files of peft hold, with one rank and one scale. Raises LabError for what is not exact."""
    fields = fields_of(config)
    kind = fields.peft_type
    layers, head = _sorted_out(kind, tensors)
    _check_promises(fields, layers)
    own, arrays = _lora(fields, layers) if isinstance(fields, Lora) else _ia3(cast(Ia3, fields), layers)
    task = None if fields.task_type in HEAD_TASKS else fields.task_type
    notes = (f"its head ({', '.join(head)}) is no part of the expert",) if head else ()
    about = {"peft_type": kind, "task_type": task, "base_model_name_or_path": fields.base_model_name_or_path or ""}
    kept = {"auto_mapping": fields.auto_mapping, "revision": fields.revision}
    about |= {name: value for name, value in kept.items() if value is not None}
    return Plain(complete(about | own | {"fan_in_fan_out": fields.fan_in_fan_out}, arrays), arrays, head, notes)


def complete(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The configuration of a plain adapter with what it holds as targets, so that it promises no other tensors."""
    names = sorted({name.rpartition(".")[0] for name in arrays})
    promises: dict[str, Any] = {"target_modules": names, "inference_mode": True}
    if config["peft_type"] == "IA3":  # a vector of the input stands as one row
        promises["feedforward_modules"] = [name for name in names if len(arrays[f"{name}.ia3_l"]) == 1]
    else:
        promises |= {"lora_dropout": 0.0, "bias": "none"}
    return dict(config) | promises


def _sorted_out(kind: str, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Parameters by layer, and the tensors of a head by name. Raises LabError for any other tensor."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    head: dict[str, np.ndarray] = {}
    form = re.compile(rf"(.+)\.({'|'.join(KINDS[kind])}){re.escape(ENDINGS[kind])}")
    for name, tensor in tensors.items():
        short = name.removeprefix(PREFIX)
        match = form.fullmatch(short)
        if match:
            layers.setdefault(match[1], {})[match[2]] = tensor
        elif short.partition(".")[0] in HEADS:
            head[short] = tensor
        else:
            reason = next((text for part, text in REASONS.items() if part in short), "no plain adapter has it")
            raise LabError(f"tensor {name} of shape {tensor.shape} is no part of a {kind} expert: {reason}")
    if not layers:
        raise LabError(f"it holds no parameters of a {kind} expert: it has no layer; save it after it was trained")
    for layer, parameters in layers.items():
        shapes = ", ".join(f"{name} {array.shape}" for name, array in parameters.items())
        if set(parameters) != set(KINDS[kind]):
            raise LabError(f"layer {layer} needs {' and '.join(KINDS[kind])}, it has {shapes}")
        if any(array.ndim != 2 or not array.size for array in parameters.values()):
            raise LabError(f"layer {layer} is no linear layer: its parameters are no matrices, {shapes}")
    return layers, head


def _check_promises(fields: Fields, layers: Collection[str]) -> None:
    """Refuse layers that the configuration does not name, which peft would ignore, and targets that no layer has."""
    unnamed = next((layer for layer in layers if not is_target(fields, layer)), None)
    if unnamed is not None:
        raise LabError(f"layer {unnamed} has parameters and is none of its target_modules: peft would leave it out")
    targets = fields.target_modules if isinstance(fields.target_modules, list) else []
    empty = [target for target in targets if not any(_named([target], layer) for layer in layers)]
    if empty:
        raise LabError(
            f"target_modules names {', '.join(sorted(empty))}, of which no tensor is there: "
            "the file is incomplete, or take the name out of the list"
        )


def check_complete(config: Mapping[str, Any], names: Mapping[str, str], layers: Collection[str]) -> None:
    """Refuse an adapter that lacks layers which its configuration promises in a model with these layers.

    `names` are those of its own layers in the model, as `aligned` gives them.
    """
    fields = fields_of(config)
    if fields.target_modules in (None, "all-linear"):
        return
    theirs, ours = next(iter(names.items()))
    more, less = theirs.removesuffix(ours), ours.removesuffix(theirs)  # what stands before the names there, and here
    present = set(names.values())
    for layer in layers:
        if layer not in present and is_target(fields, more + layer.removeprefix(less)):
            raise LabError(
                f"target_modules promises layer {layer}, of which no tensor is there: the file is incomplete, "
                "or say which layers it has with layers_to_transform or exclude_modules"
            )


def _lora(fields: Lora, layers: Mapping[str, dict[str, np.ndarray]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """LoRA with one rank and scale: shorter factors get zeros, other scales go into B."""
    ranks = {layer: _of_layer(fields.rank_pattern, layer, fields.r) for layer in layers}
    alphas = {layer: _of_layer(fields.alpha_pattern, layer, fields.lora_alpha) for layer in layers}
    for layer, parameters in layers.items():
        shapes = {name: array.shape for name, array in parameters.items()}
        if shapes["lora_A"][0] != ranks[layer] or shapes["lora_B"][1] != ranks[layer]:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise LabError(f"layer {layer} needs lora_A and lora_B of rank {ranks[layer]}, it has {given}")
    if len(set(ranks.values())) == len(set(alphas.values())) == 1:  # to the bit as it is
        own: dict[str, Any] = {"r": next(iter(ranks.values())), "lora_alpha": next(iter(alphas.values()))}
        arrays = {f"{layer}.{name}": array for layer, parameters in layers.items() for name, array in parameters.items()}
        return own | {"use_rslora": fields.use_rslora}, arrays
    rank, arrays = max(ranks.values()), {}
    for layer, parameters in layers.items():
        more = rank - ranks[layer]
        factor = alphas[layer] / (math.sqrt(ranks[layer]) if fields.use_rslora else ranks[layer])
        arrays[f"{layer}.lora_A"] = np.pad(parameters["lora_A"], ((0, more), (0, 0)))
        arrays[f"{layer}.lora_B"] = np.pad(parameters["lora_B"] * np.float32(factor), ((0, 0), (0, more)))
    return {"r": rank, "lora_alpha": rank, "use_rslora": False}, arrays


def _ia3(fields: Ia3, layers: Mapping[str, dict[str, np.ndarray]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(IA)^3: a row scales the input of a layer, a column its output; which is which must be as the configuration says."""
    for layer, parameters in layers.items():
        shape = parameters["ia3_l"].shape
        if 1 not in shape:
            raise LabError(f"layer {layer} needs one vector ia3_l, it has one of shape {shape}")
        named = fields.feedforward_modules
        if named is None:
            continue
        of_input = bool(re.fullmatch(named, layer)) if isinstance(named, str) else layer.endswith(tuple(named))
        if (shape[0] == 1) != of_input and shape != (1, 1):
            sides = ("input", "output") if of_input else ("output", "input")
            raise LabError(
                f"feedforward_modules says that the {sides[0]} of {layer} is scaled, ia3_l {shape} is for its {sides[1]}"
            )
    return {}, {f"{layer}.ia3_l": parameters["ia3_l"] for layer, parameters in layers.items()}
