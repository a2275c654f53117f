"""Bars of progress in a notebook."""

from types import SimpleNamespace

import IPython.display
import rich.console

from lab.training.progress_line import follow_cells


def test_in_a_notebook_the_bars_are_one_widget_and_nothing_is_warned_of(monkeypatch, recwarn, capfd):
    shown = []
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda *shows, **_: shown.extend(shows))
    running = {"cell": 0.5}
    steps = [SimpleNamespace(done=k, total=2, active=running, ended=["cell is done"][:k]) for k in range(3)]
    follow_cells(iter(steps))
    texts = [getattr(show, "text", "") for show in shown]
    assert "Output" in {type(show).__name__ for show in shown} and texts.count("cell is done\n") == 2
    assert any("cells 2/2" in text for text in texts), "the last state is drawn"
    assert not [str(warning.message) for warning in recwarn] and capfd.readouterr().err == ""
