"""Replay files: a run as one small file without weights, and the process that plays it like a live job. No torch here.

A replay file is JSON Lines: a head {"replay": 1, "run", "lab", "config", "environment", "scores", "end"}, then the lines of
events.jsonl, and before each that ends a task one with the routing recorded then: {"kind": "Routing", "name", "data" in base64}.
Playing one makes a run folder that holds the file, in which a process lets the events happen again at their own pace, times a
speed. Everything that looks at run folders then shows a live job; comparisons leave it out, since it is no repetition.
"""

import base64
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from lab import __version__
from lab.core import atomic_io, documents
from lab.core.errors import LabError
from lab.run_folder import expected_fields
from lab.run_folder.run import Run, root, slug
from lab.run_folder.writer import append_event, claim, create_run, now, update_info

FORMAT = 1
FILE = "replay.jsonl"
LONGEST = 2.0  # seconds that two events may lie apart when played
LARGEST = 10_000_000  # bytes of a file that is played
HEAD = {"run": str, "config": dict, "environment": dict, "scores": dict, "end": dict}
NAME = re.compile(r"after_\d{1,4}\.safetensors")
END = ("cost", "uses", "routing", "why")  # of run.json


def trace(run: Run) -> bytes:
    """The replay file of a run; of one that did not finish, up to the end of the last task it learned.

    LabError for a run that goes on, has learned no task, or is a replay itself, and where the file would be too large to play.
    """
    if not run.protocol.continual:
        raise LabError(f"run '{run.id}' is of protocol {run.protocol.name}: a replay file is made of a run on a stream")
    if run.info.get("replay") or run.status in ("queued", "running"):
        state = "is a replay" if run.info.get("replay") else f"is {run.status}"
        raise LabError(f"run '{run.id}' {state}: a replay file is made of a run that has ended")
    finished, events, scores = run.status == "finished", list(run.events()), run.recorded_scores
    if not finished:
        ends = [i for i, event in enumerate(events) if event.get("kind") == "TaskEnded" and event["task"] < len(run.matrix)]
        if not ends:
            raise LabError(f"run '{run.id}' is {run.status} and has learned no task: there is nothing to play")
        events = events[: ends[-1] + 1]
        scores |= {"matrix": scores["matrix"][: events[-1]["task"] + 1], "partial": []}
    end = {name: run.info[name] for name in END if name in run.info}
    head = {
        "replay": FORMAT,
        "run": run.id,
        "lab": __version__,
        "config": run.config,
        "environment": run.environment,
        "scores": scores,
        "end": end | {"status": "finished" if finished else "stopped"},
    }
    lines, moments = [head], run.recorded()
    for event in events:
        name = f"after_{event.get('task')}.safetensors"
        if event.get("kind") == "TaskEnded" and event["task"] in moments:
            data = base64.b64encode(run.bytes_of(f"routing/{name}")).decode()
            lines.append({"kind": "Routing", "name": name, "data": data})
        lines.append(event)
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    if len(content) > LARGEST:
        raise LabError(f"the replay file of run '{run.id}' would have {len(content):,} bytes: at most {LARGEST:,} are played")
    return content


def file_content(path: Path) -> bytes:
    """The content of a replay file that lies anywhere; LabError if it cannot be read."""
    try:
        with documents.opened(path, LARGEST) as file:
            return file.read()
    except FileNotFoundError:
        raise LabError(f"there is no replay file {path}") from None
    except LabError as error:
        raise LabError(f"the replay file {path} {error}") from error


