"""Saved states of a session: the newest two, each a verified set of tensors.safetensors and session.json. No pickle.

Files of the run folder that are final (experts whose task is done, predictions, routing) are not in it: the state names them with
their SHA-256, and the folder of states holds a second copy of each, so that one that is damaged is mended. events.jsonl has a
second copy too, up to the newest state.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load
from torch import Tensor

from lab.core import atomic_io, verified_files
from lab.core.errors import LabError, RunFailed
from lab.core.verified_files import Damaged
from lab.methods.base import state_of
from lab.models.learner import routing_state
from lab.routers.base import loose_tensors
from lab.training.optimisation import moments
from lab.training.stage import Training
from lab.training.trainer import Cursor, Session

FORMAT = 2  # of session.json; raised when an old reader would misread a new state
TENSORS, STATE = "tensors.safetensors", "session.json"
KEPT = 2  # states that are kept
CONFIGURATION = "config.yaml"  # a person may have changed it since: it is mended only where it cannot be read


class Saved(NamedTuple):
    """A state as it was read: plain values (cursor, scores, what is final, the length of the log) and arrays by name."""

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """The saved states of a run folder, and second copies of its final files and its log."""

    def __init__(self, run: Path):
        self.run, self.folder, self.copies = run, run / "checkpoint", run / "checkpoint" / "copies"
        self.log = EventLog(run / "events.jsonl", self.folder / "events.jsonl")
        self.final: dict[str, str] = {}  # SHA-256 of final files by their path within the run folder

    def save(self, session: Session, **beside: Any) -> None:
        """Save everything that `restore` needs, and plain values beside it; only then older states are removed.

        Raises RunFailed for parameters that are not finite: no such state is saved.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in _state(session).items()}
        if name := _not_finite(arrays):
            raise RunFailed(_advice(session, name))
        values = {
            "format": FORMAT,
            "cursor": asdict(session.cursor),
            "scores": asdict(session.scores),
            "final": self.final,
            "events": self.log.catch_up(),
            **beside,
        }
        content = json.dumps(values, indent=1, ensure_ascii=False).encode()
        older = [*_numbered(self.folder)]
        number = int(older[0].name) + 1 if older else 0
        verified_files.write(self.folder / str(number), {TENSORS: atomic_io.array_bytes(arrays), STATE: content})
        for folder in older[KEPT - 1 :]:
            verified_files.remove(folder)
        _remove_former(self.folder)

    def keep(self, *paths: Path) -> None:
        """From now on these files are final: a second copy is kept of each, and states name them."""
        for path in paths:
            self.final[path.relative_to(self.run).as_posix()] = verified_files.copy(path, self.copies)

    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest state that is whole, if there is one, with all that it names; and what was found damaged, in sentences.

        Damaged states are set aside, damaged files are mended, and the log is cut to what the state knows. Raises LabError for a
        state of a newer version.
        """
        notes: list[str] = []
        for path in _paths(self.folder):
            try:
                saved = read(path)
                final = {name: digest for name, digest in saved.values["final"].items() if name != CONFIGURATION}
                mended = self._mended(final)
            except Damaged as reason:
                aside = verified_files.set_aside(path, str(reason))
                notes.append(f"a checkpoint is damaged ({reason}): it was set aside as {aside.name}")
                continue
            self.final = final
            lost = self.log.cut(**saved.values["events"])
            return saved, notes + mended + lost
        return None, notes

    def mend(self) -> list[str]:
        """Restores final files that are missing or damaged; returns which, in sentences. Raises RunFailed if one is lost."""
        try:
            return self._mended(self.final)
        except Damaged as reason:
            raise self.spoiled(str(reason)) from reason

    def spoiled(self, reason: str) -> RunFailed:
        """Sets every state aside, so that the run begins anew when it is resumed; returns the error that says so."""
        for path in _paths(self.folder):
            verified_files.set_aside(path, reason)
        return RunFailed(f"the run folder is not whole: {reason}; lab resume begins it anew")

    def seal(self, *names: str) -> None:
        """Write the manifest of a run that is done: its final files and, as they are now, those of these names."""
        now = {name: atomic_io.sha256(self.run / name) for name in names}
        atomic_io.write_json(self.run / verified_files.MANIFEST, self.final | now)

    def _mended(self, final: dict[str, str]) -> list[str]:
        notes = []
        for name, digest in final.items():
            try:
                if verified_files.mend(self.run / name, digest, self.copies):
                    notes.append(f"{name} was missing or damaged: it was restored from its second copy")
            except Damaged as reason:
                raise Damaged(f"{name}: {reason}, and so is its second copy") from reason
        return notes


class EventLog:
    """events.jsonl, and its second copy up to the newest state."""

    def __init__(self, path: Path, copy: Path):
        self.path, self.copy, self.size, self.hash = path, copy, 0, hashlib.sha256()

    def catch_up(self) -> dict[str, Any]:
        """Bring the second copy up to date; returns the length and the SHA-256 of the log, the arguments of `cut`."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self.size:  # somebody removed it, or a part of it
            before, left = self.copy.read_bytes(), self.path.read_bytes() if size else b""
            atomic_io.replace_bytes(self.path, before if before.startswith(left) else before + left)
        if self.path.exists():
            with open(self.path, "rb") as log:
                log.seek(self.size)
                new = log.read()
            self.copy.parent.mkdir(parents=True, exist_ok=True)
            with open(self.copy, "ab") as copy:
                copy.write(new)
            self.size += len(new)
            self.hash.update(new)
        return {"size": self.size, "digest": self.hash.hexdigest()}

    def cut(self, size: int, digest: str | None) -> list[str]:
        """Cut both to what a state knows: what came later happens again. Returns what was lost, in a sentence.

        Of a log that is damaged in both places, the lines that can be read are left. `digest`: None where it is not known.
        """
        starts = [path.read_bytes()[:size] if path.is_file() else b"" for path in (self.path, self.copy)]
        whole = [start for start in starts if len(start) == size and digest in (None, hashlib.sha256(start).hexdigest())]
        data = whole[0] if whole else b"".join(line for line in max(starts, key=len).splitlines(True) if _is_event(line))
        for path in (self.path, self.copy):
            atomic_io.replace_bytes(path, data)
        self.size, self.hash = len(data), hashlib.sha256(data)
        if not whole:
            return ["events.jsonl is damaged and so is its second copy: lines that cannot be read were left out"]
        return [] if starts[0] == data else ["events.jsonl was missing or damaged: it was restored from its second copy"]


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# -- reading ---------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Saved:
    """A state from its folder, or from the manifest of format 1. Raises Damaged, and LabError for one of a newer version."""
    if path.is_file():
        return _read_former(path)
    content = verified_files.read(path)
    try:
        values = json.loads(content[STATE])
        newer = values["format"] > FORMAT
        saved = Saved(values, load(content[TENSORS]))
    except (KeyError, ValueError, TypeError, RecursionError, atomic_io.UnreadableArrays) as error:
        raise Damaged(f"it holds no state: {error}") from error
    if newer:
        raise LabError(f"the state in {path} was written by a newer version (format {values['format']}, this one reads {FORMAT})")
    if name := _not_finite(saved.arrays):
        raise Damaged(f"{name} is not finite")
    return saved


