"""Folders of saved experts, in peft's format or, of kinds that peft has not, in the lab's own: the one reader and writer.

A folder holds adapter_config.json and adapter_model.safetensors. In peft's format parameters are named
`base_model.model.<layer>.<parameter>[.weight]`, here always `<layer>.<parameter>`. An expert is read exactly or refused, see
`peft_format`. numpy only.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import deserialize

from lab.adapters import hub, peft_format
from lab.adapters.base_model import Base
from lab.core import atomic_io, documents
from lab.core.errors import LabError
from lab.run_folder.run import root

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PICKLED = "adapter_model.bin"


NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}  # safetensors to numpy, which has no bfloat16
BACKBONE = "backbone"  # in the metadata of the weights: the digest of the backbone, which peft does not look at


@dataclass(frozen=True)
class SavedAdapter:
    """An expert from its folder: its configuration, float32 arrays by `<layer>.<parameter>`, and what is to be said about it.

    One in peft's format is plain, see `peft_format.plain`: its configuration is that of the arrays, not the file's word for word.
    """

    folder: Path
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()
    backbone: str = ""  # digest of the backbone it was trained on, where it was the lab that saved it
    original: Mapping[str, Any] = field(default_factory=dict)  # the content of adapter_config.json
    head: Mapping[str, np.ndarray] = field(default_factory=dict)  # of a task model that peft saved with it, by its tensors' names

    @property
    def kind(self) -> str:
        return kind_of(self.config)

    @property
    def base(self) -> Base:
        return Base(self.config.get("base_model_name_or_path") or "", self.backbone)

    def layers(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays as {layer: {parameter: array}}."""
        layers: dict[str, dict[str, np.ndarray]] = {}
        for name, array in self.arrays.items():
            layer, _, parameter = name.rpartition(".")
            layers.setdefault(layer, {})[parameter] = array
        return layers


def kind_of(config: Mapping[str, Any]) -> str:
    """The peft_type of a saved expert, or the name of a kind that the lab saves in its own layout."""
    own = config.get("expert")
    return str(config.get("peft_type") or (own.get("name") if isinstance(own, Mapping) else None))


def in_peft(config: Mapping[str, Any]) -> bool:
    """Whether peft loads an expert with this configuration."""
    return bool(config.get("peft_type"))


def scale(config: Mapping[str, Any]) -> float:
    """Factor of a LoRA update: alpha / r, or alpha / sqrt(r) for rsLoRA; 1 for other kinds."""
    if config.get("peft_type") != "LORA":
        return 1.0
    return config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])


# -- reading ---------------------------------------------------------------------------------------------------------------


def read(folder: Path, finite: bool = True) -> SavedAdapter:
    """The expert saved in a folder by the lab, by peft or by transformers; `finite=False` lets values pass that are not finite.

    Raises LabError for a missing or damaged file, and for what would not be computed exactly, see `peft_format.plain`.
    """
    for part in (CONFIG, WEIGHTS):
        if not (folder / part).is_file():
            pickled = f", {PICKLED} is a pickle, which is not read" if (folder / PICKLED).is_file() else ""
            raise LabError(f"{folder} holds no saved expert: {part} is missing{pickled}")
    config = read_config(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
        arrays = {name: _array(entry) for name, entry in sorted(deserialize(content))}
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (OSError, ValueError, KeyError, AttributeError, atomic_io.UnreadableArrays) as error:
        raise LabError(f"the expert saved in {folder} cannot be read: {WEIGHTS}: {error}") from error
    damaged = next((name for name, array in arrays.items() if finite and not np.isfinite(array).all()), None)
    if damaged is not None:
        raise LabError(
            f"{folder} holds values that are not finite in {damaged}: it was damaged, or its training failed; train it again"
        )
    digest = str(metadata.get(BACKBONE, ""))
    if not in_peft(config):
        if not isinstance(config.get("expert"), Mapping):
            raise LabError(f"{folder}: {CONFIG} says peft_type None, and it is not that of an expert in the lab's own layout")
        return SavedAdapter(folder, config, arrays, backbone=digest, original=config)
    try:
        plain = peft_format.plain(config, arrays)
    except LabError as error:
        raise LabError(f"{folder}: {error}") from None
    return SavedAdapter(folder, plain.config, plain.arrays, plain.notes, digest, config, plain.head)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json. Raises LabError if it cannot be read."""
    try:
        with documents.opened(folder / CONFIG) as file:
            config = documents.json_value(file.read())
    except (LabError, OSError, ValueError) as error:
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


# -- writing ---------------------------------------------------------------------------------------------------------------


def write(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    backbone: str = "",
    head: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Save float32 arrays named `<layer>.<parameter>`; parameters of a kind that peft knows are named as it names them.

    `backbone` is the digest of the backbone that they belong to, "" where it is not known. `head`: tensors of the modules that
    `modules_to_save` names, as the model calls them.
    """
    if in_peft(config):
        config = peft_format.complete(config, arrays)
        ending = peft_format.ENDINGS[config["peft_type"]]
        arrays = {f"{peft_format.PREFIX}{name}{ending}": array for name, array in arrays.items()}
        arrays |= {f"{peft_format.PREFIX}{name}": array for name, array in head.items()}
    atomic_io.write_arrays(folder / WEIGHTS, arrays, {"format": "pt"} | ({BACKBONE: backbone} if backbone else {}))
    atomic_io.write_json(folder / CONFIG, dict(config))


def create(folder: Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], card: str, backbone: str = "") -> None:
    """Save in a new folder, with a card; the folder appears when all is in it.

    Raises LabError if the folder exists or cannot be written.
    """
    if folder.exists():
        raise LabError(f"{folder} exists already: name a new folder")
    growing = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        write(growing, arrays, config, backbone)
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
    """Folders of saved experts by name: from a folder, RUN/EXPERT, RUN for all of its experts, or a hub id.

    A folder comes first, then a run; see `hub.snapshot` for hub ids. Raises LabError for none.
    """
    if Path(word).is_dir():
        return {word: Path(word)}
    run, _, name = word.partition("/")
    parent = library(runs) if run == "imported" else root(runs) / run / "experts"
    folders = [parent / name] if name else folders_in(parent)
    experts = {f"{run}/{folder.name}": folder for folder in folders if folder.is_dir()}
    if not experts and hub.ID.fullmatch(word) and not parent.parent.is_dir():
        return {word: hub.snapshot(word, [CONFIG, WEIGHTS])}
    if not experts:
        raise LabError(
            f"there is no expert '{word}': name a folder, or RUN/EXPERT (lab list runs shows the runs), or a hub id OWNER/NAME"
        )
    return experts


def digest(folder: Path) -> str:
    """SHA-256 of the weights in a folder. Raises LabError if there are none."""
    if not (folder / WEIGHTS).is_file():
        raise LabError(f"{folder} holds no saved expert: {WEIGHTS} is missing")
    return atomic_io.sha256(folder / WEIGHTS)


def content_digest(folder: Path) -> str:
    """SHA-256 of what both files say: another scale makes another expert, another order of the fields does not.

    Raises LabError for files that are missing or damaged.
    """
    return hashlib.sha256(json.dumps([digest(folder), read_config(folder)], sort_keys=True).encode()).hexdigest()
