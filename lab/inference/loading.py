"""`lab.load`: the model of a run, or of a folder that a model was saved in."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from lab.adapters import hub
from lab.core.errors import LabError
from lab.data.loading import tasks_of
from lab.inference import saved_model
from lab.inference.origin import Origin
from lab.inference.routed_model import RoutedModel
from lab.models.learner import Learner, load_routing_state, routing_state
from lab.run_folder.run import Run, located


def load(
    source: Run | str | Path,
    after: int | None = None,
    device: str | None = None,
    runs: str | Path | None = None,
    backbone: str | None = None,
) -> RoutedModel:
    """The model of a run, to be asked: `lab.load(run).predict(["a text"])`.

    `source`: a run, its id in the folder `runs`, its folder, a folder made by `save_pretrained`, or the id of one on the hub.
    `after`: the model as it was after learning this task (0-based); default: the last one that was kept. `device`: where to
    compute (cpu, cuda, cuda:N); default: where the run did if this machine has it, else the CPU. `backbone`: a folder or hub id,
    where the backbone is no longer where the run or the saved model says.

    Raises LabError where the moment was not kept, a file is missing or damaged, and for another backbone.
    """
    if not isinstance(source, Run):
        folder = _saved(str(source), runs)
        if folder is not None:
            if after is not None:
                raise LabError(f"{source} is a saved model, of one moment: leave out after, or load the run")
            learner, origin = saved_model.read(folder, device, backbone)
            return RoutedModel(learner, origin)
        source = Run.open(str(source), runs)
    after = moment(source, after)
    origin = Origin.of(source, after)
    learner = origin.learner(device, backbone)
    recall(source, learner, after)
    _limit_answers(source, learner)
    learner.requires_grad_(False)
    return RoutedModel(learner, origin)


def moment(run: Run, after: int | None) -> int:
    """The moment whose weights are there, the last one by default. Raises LabError where there is none."""
    if not run.protocol.continual:
        raise LabError(f"run '{run.id}' is of protocol {run.protocol.name}: texts can be asked of runs on a stream")
    moments = run.kept()
    if not moments and len(run.matrix):
        raise LabError(
            f"run '{run.id}' is here without its weights, as recorded examples are: "
            f"train one of your own, lab run {run.config['recipe']}"
        )
    after = moments[-1] if after is None and moments else after
    if after not in moments:
        raise LabError(f"run '{run.id}' has no weights of the moment after task {after}; kept: {moments or 'none'}")
    return after


def recall(run: Run, learner: Learner, after: int) -> None:
    """Give a learner that has met the tasks 0..after the parameters of that moment, from the files of the run."""
    name_of_state = f"state/after_{after}"
    state = run.dir / name_of_state
    try:
        for k, name in enumerate(learner.bank.names):
            changing = state / "experts" / name  # an expert that later tasks train on; others stand in the run folder once
            learner.bank.load_expert(k, learner.bank.read(changing if changing.is_dir() else run.dir / "experts" / name))
            learner.bank.trainable(k, False)
        learner.head.classifier.load_state_dict(load_file(run.file(f"{name_of_state}/classifier.safetensors")))
        load_routing_state(learner, load_file(run.file(f"{name_of_state}/router.safetensors")) if routing_state(learner) else {})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LabError(f"run '{run.id}' is damaged: {state.name} cannot be read ({str(error).splitlines()[0]})") from error


def _limit_answers(run: Run, learner: Learner) -> None:
    """Let the model write as long answers as in the run; one of an earlier version did not note it, its data say it."""
    if not run.writes or learner.config.decoding.max_tokens:
        return
    if "longest_answer" in run.info:
        learner.head.longest = run.info["longest_answer"]
        return
    for t, task in enumerate(tasks_of(learner.config.stream, learner.config.seed, runs=run.dir.parent)):
        learner.encode(task.train, t, "train")


def _saved(word: str, runs: str | Path | None) -> Path | None:
    """The folder of a saved model, also from the hub; None if `word` names a run."""
    folder = Path(word)
    if saved_model.is_saved(folder):
        return folder
    if folder.is_dir() or (located(word, runs) / "run.json").is_file() or not hub.ID.fullmatch(word):
        return None
    return hub.snapshot(word, [saved_model.MODEL, saved_model.MANIFEST], ["*"])
