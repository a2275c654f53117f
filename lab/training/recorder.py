"""Writing a session into its run folder, event by event; going on from a folder; stopping on request."""

import json
import math
import os
import shlex
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.core import atomic_io
from lab.core.errors import LabError, RunFailed
from lab.models.learner import routing_state
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, claim, now, update_info
from lab.training import checkpoint
from lab.training.stage import Training
from lab.training.trainer import Session

LOG_EVERY = 1.0  # seconds between two Step lines of one phase


class Stopped(Exception):
    """The run was asked to end here; its state is saved. `status` is "stopped" or "interrupted"."""

    def __init__(self, status: str, run: Run):
        super().__init__(f"{status}; go on with: lab resume {run.id} --runs {shlex.quote(str(run.dir.parent))}")
        self.status = status


def record(run: Run, session: Session) -> Iterator[events.Event]:
    """Pass the session's events on, with everything they mean written into the folder of `run`.

    A folder with a saved state is gone on with from there. However it ends, run.json says how; an interrupted or stopped
    run can be resumed.
    """
    lock = claim(run)
    recorder = Recorder(run, session)
    try:
        with interruptible() as interrupted:
            recorder.begin()
            for event in session.train():
                recorder.write(event)
                yield event
                recorder.stop_if_asked(event, interrupted)
        recorder.finish()
    except Stopped as stop:
        update_info(run, status=stop.status, ended=now())
        raise
    except (KeyboardInterrupt, GeneratorExit):
        update_info(run, status="interrupted", ended=now())
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, LabError | RunFailed) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # a full disk is the reason already
            update_info(run, status="failed", ended=now(), error=reason)
            with open(run.dir / "log.txt", "a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
        raise
    finally:
        lock.release()


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

    def __init__(self, run: Run, session: Session):
        self.run, self.session, self.last_step = run, session, 0.0
        self.row: dict[int, events.Evaluated] = {}  # the evaluated tasks of the row in progress

    def begin(self) -> None:
        """Start an empty folder, or bring the session to the saved state of a used one."""
        run, session = self.run, self.session
        for litter in run.dir.rglob(".*.tmp"):  # of a process that was killed while it wrote
            litter.unlink()
        atomic_io.write_yaml(run.dir / "config.yaml", session.config.to_dict())
        fingerprint = json.loads(json.dumps(session.fingerprint()))
        if not run.saved:
            for name in ("events.jsonl", "matrix.json"):
                (run.dir / name).unlink(missing_ok=True)
            longest = session.learner.head.longest
            update_info(run, fingerprint=fingerprint, **({"longest_answer": longest} if longest else {}))
            return
        if run.info.get("fingerprint") != fingerprint:
            raise LabError(f"run '{run.id}' cannot go on: its data or backbone have changed since it began")
        manifest = checkpoint.restore(session, run.dir / "checkpoint", run.dir / "experts")
        log, size = run.dir / "events.jsonl", manifest["events_bytes"]
        if (log.stat().st_size if log.exists() else 0) < size:
            raise LabError(f"run '{run.id}' cannot go on: its events.jsonl has lost lines; start the run again")
        os.truncate(log, size)  # what came after the saved state happens again

    def write(self, event: events.Event) -> None:
        """Everything one event means for the folder."""
        if isinstance(event, events.Evaluating):
            return
        if isinstance(event, events.Step):
            self.write_step(event)
            return
        append_event(self.run, event.to_json())
        if isinstance(event, events.Learned):
            for k in self.session.protocol.finished_experts(self.session, event.task):
                self.export(k)
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
        line = event.to_json()
        if not all(math.isfinite(value) for value in line["terms"].values()):
            append_event(self.run, line | {"terms": {name: None for name in line["terms"]}})
            name = self.session.task_names[event.task]
            raise RunFailed(f"the loss is not finite at step {event.step} of task '{name}': lower {stage.rate}")
        if shown:
            self.last_step = time.monotonic()
            append_event(self.run, line)
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
        """The last files, and run.json with cost, uses and routing."""
        session, run = self.session, self.run
        self.write_scores()
        self.write_router(run.dir / "router.safetensors")
        routing, why = self.routing_summary() if session.protocol.continual else (None, {})
        update_info(run, status="finished", ended=now(), cost=session.cost(), uses=session.uses(), routing=routing, why=why)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        path = self.run.dir / "events.jsonl"
        folder, experts = self.run.dir / "checkpoint", self.run.dir / "experts"
        checkpoint.save(self.session, folder, experts, events_bytes=path.stat().st_size if path.exists() else 0)

    @property
    def base(self) -> tuple[str, str]:
        """What the backbone is called, and its digest."""
        backbone = self.session.learner.backbone
        return backbone.config.name, backbone.identity

    def export(self, k: int) -> None:
        bank = self.session.learner.bank
        bank.export(k, self.run.dir / "experts" / bank.names[k], *self.base)

    def write_scores(self) -> None:
        atomic_io.write_json(self.run.dir / "matrix.json", asdict(self.session.scores))

    def write_row(self, after: int) -> None:
        """Predictions, routing and state as they were after learning a task."""
        learner = self.session.learner
        self.write_scores()
        atomic_io.replace_bytes(self.run.dir / "predictions" / f"after_{after}.parquet", self.predictions())
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
            atomic_io.write_arrays(self.run.dir / "routing" / f"after_{after}.safetensors", arrays, header)
        folder = self.run.dir / "state" / f"after_{after}"
        self.write_router(folder / "router.safetensors")
        rows = {name: p.detach().cpu().numpy() for name, p in learner.head.classifier.named_parameters()}
        atomic_io.write_arrays(folder / "classifier.safetensors", rows)
        if self.session.protocol.continual and not learner.per_task:
            for k, name in enumerate(learner.bank.names):
                self.export(k)
                learner.bank.export(k, folder / "experts" / name, *self.base)
        self.row = {}

    def write_router(self, path: Path) -> None:
        router = {name: tensor.cpu().numpy() for name, tensor in routing_state(self.session.learner).items()}
        if router:
            atomic_io.write_arrays(path, router)

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
