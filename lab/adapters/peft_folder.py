"""Folders of saved experts, in peft's format or, of kinds that peft has not, in the lab's own: the one reader and writer.

A folder holds adapter_config.json and adapter_model.safetensors. In peft's format parameters are named
`base_model.model.<layer>.<parameter>[.weight]`, here always `<layer>.<parameter>`. An expert is read exactly or refused: a field
of its configuration that changes what it computes, and that the lab does not compute, is refused by its name. numpy only.
"""

import json
import math
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import deserialize

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder.run import root

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PREFIX = "base_model.model."


class Names(NamedTuple):
    """How peft names the parameters of one kind."""

    parameters: tuple[str, ...]
    ending: str  # behind the name of a parameter


KINDS = {"LORA": Names(("lora_A", "lora_B"), ".weight"), "IA3": Names(("ia3_l",), "")}
HEADS = ("classifier", "score", "qa_outputs")  # of peft's task models: they stand behind the backbone and are left out
# Fields that do not change what a read expert computes. Any other field must be empty, as it is by peft's defaults.
HARMLESS = {
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "init_ia3_weights", "eva_config"),
    *("megatron_core", "qalora_group_size", "ensure_weight_tying", "runtime_config"),
}
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # of init_lora_weights: others change the backbone's weights
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}  # safetensors to numpy, which has no bfloat16


