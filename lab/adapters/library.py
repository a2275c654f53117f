"""The experts of all runs as files: what they are, how alike they are, taking them along in peft's format and bringing some in.

numpy only. Experts that were brought in lie in `<runs>/.library/<name>/`. Also what people write about runs.
"""

import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lab.adapters import peft_folder, peft_format
from lab.core import atomic_io, documents
from lab.core.errors import LabError, Notice
from lab.jobs import jobs
from lab.run_folder.run import ID, Run
from lab.run_folder.writer import remove

UNPACKED = 200_000_000  # bytes of an archive that is brought in
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
TORN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)  # of a damaged or locked archive


@dataclass(frozen=True)
class SavedExpert:
    """An expert on disk; `run` is None for one that was brought in."""

    folder: Path
    run: Run | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def key(self) -> str:
        """Its name in pickers and links."""
        return f"{self.run.id}/{self.name}" if self.run else f"imported/{self.name}"

    def config(self) -> dict[str, Any]:
        """The content of its adapter_config.json. Raises LabError if it cannot be read."""
        return peft_folder.read_config(self.folder)

    def layers(self) -> dict[str, dict[str, np.ndarray]]:
        """{layer: {parameter: float64 array}}; for LoRA lora_A (r, I) and lora_B (O, r). Raises LabError if it cannot be read."""
        return _doubles(peft_folder.read(self.folder, finite=False))


def _doubles(saved: peft_folder.SavedAdapter) -> dict[str, dict[str, np.ndarray]]:
    return {layer: {name: array.astype(np.float64) for name, array in own.items()} for layer, own in saved.layers().items()}


def experts(runs: Iterable[Run], library: str | Path | None = None) -> list[SavedExpert]:
    """All experts of these runs, then those brought into the folder of runs `library`."""
    of_runs = [SavedExpert(folder, run) for run in runs for folder in peft_folder.folders_in(run.dir / "experts")]
    return of_runs + [SavedExpert(folder) for folder in peft_folder.folders_in(peft_folder.library(library))]


def describe(expert: SavedExpert) -> dict[str, Any]:
    """One row of a table: key, expert, run, kind, rank, parameters, norm, learned, now, kept, bytes; `problem` if damaged."""
    row: dict[str, Any] = {"key": expert.key, "expert": expert.name, "run": expert.run.id if expert.run else "(imported)"}
    try:
        saved = peft_folder.read(expert.folder, finite=False)
        config, layers, kind = saved.config, _doubles(saved), saved.kind.lower()
        count = sum(tensor.size for layer in layers.values() for tensor in layer.values())
        row |= {"kind": kind, "rank": config.get("r"), "parameters": count, "norm": norm(layers, peft_folder.scale(config))}
        row |= {"bytes": (expert.folder / peft_folder.WEIGHTS).stat().st_size} | retained(expert)
    except (LabError, OSError) as error:
        row |= {"kind": "damaged", "problem": str(error)}
    return row


def retained(expert: SavedExpert) -> dict[str, float]:
    """Score of the expert's own task when it was learned and now, and the part that is left; NaN where it has no task."""
    unknown = {"learned": math.nan, "now": math.nan, "kept": math.nan}
    if expert.run is None or not len(expert.run.matrix) or expert.name not in expert.run.tasks:
        return unknown
    r, task = expert.run.matrix, expert.run.tasks.index(expert.name)
    if task >= len(r):
        return unknown
    first, last = float(r[task, task]), float(r[-1, task])
    return {"learned": first, "now": last, "kept": last / first if first else math.nan}


def norm(layers: dict[str, dict[str, np.ndarray]], scale: float = 1.0) -> float:
    """Frobenius norm of the update of all layers together; for kinds other than LoRA, of the parameters.

    For LoRA ||s B A||_F^2 = s^2 tr((B^T B)(A A^T)), so no (O, I) matrix is made.
    """
    total = 0.0
    for layer in layers.values():
        if {"lora_A", "lora_B"} <= set(layer):
            a, b = layer["lora_A"], layer["lora_B"]
            total += scale * scale * float(np.sum((b.T @ b) * (a @ a.T)))
        else:
            total += sum(float(np.sum(tensor**2)) for tensor in layer.values())
    return math.sqrt(total)


