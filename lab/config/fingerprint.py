"""Content addresses of settings: SHA-256 over what differs from the defaults.

An option that is added with a default changes no address, because settings that leave it alone do not mention it. A default that
changes would go unnoticed for the same reason: raise `VERSION` with it, so that what was computed before has another address.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from lab.core.registry import Options

VERSION = 2  # of the defaults of all options, those of plug-ins too


def differing(settings: BaseModel) -> dict[str, Any]:
    """The fields that are not at their defaults, as plain nested values; options of a plug-in always keep its name."""
    fields: dict[str, Any] = {"name": settings.name} if isinstance(settings, Options) else {}
    for name, field in type(settings).model_fields.items():
        value = _plain(getattr(settings, name))
        if value != _plain(field.get_default(call_default_factory=True)):
            fields[name] = value
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return differing(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def address(content: Mapping[str, Any]) -> str:
    """64 hexadecimal digits for plain values, whatever the order of their keys, and for the version of the defaults."""
    text = json.dumps({"defaults": VERSION, "content": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
