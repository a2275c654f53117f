"""Run folders that are broken in every way, by accident or on purpose."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import yaml

from lab.core import atomic_io
from support.run_folders import write_run

DEEP = "[" * 100_000
OUTSIDE = "a secret that is no run"


def _text(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())  # type: ignore


def _field(name: str, *path: str, value: object) -> Callable[[Path], None]:
    """Replace one value of a JSON or YAML file."""

    def change(run: Path) -> None:
        text = (run / name).read_text()
        content = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
        inner = content
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        (run / name).write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))

    return change


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else where a file was."""

    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name)

    return change


def _socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may be no longer than 108 characters
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


def _link_out(path: Path) -> None:
    secret = path.parents[2] / "outside.txt"
    secret.write_text(OUTSIDE)
    path.symlink_to(secret)


# by a short name: how it is made, and a word of the reason that is given for it
KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (_instead("run.json", os.mkfifo), "no regular file"),
    "fifo-config": (_instead("config.yaml", os.mkfifo), "no regular file"),
    "fifo-scores": (_instead("matrix.json", os.mkfifo), "no regular file"),
    "folder": (_instead("run.json", Path.mkdir), "is a folder"),
    "socket": (_instead("run.json", _socket), "no regular file"),
    "link-out": (_instead("run.json", _link_out), "a link that leaves the folder of runs"),
    "link-device": (_instead("matrix.json", lambda path: path.symlink_to("/dev/zero")), "a link that leaves"),
    "link-loop": (_instead("run.json", lambda path: path.symlink_to("run.json")), "cannot be read"),
    "huge": (_instead("run.json", _sparse), "2,147,483,648 bytes"),
    "huge-config": (_instead("config.yaml", _sparse), "bytes"),
    "deep": (_text("run.json", DEEP), "nested deeper"),
    "deep-closed": (_text("matrix.json", DEEP + "]" * 100_000), "nested deeper"),
    "deep-config": (_text("config.yaml", DEEP[:50_000]), "nest"),
    "digits": (_text("run.json", f'{{"pid": {"9" * 5000}}}'), "5,000 digits"),
    "twice": (_text("run.json", '{"status": "finished", "status": "failed"}'), "stands there twice"),
    "nan": (_text("matrix.json", '{"matrix": [[NaN]]}'), "NaN is no number"),
    "infinite": (_text("matrix.json", '{"matrix": [[1e999]]}'), "too large"),
    "no-utf8": (_text("run.json", b'{"status": "\xff\xfe"}'), "cannot be read"),
    "surrogate": (_text("run.json", '{"error": "\\ud800"}'), "cannot be read"),
    "empty": (_text("run.json", ""), "cannot be read"),
    "bomb": (_text("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\n"), "anchors and aliases"),
    "no-config": (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
    "status": (_field("run.json", "status", value=["finished"]), "run.json: status"),
    "created": (_field("run.json", "created", value="yesterday"), "run.json: created"),
    "cost": (_field("run.json", "cost", value=3), "run.json: cost"),
    "tasks": (_field("matrix.json", "tasks", value="abc"), "matrix.json: tasks"),
    "matrix": (_field("matrix.json", "matrix", value=[["x"]]), "matrix.json: matrix.0.0"),
    "rows": (_field("matrix.json", "matrix", value=[[0.5]]), "a row that is not of"),
    "seed": (_field("config.yaml", "seed", value="0"), "config.yaml: seed"),
    "stream": (_field("config.yaml", "stream", value="builtin"), "config.yaml: stream"),
    "protocol": (_field("config.yaml", "protocol", value={"name": ["x"]}), "protocol"),
    "notes": (_text("notes.json", "[]"), "notes.json"),
}


def break_in_every_way(runs: Path, template: Path) -> dict[str, str]:
    """A run for each of KINDS, a copy of `template`; returns by its id a word of the reason that must be given for it."""
    words = {}
    for kind, (spoil, word) in KINDS.items():
        folder = runs / f"bad-{kind}"
        shutil.copytree(template, folder)
        spoil(folder)
        words[folder.name] = word
    return words


def break_inside(runs: Path) -> list[Path]:
    """Runs that can be listed, and in which files are broken that only some views read."""
    made = {}
    for name in ("routing", "routing-fifo", "routing-shape", "predictions", "predictions-huge", "events", "events-fifo", "log"):
        made[name] = write_run(runs, f"odd-{name}").dir
    after = "after_2"
    _text(f"routing/{after}.safetensors", b"xx")(made["routing"])
    _instead(f"routing/{after}.safetensors", os.mkfifo)(made["routing-fifo"])
    arrays, header = atomic_io.read_arrays(made["routing-shape"] / "routing" / f"{after}.safetensors")
    atomic_io.write_arrays(made["routing-shape"] / "routing" / f"{after}.safetensors", arrays | {"0/share_sum": [1.0]}, header)
    _text(f"predictions/{after}.parquet", b"PAR1")(made["predictions"])
    _instead(f"predictions/{after}.parquet", _sparse)(made["predictions-huge"])
    with (made["events"] / "events.jsonl").open("ab") as file:
        file.write(
            b'{"kind": 3}\n{"kind": "Step", "task": 99}\n\xff\n' + DEEP.encode() + b"\n" + b'{"time": ' + b"9" * 5000 + b"}\n"
        )
    _instead("events.jsonl", os.mkfifo)(made["events-fifo"])
    _instead("log.txt", os.mkfifo)(made["log"])
    return [*made.values()]
