"""Writing a session into its run folder, event by event; going on from a folder; stopping on request."""

import json
import logging
import shlex
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.adapters.peft_folder import CONFIG, WEIGHTS
from lab.core import atomic_io
from lab.core.errors import LabError, RunFailed
from lab.models.backbone import is_recorded
from lab.models.learner import routing_state
from lab.run_folder import events, own_plugins
from lab.run_folder import lease as lease_of_run
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, claim, now, update_info
from lab.store import experts
from lab.training import checkpoint, drift
from lab.training.checkpoint import Checkpoints
from lab.training.stage import Training
from lab.training.trainer import Session

KNOWN = ("format", "created", "fingerprint", "changes", "plugins", "longest_answer")  # of run.json: what saved states hold too
logger = logging.getLogger(__name__)
LOG_EVERY = 1.0  # seconds between two Step lines of one phase


def _log_line(event: events.Event) -> str:
    """An event with those of its fields that are plain values: `Evaluated after 0, task 1, score 0.93`."""
    plain = {name: value for name, value in event.to_json().items() if isinstance(value, str | int | float)}
    del plain["kind"], plain["progress"]
    return f"{type(event).__name__} " + ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )


class Stopped(Exception):
    """The run was asked to end here; its state is saved. `status` is "stopped" or "interrupted"."""

    def __init__(self, status: str, run: Run):
        super().__init__(f"{status}; go on with: lab resume {run.id} --runs {shlex.quote(str(run.dir.parent))}")
        self.status = status


