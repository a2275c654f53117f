"""What tells one backbone from another: digests of what its checkpoint holds and of what the lab computes with it.

Names of models are for people. A digest is made of the part of the configuration that changes what is computed, of the tokenizer,
and of the weights that take part, as they are after loading: neither the files they are spread over nor the precision they were
saved in count, the values do. A pooler takes no part and may have been drawn at random, so it is left out.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import GenerationConfig, PreTrainedModel

POOLER = "pooler."  # how the names of its weights begin in a model without a head
TRAINING_ONLY = re.compile(r"dropout|pdrop|layerdrop|^initializer|^use_cache$|^gradient_checkpointing$")
SET_BY_CALL = re.compile(r"^(_from_model_config|transformers_version|use_cache|output_.*|(pad|bos|decoder_start)_token_id)$")
STATE = ("truncation", "padding", "version")  # of a fast tokenizer's file: set anew at every call


def of_body(model: "PreTrainedModel", tokenizer: Any) -> str:
    """SHA-256 of what makes the hidden states: what an expert's layers belong to, whether the model writes or not."""
    digest = hashlib.sha256(_json(_computed(model.config.to_dict())))
    digest.update(_json(_tokenization(tokenizer)))
    weights = model.base_model.state_dict()
    _add(digest, ((name, tensor) for name, tensor in weights.items() if not name.startswith(POOLER)))
    return digest.hexdigest()


def of_writer(model: "PreTrainedModel", body: str) -> str:
    """SHA-256 of a model that writes: of its body, of the weights that make tokens of hidden states, and of how it decodes."""
    decoding = cast("GenerationConfig", model.generation_config).to_diff_dict()
    digest = hashlib.sha256(body.encode())
    digest.update(_json({name: value for name, value in decoding.items() if not SET_BY_CALL.match(name)}))
    own = {id(tensor) for tensor in model.base_model.state_dict(keep_vars=True).values()}
    _add(digest, ((name, tensor) for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in own))
    return digest.hexdigest()


def _add(digest: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in sorted(weights):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def _without(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, default=str).encode()


def _computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what every model has whatever it computes (names, versions) and what training alone reads."""
    from transformers import PreTrainedConfig

    common = PreTrainedConfig().to_dict().keys() - {"model_type", "is_encoder_decoder"}
    kept = {name: value for name, value in config.items() if name not in common and not TRAINING_ONLY.search(name)}
    return {name: _computed(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _tokenization(tokenizer: Any) -> Any:
    """What decides which tokens a text becomes."""
    if not hasattr(tokenizer, "get_vocab"):
        return type(tokenizer).__name__  # the tiny backbone's has no vocabulary
    calls = ("truncation_side", "model_input_names", "pad_token_id", "bos_token_id", "eos_token_id")
    content = {name: getattr(tokenizer, name) for name in calls}
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast:
        return content | _without(json.loads(fast.to_str()), *STATE)
    with TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder) if file]
        content |= {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    options = _without(tokenizer.init_kwargs, "is_local", "local_files_only", "model_max_length")  # of where it was loaded from
    switches = {name: value for name, value in options.items() if isinstance(value, bool | int)}
    return content | {"vocabulary": tokenizer.get_vocab(), "switches": switches}


def of_version_0_1(model: "PreTrainedModel", tokenizer: Any) -> str:
    """The digest that version 0.1 recorded: over all of the configuration and all weights, those drawn at loading too."""
    digest = hashlib.sha256(_json(_without(model.config.to_dict(), "_name_or_path", "transformers_version", "dtype")))
    if hasattr(tokenizer, "get_vocab"):
        fast = getattr(tokenizer, "backend_tokenizer", None)
        digest.update(fast.to_str().encode() if fast else _json(tokenizer.get_vocab()))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()
