"""The run folder: plain files that one process writes and every screen only reads. No torch here.

config.yaml (resolved)   run.json (status, times, error)   env.json   events.jsonl   matrix.json (scores only)
predictions/after_<k>.parquet   routing/after_<k>.safetensors   experts/<task>/   router.safetensors
state/after_<k>/   checkpoint/   log.txt   decomposition.json (once it was asked for)
plugins/ (sources of plug-ins that are not shipped, which nothing here runs)
manifest.json (SHA-256 of all that a finished run holds)   checkpoint.damaged-<n>/ (set aside, with the reason)
stored.txt (addresses of the experts in `.experts/` that it needs)
notes.json (what people wrote about the run)   .lock and lease.json (of the process that works on it)
preparing.json (what that process does before the first task)
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.former_names import renamed
from lab.core import atomic_io, documents, html, registry
from lab.core.dotted import pick
from lab.core.errors import LabError, unknown
from lab.metrics.base import Use, evaluate, metric_classes
from lab.run_folder import expected_fields, notes
from lab.run_folder.files import RunFiles
from lab.run_folder.lease import process_alive
from lab.run_folder.routing_record import Routing, read_routing
from lab.run_folder.score_matrix import Matrix

if TYPE_CHECKING:
    from pandas import DataFrame

PREPARING = "preparing.json"  # there while a process loads data and model
FORMAT = 1  # of the run folder; raised when an old reader would misread a new folder
TERMINAL = ("finished", "stopped", "interrupted", "failed")
STATUSES = ("queued", "running", *TERMINAL, "lost", "damaged")  # what lists say of a run
ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}")
ROWS = 20_000_000  # of a table
UNREADABLE = (LabError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)  # what a damaged folder can cause

COLUMNS = ("task", "row", "label", "prediction", "correct", "probability")  # of predictions


def root(runs: str | Path | None = None) -> Path:
    """The folder of runs: the argument, else $LAB_RUNS, else ./runs."""
    return Path(runs or os.environ.get("LAB_RUNS") or "runs")


def examples() -> Path:
    """The folder of recorded example runs: $LAB_EXAMPLES, else that of the package."""
    return Path(os.environ.get("LAB_EXAMPLES") or Path(__file__).parents[1] / "examples")


def located(id: str, runs: str | Path | None = None) -> Path:
    """The folder of a run: `id` itself where it is a path, the one called so in the folder of runs, or a recorded example; else
    that of the run to which people gave this name."""
    if {"/", os.sep} & set(id):
        return Path(id)
    own, example = root(runs) / id, examples() / id
    if os.path.lexists(own):
        return own
    return example if ID.fullmatch(id) and os.path.lexists(example / "run.json") else called(id, root(runs)) or own


def called(name: str, folder: Path) -> Path | None:
    """The folder of the run that people gave this name, None if there is none; LabError where several have it."""
    named = [run for run in all_runs(folder) if name and _given_name(run) == name]
    if len(named) > 1:
        raise LabError(f"{len(named)} runs are called '{name}': say which by its id, {', '.join(run.id for run in named)}")
    return named[0].dir if named else None


def _given_name(run: "Run") -> str:
    """The name that people gave a run; "" where that cannot be read."""
    try:
        return run.notes["name"]
    except LabError:
        return ""


class Run(RunFiles):
    """A run folder. Reading never fails on a half-written last line; the status is derived, not trusted."""

    def __repr__(self) -> str:
        """`<Run 'a' finished: l2r on builtin, seed 0, average accuracy 0.913, in runs>`; a folder that cannot be read says so."""
        try:
            config, accuracy = self.config, self.metrics().get("average_accuracy")
            score = "" if accuracy is None else f", average accuracy {accuracy:.3f}"
            state = f"{self.status}: {config['recipe']} on {config['stream']['name']}, seed {config['seed']}{score}"
        except UNREADABLE:
            state = "damaged" if self.dir.is_dir() else "missing"
        return f"<Run '{self.id}' {state}, in {self.dir.parent}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: what the run is, the scores it is judged by, and its matrix."""
        about = html.paragraph(repr(self).strip("<>"))
        try:
            result = self.result()
            judged = [m for kind in metric_classes() for m in kind.of_results([result]) if m.use >= Use.JUDGE]
            scores = html.table([m.title for m in judged], [[pick(result, m.path) for m in judged]]) if judged else ""
            return about + scores + (self.matrix._repr_html_() or "" if len(self.matrix) else "")
        except UNREADABLE:
            return about

    # -- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, id: str, runs: str | Path | None = None) -> "Run":
        """The run called `id`, or in the folder of that path; raises LabError for an unknown id, with the nearest one."""
        folder = located(id, runs)
        if not ID.fullmatch(folder.name) or not os.path.lexists(folder / "run.json"):
            raise unknown("run", id, [run.id for run in (*all_runs(folder.parent), *all_runs(examples()))])
        run = cls(folder)
        run.refuse_newer()
        return run

    def refuse_newer(self) -> None:
        """LabError for a folder that this version would misread."""
        written = self.info.get("format", 0)
        if written > FORMAT:
            raise LabError(f"run '{self.id}' was written by a newer version (format {written}, this one reads {FORMAT})")

    @property
    def info(self) -> dict[str, Any]:
        """run.json: status, times, process, error."""
        return self._json("run.json")

    @property
    def changes(self) -> list[str]:
        """What was no longer as it had been at the beginning when the run was gone on with, in sentences."""
        return [change["what"] for change in self.info.get("changes", [])]

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """The plug-ins it used that are not shipped: kind, name, origin, sha256 of the source in `plugins/`, what that lacks."""
        return self.info.get("plugins", [])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        try:
            content = documents.yaml_value(self.bytes_of("config.yaml"), "config.yaml cannot be read")
            content = renamed(content, warn=False) if isinstance(content, dict) else content
        except FileNotFoundError as error:
            raise self.damaged("config.yaml is missing") from error
        except LabError as error:
            raise error if "is damaged" in str(error) else self.damaged(error) from error
        except (TypeError, ValueError) as error:  # of former names
            raise self.damaged(f"config.yaml cannot be read ({error})") from error
        return self._checked("config.yaml", content, "mapping")

    @property
    def status(self) -> str:
        """queued, running, finished, stopped, interrupted, failed, or lost: not ended, but its process is gone."""
        for _ in range(2):  # twice, since a process may write its end and go between the two looks
            info = self.info
            if info.get("status") in TERMINAL or self._attended(info):
                return info["status"]
        return "lost"

    def _attended(self, info: dict[str, Any]) -> bool:
        """Whether the process that a run without an end waits for, or runs in, is there."""
        if info.get("status") == "running":
            return process_alive(info.get("pid"), info.get("process_started"))
        if info.get("status") != "queued":
            return False
        launch = self.launch
        return process_alive(launch["pid"], launch["process_started"]) if launch else True

    @property
    def launch(self) -> dict[str, Any]:
        """launch.json: the process that was started to work on this run; empty if it was not started by another one."""
        return self._json("launch.json")

    @property
    def preparing(self) -> dict[str, Any]:
        """preparing.json: what its process does before the first task (`what`, `done` of `total`, since `began`), else empty."""
        return self._json(PREPARING)

    @property
    def notes(self) -> dict[str, Any]:
        """notes.json: name, text, tags, starred, archived; what is missing or of another type is as nobody had written it."""
        return notes.read(self._json(notes.FILE))

    @property
    def title(self) -> str:
        """What it is called on screens: the name that people gave it, else a readable one; the id where it cannot be read."""
        try:
            return notes.title(self.id, self.notes["name"], self.config, self.info.get("created"))
        except UNREADABLE:
            return self.id

    @property
    def recorded_scores(self) -> dict[str, Any]:
        """matrix.json: tasks, labels, matrix, zero_shot, oracle, validation."""
        return self._json("matrix.json")

    @property
    def environment(self) -> dict[str, Any]:
        """env.json: versions and machine that made the run."""
        return self._json("env.json")

    @property
    def decomposition(self) -> dict[str, Any]:
        """decomposition.json: where the losses of old tasks went, empty if it was not measured."""
        return self._json("decomposition.json")

    @property
    def writes(self) -> bool:
        """Whether answers are texts of the model's own, not classes."""
        return not all(self.recorded_scores.get("labels", []))

    @property
    def tasks(self) -> list[str]:
        named = self.config["stream"].get("tasks")
        return self.recorded_scores.get("tasks") or (list(named) if isinstance(named, list) else [])

    @property
    def matrix(self) -> Matrix:
        """R[i, j]: score on task j after learning task i, NaN where not yet seen; float, (tasks learned, T), complete rows only.

        Of a run without such a matrix (protocol transfer), or before a task is learned: no rows. LabError if it is damaged.
        """
        rows, tasks = self.recorded_scores.get("matrix", []), self.tasks
        if len(rows) > len(tasks) or any(len(row) != len(tasks) for row in rows):
            raise self.damaged(f"matrix.json has a row that is not of {len(tasks)} tasks")
        return Matrix.of(rows, tasks)

    @property
    def validation(self) -> float | None:
        """Mean score on validation examples at the end, by which values are chosen; None while it is not measured."""
        scores = self.protocol.validation(self)
        return sum(scores) / len(scores) if scores else None

    def metrics(self) -> dict[str, Any]:
        """Every metric by its dotted path in the result; None, with a reason under `why`, where undefined."""
        values, why = self.evaluated()
        return values | {"why": why}

    def evaluated(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """Values and reasons of all metrics, see `lab.metrics.base.evaluate`; computed again only once a file has changed."""
        tables = [f"predictions/after_{n}.parquet" for n in self.predicted()[-1:]]
        tables += [f"routing/after_{n}.safetensors" for n in self.recorded()[-1:]]
        stamps = [atomic_io.stamp(self.dir / name) for name in ("run.json", "matrix.json", *tables)]
        made_of = (registry.metrics.signature(), tables, stamps)
        if None in stamps or self._contents.get("metrics", (None,))[0] != made_of:
            values, why = evaluate(self.protocol.measured(self))
            self._contents["metrics"] = made_of, {"values": values, "why": why}
        evaluated = self._contents["metrics"][1]
        return dict(evaluated["values"]), dict(evaluated["why"])

    def events(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """Events in order, optionally of one kind; a half-written or damaged line is skipped."""
        try:
            with self.opened("events.jsonl") as lines:
                yield from (event for event in _events(lines) if kind is None or event["kind"] == kind)
        except FileNotFoundError:
            return

    def newest_events(self) -> list[dict[str, Any]]:
        """The newest events, oldest first, from the end of the file only."""
        return [*_events(self.tail("events.jsonl").splitlines())]

    @property
    def remarks(self) -> list[str]:
        """What was decided or left out without being asked for when the run began, in sentences."""
        notes = next(self.events("RunStarted"), {}).get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    def recorded(self) -> list[int]:
        """Moments (indices of the last learned task) at which routing was recorded."""
        return _moments(self.dir / "routing", ".safetensors")

    def kept(self) -> list[int]:
        """Moments whose weights were kept, so that the model can be asked as it was (lab.load)."""
        return _moments(self.dir / "state")

    @property
    def saved(self) -> bool:
        """Whether there is a state to go on from (lab.training.checkpoint); without one, resuming begins anew."""
        return next((self.dir / "checkpoint").rglob("manifest.json"), None) is not None

    def routing(self, after: int | None = None) -> Routing:
        """Routing recorded after learning task `after` (default: the last); LabError if there is none."""
        name = f"routing/after_{self._moment('routing', self.recorded(), after)}.safetensors"
        file = self.file(name)
        try:
            arrays, header = atomic_io.read_arrays(file)
            return read_routing(arrays, documents.json_value(header["about"]))
        except (atomic_io.UnreadableArrays, *UNREADABLE) as error:
            raise self.damaged(f"{name} cannot be read ({error})") from error

    def predicted(self) -> list[int]:
        """Moments whose predictions on the test examples were kept."""
        return _moments(self.dir / "predictions", ".parquet")

    def predictions(self, after: int | None = None) -> "DataFrame":
        """Test predictions after learning task `after` (default: the last), one row per test example of every task seen.

        Columns: task, row (of the task's test split, from 0), label and prediction (as texts), correct (a bool), probability (of
        the prediction, in [0, 1]), and of texts further scores such as rouge_l. LabError where none are kept, or the file is no
        table of predictions.
        """
        from pyarrow import ArrowException, parquet

        name = f"predictions/after_{self._moment('predictions', self.predicted(), after)}.parquet"
        file = self.file(name)
        try:
            with parquet.ParquetFile(file) as table:
                if table.metadata.num_rows > ROWS:  # repeated values need next to no bytes in the file
                    raise LabError(f"{table.metadata.num_rows:,} rows, at most {ROWS:,} are read")
                predictions = table.read().to_pandas()
        except (ArrowException, *UNREADABLE) as error:
            raise self.damaged(f"{name} cannot be read ({str(error).splitlines()[0]})") from error
        if missing := [column for column in COLUMNS if column not in predictions]:
            raise self.damaged(f"{name} has no column {missing[0]}")
        return predictions

    def scores(self) -> "DataFrame":
        """Every score of the run, one row each; rows that do not exist are left out.

        Columns: after (index of the task learned last, -1 before training), after_name, task, score in [0, 1], and of texts
        further scores such as rouge_l, NaN before training. Of protocol transfer: part ("trained" or "held out"), task, shots
        (none where trained), score. LabError if the run is damaged.
        """
        from pandas import DataFrame

        rows, columns = self.protocol.score_rows(self)
        kinds = {"score": "float64", "shots": "Int64"}
        return DataFrame(rows, columns=columns).astype({name: kind for name, kind in kinds.items() if name in columns})

    def routing_table(self, after: int | Iterable[int] | None = None) -> "DataFrame":
        """Routing weights, one row each: after, task, layer, routing_head (from 0), expert, weight.

        `after`: a moment, or several (`run.recorded()` are all); default: the last. The weight is the mean over the task's test
        examples, as the router normalised it. LabError where the routing of a moment was not recorded.
        """
        from pandas import DataFrame, MultiIndex, concat

        moments = [self._moment("routing", self.recorded(), after)] if after is None or isinstance(after, int) else [*after]
        axes: list[Any] = ["layer", "routing_head", "expert"]
        tables: list[Any] = [DataFrame(columns=["after", "task"])]
        for moment in moments:
            routing = self.routing(moment)
            for t, task in enumerate(routing.tasks):
                if f"{t}/count" in routing.arrays:
                    mean = routing.mean(t)  # (L, H, E)
                    index = MultiIndex.from_product([routing.layers, range(mean.shape[1]), routing.experts], names=axes)
                    weights = DataFrame({"after": moment, "task": task, "weight": mean.ravel()}, index).reset_index()
                    tables.append(weights[["after", "task", *axes, "weight"]])
        return concat(tables[1:] or tables, ignore_index=True)

    def _moment(self, what: str, moments: Sequence[int], after: int | None) -> int:
        """`after`, or the last of the moments at which something was recorded; LabError if it is none of them."""
        chosen = moments[-1] if after is None and moments else after
        if chosen is None or chosen not in moments:
            when = "" if after is None else f" after task {after}"
            raise LabError(f"run '{self.id}' has no {what} recorded{when}; recorded after: {[*moments] or 'nothing'}")
        return chosen

    @cached_property
    def protocol(self) -> Any:
        """In what order it trained and evaluated: a `lab.protocols.base.Protocol`, which may not be imported from here."""
        options = self.config.get("protocol") or "sequential"
        try:
            return registry.protocols.build(registry.protocols.options(options, "protocol"))
        except LabError as error:
            absent = any(plugin["kind"] == "protocol" for plugin in self.plugins)
            if absent and "matrix" in self.recorded_scores:
                return registry.protocols.build(registry.protocols.options("sequential"))
            raise self.damaged(error) from error

    def result(self) -> dict[str, Any]:
        """The run as `lab run --json` prints it; LabError where its files contradict each other."""
        try:
            return self.protocol.result(self)
        except LabError:
            raise
        except UNREADABLE as error:
            raise self.damaged(f"{type(error).__name__}: {error}") from error

    @property
    def stop_requested(self) -> bool:
        return (self.dir / "stop").exists()


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events on lines of events.jsonl; a half-written or damaged line is skipped."""
    for line in lines:
        try:
            event = documents.json_value(line)
        except ValueError:
            continue
        if expected_fields.is_event(event):
            yield event


def _moments(folder: Path, ending: str = "") -> list[int]:
    """The k of all `after_<k>` in a folder."""
    names = (path.name.removesuffix(ending).removeprefix("after_") for path in folder.glob(f"after_*{ending}"))
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii() and len(name) < 7)


def slug(name: str) -> str:
    """A name, or the last part of a path, as it may stand in a run id."""
    return re.sub(r"[^a-z0-9_-]+", "-", Path(name).name.lower()).strip("-")


def all_runs(runs: str | Path | None = None) -> list[Run]:
    """All run folders, oldest first; folders without run.json are no runs."""
    folder = root(runs)
    folders = [path for path in folder.iterdir() if os.path.lexists(path / "run.json")] if folder.is_dir() else []
    return sorted(map(Run, folders), key=lambda run: (_created(run), run.id))


def _created(run: Run) -> str:
    """When a run was created; "" where that cannot be read."""
    try:
        return str(run.info.get("created", ""))
    except LabError:
        return ""