# -- subspaces -------------------------------------------------------------------------------------------------------------


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles in radians between the column spaces of a (n, p) and b (n, q), largest first: min(rank a, rank b) of them.

    cos theta_i are the singular values of Q_a^T Q_b with orthonormal bases Q_a, Q_b (Bjorck and Golub 1973).
    """
    cosines = np.linalg.svd(basis(a).T @ basis(b), compute_uv=False)
    return np.arccos(np.clip(cosines, 0.0, 1.0))[::-1]


def basis(a: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the column space, directions of numerical zero left out: (n, rank)."""
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    return u[:, s > s.max(initial=0.0) * max(a.shape) * np.finfo(float).eps]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of cos^2 over the principal angles of two spaces given by orthonormal bases (n, p) and (n, q); NaN if one is empty.

    This is phi = ||Q_a^T Q_b||_F^2 / min(p, q), in [0, 1] (Hu et al. 2021, section 7.2); two random spaces of dimension r in
    n dimensions have r / n on average.
    """
    count = min(first.shape[1], second.shape[1])
    return float(np.sum((first.T @ second) ** 2)) / count if count else math.nan


def similarity(chosen: Sequence[SavedExpert], side: str = "output") -> pd.DataFrame:
    """Overlap of every pair of LoRA experts, mean over the layers both adapt: (K, K), symmetric; NaN where none compare, as of
    experts whose training has failed.

    `side` "output" compares where the updates write (columns of B), "input" what they read (rows of A).
    """
    spaces = [_spaces(expert.layers(), side) for expert in chosen]
    names = [expert.key for expert in chosen]
    table = np.full((len(chosen), len(chosen)), np.nan)
    for i in range(len(chosen)):
        for j in range(i, len(chosen)):
            table[i, j] = table[j, i] = _pair(spaces[i], spaces[j])
    return pd.DataFrame(table, index=pd.Index(names, name="expert"), columns=pd.Index(names, name="with"))


def _spaces(layers: dict[str, dict[str, np.ndarray]], side: str) -> dict[str, np.ndarray]:
    """Orthonormal basis of what a LoRA expert writes (or reads) in each layer of finite numbers."""
    lora = {name: layer for name, layer in layers.items() if {"lora_A", "lora_B"} <= set(layer)}
    factors = {name: layer["lora_B"] if side == "output" else layer["lora_A"].T for name, layer in lora.items()}
    return {name: basis(factor) for name, factor in factors.items() if np.isfinite(factor).all()}


def _pair(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Mean overlap over the layers of equal width that both adapt, perhaps of one backbone in different models."""
    names = peft_format.aligned(second, first)
    second = {names[name]: space for name, space in second.items()}
    both = [name for name in first if name in second and len(first[name]) == len(second[name])]
    overlaps = [value for name in both if not math.isnan(value := overlap(first[name], second[name]))]
    return float(np.mean(overlaps)) if overlaps else math.nan


