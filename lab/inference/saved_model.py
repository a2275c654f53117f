"""A model in a folder of its own, which needs no run.

    model.json (configuration, tasks, labels, backbone)   experts/<name>/ (in peft's format where the kind has one)
    router.safetensors   classifier.safetensors   README.md (the model card)   manifest.json (SHA-256 of all others)

The folder appears whole or not at all, and is read only if every file is as it was written.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from lab.core import atomic_io, documents
from lab.core.errors import LabError
from lab.inference import card
from lab.inference.origin import Origin
from lab.models.learner import Learner, load_routing_state, routing_state

MODEL, MANIFEST, CARD = "model.json", "manifest.json", "README.md"
CLASSIFIER, ROUTER, EXPERTS = "classifier.safetensors", "router.safetensors", "experts"
FORMAT = 1
LARGEST = 1 << 40  # bytes of a file


def is_saved(folder: Path) -> bool:
    """Whether a folder looks as if a model was saved in it, whole or not."""
    return (folder / MODEL).is_file() or ((folder / MANIFEST).is_file() and not (folder / "run.json").is_file())


# -- writing ---------------------------------------------------------------------------------------------------------------


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `folder` at the end of the block; nothing is left if the block fails.

    Raises LabError if `folder` is there and not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabError(f"{folder} exists already and is not empty: name a new folder")
    growing = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        growing.mkdir(parents=True)
        yield growing
        os.replace(growing, folder)
    except OSError as error:
        raise LabError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def write(folder: Path, learner: Learner, origin: Origin) -> None:
    """Save the model that `learner` holds. Raises LabError as `new_folder` does."""
    origin = origin.on(learner)
    base = learner.backbone.base
    name = learner.backbone.hub_id or base.name
    with new_folder(folder) as growing:
        for k, expert in enumerate(learner.bank.names):
            learner.bank.export(k, growing / EXPERTS / expert, name, base.digest, learner.backbone.commit)
        atomic_io.write_arrays(growing / CLASSIFIER, _arrays(dict(learner.head.classifier.named_parameters())))
        atomic_io.write_arrays(growing / ROUTER, _arrays(routing_state(learner)))
        about = {"name": name, "revision": learner.backbone.commit, "sha256": learner.backbone.identity}
        atomic_io.write_json(growing / MODEL, {"format": FORMAT, "backbone": about} | {"origin": origin.values})
        atomic_io.replace_bytes(growing / CARD, card.of_model(learner, origin).encode())
        files = sorted(path for path in growing.rglob("*") if path.is_file())
        digests = {path.relative_to(growing).as_posix(): atomic_io.sha256(path) for path in files}
        atomic_io.write_json(growing / MANIFEST, digests)


def _arrays(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


# -- reading ---------------------------------------------------------------------------------------------------------------


def verify(folder: Path) -> None:
    """Compare every file with the manifest. Raises LabError that names the file that is missing or was changed."""
    digests = _json(folder, MANIFEST)
    for name, digest in digests.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise LabError(f"the model in {folder} is damaged: {MANIFEST} names {name}, which is no file of it")
        if atomic_io.sha256(_regular(folder, name)) != digest:
            raise LabError(f"the model in {folder} is damaged: {name} is not as it was saved (its SHA-256 differs)")
    unlisted = {MODEL, CLASSIFIER, ROUTER} - digests.keys()
    if unlisted:
        raise LabError(f"the model in {folder} is damaged: {MANIFEST} does not name {sorted(unlisted)[0]}")


def read(folder: Path, device: str | None, backbone: str | None) -> tuple[Learner, Origin]:
    """The saved model and what it is. Raises LabError for what is missing, changed or of a newer version, or another backbone."""
    verify(folder)
    content = _json(folder, MODEL)
    if content.get("format") != FORMAT:
        raise LabError(f"the model in {folder} is of format {content.get('format')}, this version of the lab reads {FORMAT}")
    try:
        origin = Origin.read(content["origin"])
        learner = origin.learner(device, backbone)
        for k, name in enumerate(learner.bank.names):
            learner.bank.load_expert(k, learner.bank.read(folder / EXPERTS / name))
        learner.head.classifier.load_state_dict(load_file(folder / CLASSIFIER))
        load_routing_state(learner, load_file(folder / ROUTER))
    except (KeyError, TypeError, ValueError, OSError, SafetensorError, RuntimeError) as error:
        raise LabError(f"the model in {folder} cannot be read: {str(error).splitlines()[0]}") from error
    learner.head.longest = origin.longest or learner.head.longest
    learner.requires_grad_(False)
    return learner, origin


def _regular(folder: Path, name: str) -> Path:
    try:
        return documents.regular(folder / name, LARGEST)  # a link is fine: the cache of the hub is made of them
    except FileNotFoundError:
        raise LabError(f"the model in {folder} is damaged: {name} is missing") from None
    except LabError as error:
        raise LabError(f"the model in {folder} is damaged: {name} {error}") from None


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = documents.json_value(_regular(folder, name).read_bytes())
    except ValueError as error:
        raise LabError(f"the model in {folder} is damaged: {name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise LabError(f"the model in {folder} is damaged: {name} holds no JSON object")
    return content


# -- the hub ---------------------------------------------------------------------------------------------------------------


def push(folder: Path, repo_id: str, private: bool | None, token: str | None, message: str) -> str:
    """Upload a folder as a repository of models, which is made if there is none; returns its address.

    Raises LabError where the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    client = HfApi(token=token)
    try:
        repository = client.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        client.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise LabError(f"'{repo_id}' cannot be written on the hub: {reason}; log in (hf auth login) or give token") from error
    return str(repository)