@dataclass(frozen=True)
class SavedAdapter:
    """An expert as it stands in its folder: the content of adapter_config.json, and float32 arrays by `<layer>.<parameter>`."""

    folder: Path
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def kind(self) -> str:
        return kind_of(self.config)

    def layers(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays as {layer: {parameter: array}}."""
        layers: dict[str, dict[str, np.ndarray]] = {}
        for name, array in self.arrays.items():
            layer, _, parameter = name.rpartition(".")
            layers.setdefault(layer, {})[parameter] = array
        return layers

    def within(self, layers: Collection[str]) -> dict[str, np.ndarray]:
        """The arrays by names of these layers: the prefix of a task model (`bert.`) is dropped where that gives one of them."""
        return {_without_prefix(name, layers): array for name, array in self.arrays.items()}


def _without_prefix(name: str, layers: Collection[str]) -> str:
    layer, _, parameter = name.rpartition(".")
    while layer not in layers and "." in layer:
        layer = layer.partition(".")[2]
    return f"{layer}.{parameter}" if layer in layers else name


def kind_of(config: Mapping[str, Any]) -> str:
    """The peft_type of a saved expert, or the name of a kind that the lab saves in its own layout."""
    own = config.get("expert")
    return str(config.get("peft_type") or (own.get("name") if isinstance(own, Mapping) else None))


def in_peft(config: Mapping[str, Any]) -> bool:
    """Whether peft loads an expert with this configuration."""
    return bool(config.get("peft_type"))


def scale(config: Mapping[str, Any]) -> float:
    """Factor of a LoRA update: alpha / r, or alpha / sqrt(r) for rsLoRA; 1 for other kinds."""
    if "lora_alpha" not in config:
        return 1.0
    return config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])


# -- reading ---------------------------------------------------------------------------------------------------------------


def read(folder: Path, finite: bool = True) -> SavedAdapter:
    """The expert saved in a folder by the lab or by peft; `finite=False` lets values pass that are not finite.

    Raises LabError for a missing or damaged file, for a kind of peft other than LoRA and (IA)^3, and for every variant of these.
    """
    for part in (CONFIG, WEIGHTS):
        if not (folder / part).is_file():
            raise LabError(f"{folder} holds no saved expert: {part} is missing")
    config = read_config(folder)
    try:
        arrays = {name: _array(entry) for name, entry in sorted(deserialize((folder / WEIGHTS).read_bytes()))}
    except (OSError, ValueError, KeyError, atomic_io.UnreadableArrays) as error:
        raise LabError(f"the expert saved in {folder} cannot be read: {WEIGHTS}: {error}") from error
    if in_peft(config):
        _refuse_variants(folder, config)
        arrays = _own_names(arrays, KINDS[config["peft_type"]])
        _refuse_shapes(folder, config, arrays)
    if finite and not all(np.isfinite(array).all() for array in arrays.values()):
        raise LabError(f"{folder} holds values that are not finite: it was damaged, or its training failed")
    return SavedAdapter(folder, config, arrays)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json. Raises LabError if it cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"the expert saved in {folder} cannot be read: {CONFIG}: {error}") from error
    if not isinstance(config, dict):
        raise LabError(f"the expert saved in {folder} cannot be read: {CONFIG} holds no mapping")
    return config


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    """One tensor of a safetensors file in float32."""
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
    elif entry["dtype"] in NUMBERS:
        array = np.frombuffer(entry["data"], NUMBERS[entry["dtype"]]).astype(np.float32)
    else:
        raise ValueError(f"numbers of type {entry['dtype']} are not read, save {', '.join(NUMBERS)} or BF16")
    return array.reshape(entry["shape"])


def _own_names(arrays: Mapping[str, np.ndarray], names: Names) -> dict[str, np.ndarray]:
    """Arrays by `<layer>.<parameter>`, without the head of a task model."""
    plain = {name.removeprefix(PREFIX).removesuffix(names.ending): array for name, array in arrays.items()}
    return {
        name: array
        for name, array in plain.items()
        if name.partition(".")[0] not in HEADS or name.rpartition(".")[2] in names.parameters
    }


def _refuse_variants(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what plain LoRA and (IA)^3 do not compute."""
    kind = config["peft_type"]
    if kind not in KINDS:
        raise LabError(f"{folder} holds an expert of peft_type {kind}: {' and '.join(KINDS)} can be read")
    if kind == "LORA":
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if type(rank) is not int or rank < 1:
            raise LabError(f"{folder}: {CONFIG} says r {rank!r}: the rank must be a whole number above 0")
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise LabError(f"{folder}: {CONFIG} says lora_alpha {alpha!r}: it must be a number")
    plain = {
        "bias": config.get("bias") in (None, "none"),
        "init_lora_weights": config.get("init_lora_weights") in PLAIN_STARTS,
        "modules_to_save": set(config.get("modules_to_save") or ()) <= set(HEADS),
    }
    for name, value in config.items():
        if not plain.get(name, name in HARMLESS or not value):
            raise LabError(
                f"{folder}: {name} = {value!r} makes it a variant of {kind} that cannot be read: "
                f"plain {' and '.join(KINDS)} can, without DoRA, biases and ranks per layer"
            )


def _refuse_shapes(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse parameters that are not those of one plain expert."""
    kind = config["peft_type"]
    if not arrays:
        raise LabError(f"{folder} holds no parameters of a {kind} expert: it has no layer; save it after it was trained")
    for layer, parameters in SavedAdapter(folder, config, arrays).layers().items():
        shapes = {name: array.shape for name, array in parameters.items()}
        fits = set(shapes) == set(KINDS[kind].parameters) and all(len(shape) == 2 for shape in shapes.values())
        if fits and kind == "LORA":
            fits = shapes["lora_A"][0] == shapes["lora_B"][1] == config["r"]
        elif fits:
            fits = 1 in shapes["ia3_l"]
        if not fits:
            needed = f"lora_A and lora_B of rank {config['r']}" if kind == "LORA" else "one vector ia3_l"
            raise LabError(f"{folder}: layer {layer} needs {needed}, it has {', '.join(f'{n} {s}' for n, s in shapes.items())}")


# -- writing ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Save float32 arrays named `<layer>.<parameter>`; parameters of a kind that peft knows are named as it names them."""
    if in_peft(config):
        ending = KINDS[config["peft_type"]].ending
        arrays = {f"{PREFIX}{name}{ending}": array for name, array in arrays.items()}
    atomic_io.write_arrays(folder / WEIGHTS, arrays, {"format": "pt"})
    atomic_io.write_json(folder / CONFIG, dict(config))


def create(folder: Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], card: str) -> None:
    """Save in a new folder, with a card; the folder appears when all is in it.

    Raises LabError if the folder exists or cannot be written.
    """
    if folder.exists():
        raise LabError(f"{folder} exists already: name a new folder")
    growing = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        write(growing, arrays, config)
        atomic_io.replace_bytes(growing / CARD, card.encode())
        growing.rename(folder)
    except OSError as error:
        raise LabError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def base_of(config: Mapping[str, Any]) -> str:
    """The backbone that an expert belongs to, as its configuration calls it."""
    return config.get("base_model_name_or_path") or "unknown"


def card(name: str, config: Mapping[str, Any], *lines: str) -> str:
    """A model card: what the hub reads at its head, the name, and these lines."""
    loads = ["library_name: peft"] if in_peft(config) else []
    return "\n".join(["---", *loads, f"base_model: {json.dumps(base_of(config))}", "---", "", f"# {name}", "", *lines, ""])


# -- finding ---------------------------------------------------------------------------------------------------------------


def library(runs: str | Path | None = None) -> Path:
    """The folder of the experts that were brought into a folder of runs."""
    return root(runs) / ".library"


def folders_in(parent: Path) -> list[Path]:
    """Folders of saved experts directly in `parent`, sorted."""
    return sorted(path.parent for path in parent.glob(f"*/{CONFIG}"))


def named(word: str, runs: str | Path | None = None) -> dict[str, Path]:
    """Folders of saved experts by name, from a folder, RUN/EXPERT, or RUN for all of its experts. Raises LabError for none."""
    if Path(word).is_dir():
        return {word: Path(word)}
    run, _, name = word.partition("/")
    parent = library(runs) if run == "imported" else root(runs) / run / "experts"
    folders = [parent / name] if name else folders_in(parent)
    experts = {f"{run}/{folder.name}": folder for folder in folders if folder.is_dir()}
    if not experts:
        raise LabError(f"there is no expert '{word}': name a folder, or RUN/EXPERT (lab list runs shows the runs)")
    return experts


def digest(folder: Path) -> str:
    """SHA-256 of the weights in a folder. Raises LabError if there are none."""
    if not (folder / WEIGHTS).is_file():
        raise LabError(f"{folder} holds no saved expert: {WEIGHTS} is missing")
    return atomic_io.sha256(folder / WEIGHTS)
