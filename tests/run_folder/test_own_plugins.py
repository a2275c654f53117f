"""A run that uses plug-ins which are not shipped keeps their sources, goes on with them, and is shown without them."""

import pytest
from support import toy
from support.errors import assert_says
from support.pages import heatmap, open_page

import lab
from lab.core import registry
from lab.core.errors import LabError
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, request_stop, update_info
from lab.training import runner
from lab.training.recorder import Stopped, record

IMPORTS = "import torch\nimport lab\nfrom lab.routers.base import Axes, Decision\nSHARE = 0.5\n"
ROUTER = '''
@lab.register
class Mine(lab.Router):
    """Half of the weight on the first expert, half on the newest."""

    name = "mine"
    axes = Axes("model", "all", "soft")

    def forward(self, request):
        weights = torch.zeros(1, 1, self.heads, self.experts, device=request.mask.device)
        weights[..., 0] += SHARE
        weights[..., -1] += 1 - SHARE
        return Decision(weights)
'''


@pytest.fixture
def begun(cells, tmp_path, monkeypatch) -> Run:
    """A run with a router from two cells, stopped after its first task."""
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=32))
    cells(IMPORTS, ROUTER)
    session = toy.session("oracle", "router=mine", "train.epochs=1", of=toy.tasks(train=32))
    run = create_run(session.config.to_dict(), tmp_path, "r")
    with pytest.raises(Stopped):
        for event in record(run, session):
            if isinstance(event, events.TaskStarted):
                request_stop(run)
    return run


def elsewhere(monkeypatch, folder=None) -> None:
    """As in a process in which nothing was registered."""
    monkeypatch.setattr(registry.routers, "registered", {})
    if folder:
        monkeypatch.setenv(registry.PLUGINS, str(folder))


def resume(run: Run, **options) -> Run:
    return lab.resume(run.id, run.dir.parent, progress=False, **options)


def test_it_goes_on_where_it_began(begun):
    (kept,) = begun.plugins
    assert (kept["kind"], kept["name"], kept["origin"], kept["missing"]) == ("router", "mine", "__main__.Mine", [])
    assert begun.info["fingerprint"]["plugins"] == {"router mine": kept["sha256"]}
    finished = resume(begun)
    assert finished.status == "finished" and "plugins/routers/mine.py" in (finished.dir / "manifest.json").read_text()


def test_it_goes_on_elsewhere_from_the_kept_source_once_somebody_names_it(begun, monkeypatch):
    elsewhere(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in begun.dir.rglob("*") if path.is_file()}
    with pytest.raises(LabError) as refused:
        resume(begun)
    assert_says(refused, "needs router 'mine' (__main__.Mine)", "read it", f"LAB_PLUGINS={begun.dir}/plugins lab resume r")
    assert {path: path.stat().st_mtime_ns for path in begun.dir.rglob("*") if path.is_file()} == before
    elsewhere(monkeypatch, begun.dir / "plugins")
    finished = resume(begun)
    assert finished.status == "finished" and finished.changes == []
    assert finished.routing().share(1).tolist() == pytest.approx([0.5, 0.5])


def test_a_source_that_has_changed_is_named(begun, cells, monkeypatch):
    cells(ROUTER.replace("1 - SHARE", "SHARE"))
    with pytest.raises(LabError, match=r"router mine is another: its source has changed\n.*--accept-changes"):
        resume(begun)
    finished = resume(begun, accept_changes=True)
    assert finished.changes == ["router mine is another: its source has changed"]
    assert "+= 1" not in (finished.dir / "plugins" / "routers" / "mine.py").read_text()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"missing": ["helper"]}, ("add helper, which it uses and does not define", "LAB_PLUGINS=")),
        ({"sha256": None}, ("no source of 'mine' could be kept", "register it in this process")),
    ],
)
def test_what_the_kept_source_lacks_is_said(change, parts, begun, monkeypatch):
    update_info(begun, plugins=[begun.plugins[0] | change])
    elsewhere(monkeypatch)
    with pytest.raises(LabError) as refused:
        resume(begun)
    assert_says(refused, "needs router 'mine'", *parts)


def test_a_run_is_read_without_its_plugins_and_nothing_of_it_is_run(begun, monkeypatch):
    finished = resume(begun)
    elsewhere(monkeypatch)
    (finished.dir / "plugins" / "routers" / "mine.py").write_text("raise SystemExit('run by being looked at')")
    read = Run(finished.dir)
    assert read.result()["status"] == "finished" and read.routing().experts == ["sea", "city"]
    assert lab.compare("r", runs=finished.dir.parent) is not None
    monkeypatch.setenv("LAB_RUNS", str(finished.dir.parent))
    expected = read.routing().share(1)
    assert expected.tolist() == pytest.approx([0.5, 0.5])
    assert heatmap(open_page("routing", rt_colour="share, 0 to 1"), 0)[1].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
