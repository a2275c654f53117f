"""What readers of a run folder rely on in its files: fields by type. Whatever else stands there is left alone.

A field may be missing, as from a run that has not come so far or was made by an earlier version. One of another type is damage.
"""

from dataclasses import MISSING, fields
from datetime import datetime
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

from lab.run_folder import events

Score = float | None


class Fields(BaseModel):
    """Values of exactly these types, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, defer_build=True)


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


Moment = Annotated[str, AfterValidator(_with_zone)]


class Fingerprint(Fields):
    tasks: dict[str, str] = {}


class Change(Fields):
    what: str


class OwnPlugin(Fields):
    kind: str
    name: str
    origin: str
    sha256: str | None
    missing: list[str]


class Replay(Fields):
    run: str
    speed: float


class Info(Fields):
    """run.json"""

    format: int = 0
    status: str = ""
    created: Moment | None = None
    started: Moment | None = None
    ended: Moment | None = None
    error: str | None = None
    pid: int | None = None
    process_started: float | None = None
    waiting: float | None = None
    fingerprint: Fingerprint | None = None
    changes: list[Change] = []
    plugins: list[OwnPlugin] = []
    cost: dict[str, Any] | None = None
    uses: dict[str, Any] | None = None
    routing: dict[str, Any] | None = None
    why: dict[str, str] | None = {}
    replay: Replay | None = None


class Launch(Fields):
    """launch.json"""

    pid: int
    process_started: float


class Preparation(Fields):
    """preparing.json"""

    what: str
    done: int
    total: int
    began: float


class Scores(Fields):
    """matrix.json"""

    tasks: list[str] = []
    labels: list[list[str]] = []
    matrix: list[list[Score]] = []
    partial: list[Score] = []
    done: list[Score] = []
    zero_shot: list[float] | dict[str, Score] | None = None
    oracle: list[Score] | None = None
    validation: list[Score] | dict[str, dict[str, Score]] | None = None
    held_out: dict[str, dict[str, Score]] = {}
    trained: dict[str, Score] = {}


class Named(Fields):
    name: str


class StreamFields(Named):
    tasks: list[str] | str | None = None


class Config(Fields):
    """config.yaml"""

    recipe: str
    scenario: str = ""
    seed: int
    stream: StreamFields
    backbone: Named | None = None
    experts: Named | None = None
    router: Named | None = None
    methods: dict[str, Any] = {}


EXPECTED: dict[str, type[Fields]] = {
    "run.json": Info,
    "launch.json": Launch,
    "preparing.json": Preparation,
    "matrix.json": Scores,
    "config.yaml": Config,
}


def _fields_of(event: type[events.Event]) -> type[Fields]:
    """The fields of an event's line in events.jsonl."""
    types = get_type_hints(event) | {"terms": dict[str, Score]}  # tensors in the event, numbers on the line
    of_line = [field for field in fields(event) if not field.metadata]
    written: dict[str, Any] = {
        f.name: (types[f.name], ... if f.default is MISSING and f.default_factory is MISSING else None) for f in of_line
    }
    return create_model(event.__name__, __base__=Fields, **written)


LINES = {event.__name__: _fields_of(event) for event in events.Event.__subclasses__()}


def fault(name: str, content: dict[str, Any]) -> str:
    """The first field of a file's content that is not of the expected type, and why; empty if there is none."""
    if name not in EXPECTED or (name == "launch.json" and not content):
        return ""
    try:
        EXPECTED[name].model_validate(content)
    except ValidationError as error:
        first: Any = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return ""


def is_event(line: Any) -> bool:
    """Whether a line of events.jsonl is an event whose fields are of their types."""
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str) or not isinstance(line.get("time"), float | int):
        return False
    try:
        LINES.get(line["kind"], Fields).model_validate(line)
    except ValidationError:
        return False
    return True
