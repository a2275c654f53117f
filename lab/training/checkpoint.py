"""Saved state of a session: one safetensors file and a manifest that names it, replaced atomically. No pickle.

Experts whose task is done are not in it: they stand in the run folder under `experts/` and never change; the manifest holds
their SHA-256 too.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.adapters.peft_folder import WEIGHTS
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.models.learner import routing_state
from lab.training.optimisation import moments
from lab.training.trainer import Cursor, Session

FORMAT = 1


def save(session: Session, folder: Path, experts: Path, **extra: Any) -> None:
    """Save everything that `restore` needs; `extra` plain values are kept beside it."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in _state(session).items()}
    before = _manifest(folder) if (folder / "manifest.json").exists() else {"number": -1, "experts": {}}
    path = folder / f"{before['number'] + 1}.safetensors"
    atomic_io.write_arrays(path, tensors)
    done = [name for k, name in enumerate(session.learner.bank.names) if not session.protocol.is_trainable(session, k)]
    atomic_io.write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "number": before["number"] + 1,
            "sha256": {path.name: atomic_io.sha256(path)},
            "experts": {name: before["experts"].get(name) or atomic_io.sha256(experts / name / WEIGHTS) for name in done},
            "cursor": asdict(session.cursor),
            "scores": asdict(session.scores),
            **extra,
        },
    )
    for old in folder.glob("*.safetensors"):
        if old != path:
            old.unlink()


def _manifest(folder: Path) -> dict[str, Any]:
    import json

    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"there is no state to go on from in {folder}: {error}; start the run again") from error
    if manifest["format"] != FORMAT:
        raise LabError(f"the state in {folder} has format {manifest['format']}, this version reads {FORMAT}")
    return manifest


def restore(session: Session, folder: Path, experts: Path) -> dict[str, Any]:
    """Bring a fresh session to the saved moment and return the manifest; LabError if a file is missing or was changed."""
    manifest = _manifest(folder)
    (state,) = (folder / name for name in manifest["sha256"])
    digests = {state: manifest["sha256"][state.name]}
    digests |= {experts / name / WEIGHTS: digest for name, digest in manifest["experts"].items()}
    for path, digest in digests.items():
        if not path.is_file() or atomic_io.sha256(path) != digest:
            raise LabError(f"the saved state {path} is missing or damaged (its SHA-256 differs): start the run again")
    arrays, _ = atomic_io.read_arrays(state)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    session.cursor, session.scores = Cursor(**manifest["cursor"]), type(session.scores)(**manifest["scores"])
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
    return manifest


def _state(session: Session) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name."""
    learner, state = session.learner, dict[str, Tensor](_small(session))
    for k in range(len(learner.bank)):
        if session.protocol.is_trainable(session, k):
            state |= {f"expert{k}.{name}": p for name, p in learner.bank.expert(k).items()}
    for name, kept in session.carried.items():
        state |= {f"{name}/{own}": tensor for own, tensor in kept.items()}
    for method in session.methods:
        state |= {f"method.{method.name}/{name}": tensor for name, tensor in method.state().items()}
    return state | moments(session.optimizer)


def _small(session: Session) -> dict[str, Tensor]:
    """Router and classifier."""
    learner = session.learner
    router: dict[str, Tensor] = {f"router/{name}": tensor for name, tensor in routing_state(learner).items()}
    return router | {f"classifier/{name}": p for name, p in learner.head.classifier.named_parameters()}
