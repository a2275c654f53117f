"""Whether a saved adapter belongs to a backbone: the one place where this is decided.

Models are told apart by their weights: by the digest that the lab writes with an adapter, by the files of two folders, or by hub
ids. Equal names of folders alone say nothing: `checkpoint-500` may be of any training.
"""

from dataclasses import dataclass
from pathlib import Path

from lab.adapters import hub
from lab.core import atomic_io
from lab.core.errors import LabError


@dataclass(frozen=True)
class Base:
    """A backbone as an adapter or a run knows it: what it is called, its digest (`Backbone.body`), other names of it."""

    name: str  # a built-in name, a hub id or a folder; "" if it is not said
    digest: str = ""  # "" if it is not known
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [self.name, *self.aliases]

    def hub_ids(self) -> set[str]:
        """Hub ids among the names: a folder has one only within the cache of the hub."""
        names = [name for name in self.names if hub.CACHED.fullmatch(name) or not Path(name).is_dir()]
        return {id for id in map(hub.id_of, names) if id}

    def folder(self) -> Path | None:
        """Where its weights lie on this machine."""
        folders = [Path(name).resolve() for name in self.names if name and Path(name).is_dir()]
        cached = [hub.cached_folder(id) for id in sorted(self.hub_ids())] if not folders else []
        return next(iter([*folders, *filter(None, cached)]), None)


def compare(theirs: Base, ours: Base) -> str:
    """What is to be said about an adapter of `theirs` for the backbone `ours`, "" where they are the same beyond doubt.

    Raises LabError for other weights, and where nothing can be compared but the names differ.
    """
    help = f"use lab compose transfer to carry it to {ours.name}"
    if theirs.digest and ours.digest:
        if theirs.digest == ours.digest:
            return ""
        raise LabError(
            f"it belongs to backbone {theirs.name}, whose weights are not those of {ours.name} "
            f"(digests {theirs.digest[:12]} and {ours.digest[:12]}): {help}"
        )
    if not theirs.name:
        return "it does not say which backbone it belongs to, so that was not compared"
    if theirs.name in ours.names or theirs.hub_ids() & ours.hub_ids():
        return ""
    folders = (theirs.folder(), ours.folder())
    weights = [_weights(folder) for folder in folders if folder]
    if len(weights) == 2 and all(weights):
        if weights[0] == weights[1]:
            return ""
        raise LabError(f"it belongs to backbone {theirs.name}, whose weights are not those of {ours.name}: {help}")
    parts = Path(theirs.name).parts
    if any(Path(name).resolve().parts[-len(parts) :] == parts for name in ours.names if Path(name).is_dir()):
        return f"of its backbone {theirs.name} only the name was compared with {ours.name}: the weights are not here"
    raise LabError(
        f"it belongs to backbone {theirs.name}, which is not here to be compared with {ours.name}: {help}, or, if both are the "
        "same, name this one in base_model_name_or_path of its adapter_config.json"
    )


def _weights(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a model's weights."""
    return {path.name: atomic_io.sha256(path) for path in sorted(folder.glob("*.safetensors"))}