def alignment(layers: dict[str, dict[str, np.ndarray]], chosen: Sequence[SavedExpert]) -> pd.DataFrame:
    """Cosine between the update of a LoRA given by its factors and that of each expert: (layers + 1, K), the last row over all.

    1: it does there what this expert does; -1: the opposite; 0: something else. NaN where an update is zero or a layer is not
    adapted. From the factors, <B A, B' A'> = sum((B^T B') * (A A'^T)), so that no (O, I) matrix is made.
    """

    def product(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> float:
        return float(np.sum((x["lora_B"].T @ y["lora_B"]) * (x["lora_A"] @ y["lora_A"].T)))

    columns = {}
    for expert in chosen:
        theirs = expert.layers()  # its scale is the same everywhere: a cosine knows no more of it than its sign
        names = peft_format.aligned(theirs, layers)
        other = {names[name]: own for name, own in theirs.items()}
        products = [
            (product(own, other[name]), product(own, own), product(other[name], other[name])) if name in other else (np.nan,) * 3
            for name, own in layers.items()
        ]
        rows = np.vstack([products, np.nansum(products, axis=0)])  # (layers + 1, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns[expert.key] = rows[:, 0] / np.sqrt(rows[:, 1] * rows[:, 2])
    return pd.DataFrame(columns, pd.Index([*layers, "all layers"], name="layer"))


# -- taking along and bringing in ------------------------------------------------------------------------------------------


def card(expert: SavedExpert) -> str:
    """A model card: what the expert was trained on, how well it did, and how to load it."""
    if expert.run is None and (expert.folder / peft_folder.CARD).is_file():  # of a composed expert: it says of what
        with documents.opened(expert.folder / peft_folder.CARD) as file:
            return file.read().decode(errors="replace")
    config, row = expert.config(), describe(expert)
    lines = []
    if expert.run:
        run = expert.run
        labels = dict(zip(run.tasks, run.recorded_scores.get("labels", []), strict=False)).get(expert.name)
        lines += [
            f"An expert of run `{run.id}`: recipe `{run.config['recipe']}`, stream `{run.config['stream']['name']}`, "
            f"scenario `{run.config['scenario']}`, seed {run.config['seed']}.",
            "",
            f"* Task: {expert.name}" + (f", labels {', '.join(labels)}" if labels else ""),
        ]
        if not math.isnan(row["learned"]):
            lines += [f"* Test score in its run: {row['learned']:.3f} when it was learned, {row['now']:.3f} at the end"]
        lines += ["* The score is that of the whole run, with its router and classifier, which are not part of this folder"]
    lines += [
        f"* Kind: {row['kind']}, rank {row['rank']}, {row['parameters']:,} parameters, norm of the update {row['norm']:.3g}",
        "* Licence: that of its base model and of its training texts",
    ]
    if peft_folder.in_peft(config):
        base = peft_folder.base_of(config)
        load = f"model = PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)  # BASE: {base}"
        imports = ["from peft import PeftModel", "from transformers import AutoModel", ""]
        lines += ["", "```python", *imports, load, "```"]
    return peft_folder.card(expert.name, config, *lines)


def packed(expert: SavedExpert) -> bytes:
    """The expert with its card as a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (peft_folder.CONFIG, peft_folder.WEIGHTS):
            archive.writestr(f"{expert.name}/{name}", (expert.folder / name).read_bytes())
        archive.writestr(f"{expert.name}/{peft_folder.CARD}", card(expert))
    return buffer.getvalue()


def place(name: str, runs: str | Path | None = None) -> Path:
    """The folder for a new expert of the library. Raises LabError for a name that is taken or cannot be one."""
    jobs.refuse_read_only()
    if not ID.fullmatch(name):
        raise LabError(f"'{name}' cannot name an expert: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit")
    folder = peft_folder.library(runs) / name
    if folder.exists():
        raise LabError(f"the library has an expert called '{name}' already: choose another name")
    return folder


def import_expert(content: bytes, name: str, runs: str | Path | None = None) -> SavedExpert:
    """Unpack a zip of a peft folder into the library. Raises LabError for what cannot be read, and leaves nothing then.

    Only the two files of an adapter are taken, by their names; links, paths out of the folder and pickles are refused.
    """
    folder = place(name, runs)
    parts = _adapter_files(content)
    try:
        for part, data in parts.items():
            atomic_io.replace_bytes(folder / part, data)
        saved = peft_folder.read(folder)
        if not peft_folder.in_peft(saved.config):
            raise LabError(
                f"{peft_folder.CONFIG} says peft_type None: only experts in peft's format can be brought in, "
                f"{' and '.join(peft_format.KINDS)}"
            )
        for note in saved.notes:
            warnings.warn(f"{name}: {note}", Notice, stacklevel=2)
    except BaseException:  # Ctrl-C too
        remove(folder)
        raise
    return SavedExpert(folder)


def _adapter_files(content: bytes) -> dict[str, bytes]:
    """The files of an adapter in a zip archive, by their names."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise LabError("this file is no zip archive: pack the adapter's folder as a zip") from error
    members = archive.infolist()
    for member in members:
        path = Path(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise LabError(f"the archive holds a path that leads out of it: {member.filename}")
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise LabError(f"the archive holds a link: {member.filename}")
        if path.suffix in PICKLES:
            raise LabError(f"{member.filename} is a pickle, which can run code: save the adapter as {peft_folder.WEIGHTS}")
    if sum(member.file_size for member in members) > UNPACKED:
        raise LabError(f"the archive unpacks to more than {UNPACKED / 1e6:.0f} MB")
    parts = {}
    for part in (peft_folder.CONFIG, peft_folder.WEIGHTS):
        places = [member for member in members if Path(member.filename).name == part]
        if len(places) != 1:
            raise LabError(f"the archive holds {len(places)} files called {part}: it must be one adapter's folder")
        try:
            parts[part] = archive.read(places[0])
        except TORN as error:
            raise LabError(f"{part} cannot be taken out of the archive ({error}): pack it anew, without a password") from error
    return parts
