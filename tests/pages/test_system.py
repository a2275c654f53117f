"""The self-check tries what training needs."""

import pytest

from lab.pages import system


@pytest.mark.long
def test_self_check_tries_what_training_needs(runs, monkeypatch):
    found = {check.name: check for check in system.self_check(runs)}
    assert all(check.passed for check in found.values()) and "torch" in found["A process can train"].detail
    assert list(runs.iterdir()) == []
    (runs / "file").touch()
    monkeypatch.setattr(system, "PROBE", "raise SystemExit('no torch here')")
    found = {check.name: check for check in system.self_check(runs / "file")}
    assert not found["The folder of runs is writable"].passed and found["A process can train"].detail == "no torch here"