def record(
    run: Run, session: Session, notes: Sequence[str] = (), accepted: Collection[str] | None = ()
) -> Generator[events.Event]:
    """Pass the session's events on, with everything they mean written into the folder of `run`.

    A folder with a saved state is gone on with from there. However it ends, run.json says how; an interrupted or stopped
    run can be resumed. `notes`: what was found damaged already, in sentences. `accepted`: what may differ from how the run
    began (see lab.training.drift), options or other; None: anything. Raises LabError for what differs besides.
    """
    lease = claim(run)
    recorder = Recorder(run, session, lease, accepted)
    try:
        with interruptible() as interrupted:
            if notes := [*notes, *recorder.begin()]:
                yield recorder.tell(notes)
            for event in session.train():
                recorder.write(event)
                yield event
                recorder.stop_if_asked(event, interrupted)
        recorder.finish()
    except Stopped as stop:
        recorder.end(stop.status)
        raise
    except (KeyboardInterrupt, GeneratorExit):
        recorder.end("interrupted")
        raise
    except lease_of_run.Lost:  # the folder is another's
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, LabError | RunFailed) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # a full disk is the reason already
            recorder.end("failed", error=reason)
            recorder.log(traceback.format_exc())
        raise
    finally:
        lease.release()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Inside the block the first Ctrl-C or SIGTERM only sets the event; a second one acts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Recorder:
    """Turns events into the files of a run folder."""

    def __init__(self, run: Run, session: Session, lease: lease_of_run.Lease, accepted: Collection[str] | None = ()):
        self.run, self.session, self.lease, self.last_step = run, session, lease, 0.0
        self.accepted = accepted
        self.row: dict[int, events.Evaluated] = {}  # the evaluated tasks of the row in progress
        self.checkpoints = Checkpoints(run.dir)
        self.info = dict(run.info)  # run.json as it was last read; it may be removed while the run works

    def begin(self) -> list[str]:
        """Start an empty folder, or bring the session to the newest saved state that is whole.

        Returns what was found damaged and what was done about it, in sentences.
        """
        run, session = self.run, self.session
        for litter in run.dir.rglob(".*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(litter) if litter.is_dir() else litter.unlink()
        (run.dir / experts.USES).touch()
        if session.store:
            session.store.user = run.dir
        saved, notes = self.checkpoints.newest()
        fingerprint = drift.fingerprint(session)
        before = (saved.values.get("run", {}) if saved else {}).get("fingerprint") or run.info.get("fingerprint")
        if before and is_recorded(session.learner.backbone, before["backbone"]):
            before = before | {"backbone": fingerprint["backbone"]}
        changed = drift.differences(before, fingerprint) if before else []
        drift.refuse(run.id, [one for one in changed if self.accepted is not None and one.about not in self.accepted])
        longest = session.learner.head.longest
        self.info |= {"longest_answer": longest} if longest else {}
        if saved is None:
            begun = (run.dir / "events.jsonl").is_file()
            for name in ("events.jsonl", "matrix.json"):
                (run.dir / name).unlink(missing_ok=True)
            notes += ["there is no whole checkpoint to go on from: the run starts again from its beginning"] if begun else []
        else:
            checkpoint.restore(session, saved, run.dir / "experts", bool(changed))
            self.write_scores()
            unnamed = self.promised() - self.checkpoints.final.keys()  # a state of format 1 does not name all
            self.checkpoints.keep(*(path for name in unnamed if (path := run.dir / name).is_file()))
        atomic_io.write_yaml(run.dir / "config.yaml", session.config.to_dict())
        self.checkpoints.keep(*(run.dir / name for name in ("config.yaml", "env.json") if (run.dir / name).is_file()))
        own = session.config.own_plugins()
        self.checkpoints.keep(*own_plugins.keep(run, own))
        if own:
            kept = ("kind", "name", "origin", "missing")
            self.info["plugins"] = [{name: getattr(one, name) for name in kept} | {"sha256": one.digest} for one in own]
        self.info["fingerprint"] = fingerprint
        if changed:
            self.info["changes"] = [*run.info.get("changes", []), *({"time": now(), "what": one.sentence} for one in changed)]
        update_info(run, **self.known)
        return notes + [f"went on with a change: {one.sentence}" for one in changed]

    @property
    def known(self) -> dict[str, Any]:
        """What run.json holds of the run itself; saved states hold it too."""
        return {name: self.info[name] for name in KNOWN if name in self.info}

    def tell(self, notes: list[str]) -> events.Recovered:
        """Say in the log, in events.jsonl and in run.json what was found damaged; returns the event."""
        event = events.Recovered(notes, self.session.progress())
        append_event(self.run, event.to_json())
        self.log("".join(f"{note}\n" for note in notes))
        self.info["recovered"] = [*self.run.info.get("recovered", []), *({"time": now(), "what": note} for note in notes)]
        update_info(self.run, recovered=self.info["recovered"])
        return event

    def log(self, text: str) -> None:
        with open(self.run.dir / "log.txt", "a", encoding="utf-8") as log:
            log.write(text)

    def end(self, status: str, **fields: Any) -> None:
        """Say in run.json how the run ended."""
        update_info(self.run, self.info, **{"status": status, "ended": now(), **fields})

    def write(self, event: events.Event) -> None:
        """Everything one event means for the folder."""
        if isinstance(event, events.Evaluating):
            return
        if isinstance(event, events.Step):
            self.write_step(event)
            return
        append_event(self.run, event.to_json())
        logger.info(_log_line(event))
        if isinstance(event, events.Learned):
            for k in self.session.protocol.finished_experts(self.session, event.task):
                self.checkpoints.keep(*self.export(k, self.run.dir / "experts"))
        if isinstance(event, events.RunStarted | events.Evaluated):
            self.write_scores()
        if isinstance(event, events.Evaluated) and event.after >= 0:
            self.row[event.task] = event
        if isinstance(event, events.TaskEnded):
            self.write_row(event.task)
        if isinstance(event, events.Learned | events.TaskEnded):
            self.save()

    def write_step(self, event: events.Step) -> None:
        """About one line a second, and the first and last step of a phase; the state every N steps, and before an evaluation."""
        stage = self.session.stage
        assert isinstance(stage, Training)
        ends = event.step == event.steps and not stage.announced
        saved = event.step % self.session.config.checkpoint.every == 0 or ends
        shown = event.step in (1, event.steps) or time.monotonic() - self.last_step >= LOG_EVERY
        if not (saved or shown):
            return
        if shown:
            self.last_step = time.monotonic()
            append_event(self.run, event.to_json())
        if saved:
            self.save()

    def stop_if_asked(self, event: events.Event, interrupted: threading.Event) -> None:
        """Save the state and stop: now after a signal, or at the end of a task if the folder says so."""
        if interrupted.is_set():
            if self.session.cursor.step:  # else the state that was saved last is as new: evaluation starts again
                self.save()
            raise Stopped("interrupted", self.run)
        if isinstance(event, events.TaskEnded) and self.run.stop_requested:
            raise Stopped("stopped", self.run)

    def finish(self) -> None:
        """The last files, and run.json with cost, uses and routing; `finished` only once all that is promised was read back."""
        session, run = self.session, self.run
        self.lease.confirm()
        self.write_scores()
        self.checkpoints.keep(*self.write_router(run.dir / "router.safetensors"))
        if notes := self.checkpoints.mend():
            self.tell(notes)
        if missing := self.promised() - self.checkpoints.final.keys():
            raise self.checkpoints.spoiled(f"{', '.join(sorted(missing))} is missing")
        routing, why = self.routing_summary() if session.protocol.continual else (None, {})
        self.checkpoints.seal("events.jsonl", "matrix.json", experts.USES)
        self.end("finished", cost=session.cost(), uses=session.uses(), routing=routing, why=why)

    def promised(self) -> set[str]:
        """Files within the run folder that belong to the experts whose training is done and the tasks that have ended."""
        session, bank = self.session, self.session.learner.bank
        moments = session.protocol.moments(self.run)
        if session.protocol.continual:
            every = len(session.task_names) - 1 in moments
            experts = [name for k, name in enumerate(bank.names) if every or not session.protocol.is_trainable(session, k)]
        else:  # those of joint training; the bank may hold others by now
            experts = [folder.name for folder in (self.run.dir / "experts").glob("*")] if moments else []
        names = {f"experts/{name}/{part}" for name in experts for part in (CONFIG, WEIGHTS)}
        of_tasks = ("predictions/after_{}.parquet", "state/after_{}/classifier.safetensors")
        return names | {name.format(t) for t in moments for name in of_tasks}

    # -- pieces ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        self.lease.confirm()
        self.checkpoints.save(self.session, run=self.known)
        logger.info("checkpoint saved")

    @property
    def base(self) -> tuple[str, str]:
        """What the backbone is called, and its digest."""
        base = self.session.learner.backbone.base
        return base.name, base.digest

    def export(self, k: int, folder: Path) -> list[Path]:
        """Save expert k in a folder of its name; returns its files."""
        bank = self.session.learner.bank
        bank.export(k, folder / bank.names[k], *self.base)
        return [folder / bank.names[k] / part for part in (CONFIG, WEIGHTS)]

    def write_scores(self) -> None:
        atomic_io.write_json(self.run.dir / "matrix.json", asdict(self.session.scores))

    def write_row(self, after: int) -> None:
        """Predictions, routing and state as they were after learning a task."""
        learner = self.session.learner
        self.write_scores()
        files = [self.run.dir / "predictions" / f"after_{after}.parquet"]
        atomic_io.replace_bytes(files[0], self.predictions())
        evaluated = {j: event.routing for j, event in self.row.items() if event.routing is not None}
        if evaluated:
            arrays = {name: array for j, sums in evaluated.items() for name, array in sums.arrays(j).items()}
            arrays |= next(iter(evaluated.values())).keys()
            texts = {str(j): [self.text(j, row) for row in sorted(sums.whole)] for j, sums in evaluated.items()}
            layers, tasks = [layer.name for layer in learner.bank.layers], learner.task_names[: len(self.row)]
            about = {"tasks": tasks, "layers": layers, "texts": texts}
            about["experts"] = learner.consolidation.names(learner.bank.names)
            about["steps"] = next(iter(evaluated.values())).steps
            about["told"] = dict(learner.consolidation.step_descriptions(learner.router))
            header = {"about": json.dumps(about, ensure_ascii=False)}
            files.append(self.run.dir / "routing" / f"after_{after}.safetensors")
            atomic_io.write_arrays(files[-1], arrays, header)
        folder = self.run.dir / "state" / f"after_{after}"
        files += self.write_router(folder / "router.safetensors")
        rows = {name: p.detach().cpu().numpy() for name, p in learner.head.classifier.named_parameters()}
        files.append(folder / "classifier.safetensors")
        atomic_io.write_arrays(files[-1], rows)
        if self.session.protocol.continual and not learner.per_task:
            for k in range(len(learner.bank)):
                latest = self.export(k, self.run.dir / "experts")  # final after the last task alone
                files += self.export(k, folder / "experts") + (latest if after == len(self.session.tasks) - 1 else [])
        self.checkpoints.keep(*files)
        self.row = {}

    def write_router(self, path: Path) -> list[Path]:
        """Save what the router has learned; returns the file, if there is anything."""
        router = {name: tensor.cpu().numpy() for name, tensor in routing_state(self.session.learner).items()}
        if router:
            atomic_io.write_arrays(path, router)
        return [path] if router else []

    def text(self, task: int, row: int) -> str:
        example = self.session.tasks[task].test[row]
        return example.text if example.pair is None else f"{example.text} | {example.pair}"

    def predictions(self) -> bytes:
        """The row's predictions as one Parquet table."""
        import io

        import pandas

        written = self.session.learner.head.written
        parts = []
        for j, event in sorted(self.row.items()):
            p = event.predictions
            columns = {"task": self.session.tasks[j].name, "row": np.arange(len(p.label)), "label": written(p.label)}
            columns |= {"prediction": written(p.predicted), "correct": p.correct, "probability": p.probability, **p.scores}
            parts.append(pandas.DataFrame(columns))
        buffer = io.BytesIO()
        pandas.concat(parts, ignore_index=True).to_parquet(buffer, index=False)
        return buffer.getvalue()

    def routing_summary(self) -> tuple[dict[str, Any], dict[str, str]]:
        """After the last task; None with a reason.

        The own expert's share of the weight and how often it has the largest one, and the average accuracy of the oracle.
        """
        session, summary = self.session, dict[str, Any]()
        if not session.learner.per_task:
            reason = "there is one shared expert" if len(session.learner.bank) == 1 else "every task trains all experts"
            by_task = ("own_expert_share_by_task", "accuracy_by_task")
            summary |= dict.fromkeys(("own_expert_share", "accuracy", *by_task, "oracle_average_accuracy"))
            return summary, {f"routing.{name}": reason for name in summary}
        routing = self.run.routing()
        owners = session.learner.consolidation.owner(torch.arange(len(session.tasks))).tolist()
        shares = [float(routing.share(t)[k]) for t, k in enumerate(owners)]
        hits = [float(routing.top1(t)[..., k].mean()) for t, k in enumerate(owners)]
        own = {
            "accuracy": float(np.mean(hits)),
            "accuracy_by_task": dict(zip(session.scores.tasks, hits, strict=True)),
            "own_expert_share": float(np.mean(shares)),
            "own_expert_share_by_task": dict(zip(session.scores.tasks, shares, strict=True)),
        }
        if session.scores.oracle is None:
            reason = "experts act together: none alone is the model of a task"
            return own | {"oracle_average_accuracy": None}, {"routing.oracle_average_accuracy": reason}
        return own | {"oracle_average_accuracy": float(np.mean(session.scores.oracle))}, {}
