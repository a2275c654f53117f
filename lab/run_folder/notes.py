"""What people write about a run, in `notes.json`: a name, a note, tags, a star, whether it is archived.

It may change at any time, after the run has ended too: no number, address or digest depends on it.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lab.core.errors import LabError

FILE = "notes.json"
EMPTY: dict[str, Any] = {"name": "", "text": "", "tags": [], "starred": False, "archived": False}
NAME, TEXT, TAGS, TAG = 80, 20_000, 20, 40  # most characters of a name and of a note, tags, characters of a tag
AUTOMATIC = re.compile(r"\d{8}-\d{6}-.+|.+-s\d+-[0-9a-f]{8,}")  # ids that the lab chose: of single runs, of cells of a grid


def read(content: Mapping[str, Any]) -> dict[str, Any]:
    """All fields from the content of the file; what is missing or of another type is as nobody had written it."""
    return {name: content[name] if isinstance(content.get(name), type(empty)) else empty for name, empty in EMPTY.items()}


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they are written, a name without spaces around it; LabError for what does not fit."""
    for name, value in fields.items():
        if name not in EMPTY or not isinstance(value, type(EMPTY[name])):
            raise LabError(f"{name} = {value!r} cannot be noted about a run: there are {', '.join(EMPTY)}")
    text, tags = fields.get("text", ""), fields.get("tags", [])
    if len(text) > TEXT:
        raise LabError(f"a note has at most {TEXT:,} characters, this one {len(text):,}")
    if len(tags) > TAGS or not all(isinstance(tag, str) and 0 < len(tag) <= TAG for tag in tags):
        raise LabError(f"a run has at most {TAGS} tags of 1 to {TAG} characters")
    try:
        "".join([text, *tags]).encode()
    except UnicodeEncodeError as error:
        raise LabError(f"a note cannot hold half of a character: {error.object[error.start : error.end]!r}") from error
    return {**fields, **({"name": checked_name(fields["name"])} if "name" in fields else {})}


def checked_name(name: str) -> str:
    """The name of a run without spaces around it; LabError unless it is one line of at most `NAME` characters."""
    name = name.strip()
    if len(name) > NAME:
        raise LabError(f"a run's name has at most {NAME} characters, this one {len(name):,}: shorten it")
    if not name.isprintable():  # line breaks, control characters, marks that turn the writing direction, halves of characters
        raise LabError(f"{name!r} cannot be the name of a run: leave out what is not printed, such as line breaks")
    return name


def title(id: str, name: str, config: Mapping[str, Any], created: str | None) -> str:
    """What a run is called on screens: its name, else its id, unless the lab chose that: then recipe, stream, seed and time."""
    if name or not AUTOMATIC.fullmatch(id):
        return name or id
    when = f", {datetime.fromisoformat(created).astimezone():%d %b %H:%M}" if created else ""
    return f"{config['recipe']}, {config['stream']['name']}, seed {config['seed']}{when}"