def read(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Head and lines of a replay file; LabError, with the number of the line, for anything else."""
    if len(content) > LARGEST:
        raise LabError(f"the replay file has {len(content):,} bytes: at most {LARGEST:,} are played")
    lines = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = documents.json_value(text)
            if not isinstance(line, dict):
                raise ValueError("no JSON object")
            if line.get("kind") == "Routing":
                if not NAME.fullmatch(line["name"]):
                    raise ValueError("routing is named after_<k>.safetensors")
                base64.b64decode(line["data"], validate=True)
            elif number > 1 and not expected_fields.is_event(line):
                raise ValueError("no event")
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"this is no replay file: line {number} cannot be read ({type(error).__name__}: {error})") from error
        lines.append(line)
    head = lines[0] if lines else {}
    if head.get("replay") != FORMAT:
        version = f"format {head['replay']}" if "replay" in head else "its first line has no 'replay'"
        raise LabError(f"this is no replay file that can be played: {version}, this version plays format {FORMAT}")
    missing = [name for name, kind in HEAD.items() if not isinstance(head.get(name), kind)]
    needed = (("config", "scenario"), ("config", "backbone"), ("scores", "tasks"), ("scores", "matrix"))
    missing = missing or [f"{part}.{name}" for part, name in needed if name not in head[part]]
    if missing or len(lines) < 2:
        raise LabError(f"this replay file is damaged: its head lacks {', '.join(missing) or 'events after it'}")
    for name, of_run in (("config", "config.yaml"), ("scores", "matrix.json"), ("end", "run.json")):
        if fault := expected_fields.fault(of_run, head[name]):
            raise LabError(f"this replay file is damaged: {name} of its head: {fault}")
    return head, lines[1:]


def create(content: bytes, runs: str | Path | None = None, speed: float = 10.0) -> Run:
    """A queued run in which `play` will let the file happen; LabError leaves nothing behind."""
    head, _ = read(content)
    if not 0.1 <= speed <= 1000:
        raise LabError(f"a replay is played 0.1 to 1000 times as fast as it was recorded, not {speed:g} times")
    name = f"replay-{slug(head['run'])}"[:60].rstrip("-")
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    run = create_run(head["config"], runs, next(free for free in names if not (root(runs) / free).exists()))
    atomic_io.replace_bytes(run.dir / FILE, content)
    atomic_io.write_json(run.dir / "env.json", head["environment"])
    update_info(run, replay={"run": head["run"], "speed": speed})
    return run


def play(run: Run, wait: Callable[[float], None] = time.sleep) -> None:
    """Let the replay file of a run happen, from its beginning; ends early if the run is asked to stop."""
    head, lines = read(run.bytes_of(FILE))
    lock = claim(run)
    try:
        for name in ("events.jsonl", "matrix.json"):
            (run.dir / name).unlink(missing_ok=True)
        shutil.rmtree(run.dir / "routing", ignore_errors=True)
        if _happen(run, head, lines, wait):
            atomic_io.write_json(run.dir / "matrix.json", head["scores"])
            facts = {name: head["end"][name] for name in END if name in head["end"]}
            update_info(run, status="stopped" if head["end"].get("status") == "stopped" else "finished", ended=now(), **facts)
        else:
            update_info(run, status="stopped", ended=now())
    except KeyboardInterrupt:
        update_info(run, status="interrupted", ended=now())
    except Exception as error:
        update_info(run, status="failed", ended=now(), error=f"{type(error).__name__}: {error}")
        raise
    finally:
        lock.release()


def _happen(run: Run, head: dict[str, Any], lines: list[dict[str, Any]], wait: Callable[[float], None]) -> bool:
    """Write the lines one after the other; False if the run was asked to stop after a task."""
    speed, recorded = run.info["replay"]["speed"], head["scores"]
    scores = recorded | {"matrix": [], "partial": [], "zero_shot": None, "oracle": None, "validation": None}
    before = None
    for line in lines:
        kind = line.get("kind")
        if kind == "Routing":
            atomic_io.replace_bytes(run.dir / "routing" / line["name"], base64.b64decode(line["data"]))
            continue
        pause = 0.0 if before is None else (line["time"] - before) / speed
        wait(min(max(pause, 0.0), LONGEST))
        before = line["time"]
        append_event(run, {name: value for name, value in line.items() if name != "time"})
        if kind == "Evaluated" and line.get("after", -1) >= 0 and line.get("split", "test") == "test":
            scores["partial"] = [*scores["partial"], line["score"]]
        elif kind == "TaskStarted":
            scores |= {"zero_shot": recorded.get("zero_shot"), "partial": []}
        elif kind == "TaskEnded":
            scores |= {"matrix": recorded["matrix"][: line["task"] + 1], "partial": []}
        if kind in ("Evaluated", "TaskStarted", "TaskEnded"):
            atomic_io.write_json(run.dir / "matrix.json", scores)
        if kind == "TaskEnded" and run.stop_requested:
            return False
    return True


def end(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    play(Run(Path(sys.argv[1])))