def newest_whole(run: Path) -> Saved | None:
    """The newest state of a run folder that is whole; nothing is changed."""
    for path in _paths(run / "checkpoint"):
        with suppress(Damaged):
            return read(path)
    return None


def _paths(folder: Path) -> Iterator[Path]:
    """Where states may be, the newest first."""
    yield from _numbered(folder)
    if (folder / FORMER).is_file():
        yield folder / FORMER


def _numbered(folder: Path) -> list[Path]:
    """The folders of states, the newest first."""
    named = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()] if folder.is_dir() else []
    return sorted(named, key=lambda path: int(path.name), reverse=True)


def _advice(session: Session, name: str) -> str:
    stage = session.stage
    assert stage is not None  # nothing is saved before the first one
    option = f": lower {stage.rate}" if isinstance(stage, Training) else ""
    return f"{name} is not finite after training on task '{session.task_names[stage.task]}' (phase {stage.phase}){option}"


def _not_finite(arrays: dict[str, np.ndarray]) -> str | None:
    """The name of an array that holds what training cannot go on from; only what methods keep may be infinite (derpp)."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.any(np.isnan(array) if name.startswith("method.") else ~np.isfinite(array)):
            return name
    return None


# -- format 1, one state: a manifest and the one file of tensors that it names ---------------------------------------------

FORMER = "manifest.json"


def _read_former(path: Path) -> Saved:
    try:
        manifest = json.loads(path.read_bytes())
        ((name, digest),) = manifest["sha256"].items()
        arrays = load(verified_files.content(path.parent / name, digest))
        final = {f"experts/{expert}/adapter_model.safetensors": own for expert, own in manifest["experts"].items()}
        log = {"size": manifest["events_bytes"], "digest": None}
        saved = Saved({"cursor": manifest["cursor"], "scores": manifest["scores"], "final": final, "events": log}, arrays)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, atomic_io.UnreadableArrays) as error:
        raise Damaged(f"{FORMER} cannot be read") from error
    if name := _not_finite(arrays):
        raise Damaged(f"{name} is not finite")
    return saved


def _remove_former(folder: Path) -> None:
    for path in (folder / FORMER, *folder.glob("*.safetensors")):
        path.unlink(missing_ok=True)


# -- between a session and a state -----------------------------------------------------------------------------------------


def restore(session: Session, saved: Saved, experts: Path, changed: bool = False) -> None:
    """Bring a fresh session to a saved moment; `experts`: the folder of those whose training was done by then.

    `changed`: the session's settings are not those of the state. Raises LabError where the state does not fit them.
    """
    if saved.values["scores"]["tasks"] != session.scores.tasks:
        before, here = (", ".join(tasks) for tasks in (saved.values["scores"]["tasks"], session.scores.tasks))
        raise LabError(f"a run keeps its tasks and their order, it has begun with {before}, not with {here}: start a new run")
    try:
        _restore(session, saved, experts)
    except (KeyError, RuntimeError, ValueError, TypeError, LabError) as error:
        if not changed:
            raise
        reason = str(error).strip().split("\n")[0]
        raise LabError(f"the saved state does not fit the changes ({reason}): undo them, or start a new run") from error


def _restore(session: Session, saved: Saved, experts: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in saved.arrays.items()}
    cursor, scores = saved.values["cursor"], saved.values["scores"]
    session.cursor, session.scores = Cursor(**cursor), type(session.scores)(**scores)
    session.protocol.rebuild(session)
    learner = session.learner
    for k in range(len(learner.bank)):
        changing = {name: tensors.pop(f"expert{k}.{name}") for name in learner.bank.expert(k) if f"expert{k}.{name}" in tensors}
        learner.bank.load_expert(k, changing or learner.bank.read(experts / learner.bank.names[k]))
        learner.bank.trainable(k, False)
    with torch.no_grad():
        for name, parameter in _small(session).items():
            parameter.copy_(tensors.pop(name))

    def of(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}

    for method in session.methods:
        method.load_state(of(f"method.{method.name}/"))
    for name, kept in session.carried.items():
        kept.update({own: tensor.to(learner.backbone.device) for own, tensor in of(f"{name}/").items()})
    session.saved_moments = {name: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")}


def _state(session: Session) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name. Raises RunFailed for what a router or consolidation keeps beside its state."""
    for part in (session.learner.router, session.learner.consolidation):
        if names := loose_tensors(part):
            raise RunFailed(
                f"{part.kind} '{part.name}' keeps the tensor '{names[0]}' outside of its state, a resumed run would lack it: "
                "use register_buffer or nn.Parameter, and a name that begins with _ for what is computed anew"
            )
    learner, state = session.learner, dict[str, Tensor](_small(session))
    for k in range(len(learner.bank)):
        if session.protocol.is_trainable(session, k):
            state |= {f"expert{k}.{name}": p for name, p in learner.bank.expert(k).items()}
    for name, kept in session.carried.items():
        state |= {f"{name}/{own}": tensor for own, tensor in kept.items()}
    for method in session.methods:
        state |= {f"method.{method.name}/{name}": tensor for name, tensor in state_of(method).items()}
    return state | moments(session.optimizer)


def _small(session: Session) -> dict[str, Tensor]:
    """Router and classifier."""
    learner = session.learner
    router: dict[str, Tensor] = {f"router/{name}": tensor for name, tensor in routing_state(learner).items()}
    return router | {f"classifier/{name}": p for name, p in learner.head.classifier.named_parameters()}
