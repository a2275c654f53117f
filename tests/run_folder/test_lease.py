"""Who works on a run: removing files lets nobody in, and a process that is gone keeps nobody out."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder import lease, writer
from lab.run_folder.lease import EXPIRY, LEASE, LOCK, Held, Lease, Lost
from lab.run_folder.run import Run
from lab.run_folder.writer import claim, lease_of


@pytest.fixture
def sleeper():
    """A process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def written(folder, pid, started, host):
    atomic_io.write_json(folder / LEASE, {"pid": pid, "process_started": started, "host": host})


def test_one_at_a_time(tmp_path):
    with Lease(tmp_path), pytest.raises(Held):
        Lease(tmp_path)
    assert not (tmp_path / LEASE).exists()
    Lease(tmp_path).release()


def test_a_removed_lock_lets_nobody_in(tmp_path, sleeper):
    """The heartbeat of a process that lives."""
    written(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time(), socket.gethostname())
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(Held, match=rf"another process \({sleeper.pid} on "):
        Lease(tmp_path)
    sleeper.kill()
    sleeper.wait()
    with Lease(tmp_path) as taken:  # gone for certain: taken over at once
        assert taken.own["pid"] == os.getpid()


def test_a_number_that_was_given_anew_keeps_nobody_out(tmp_path, sleeper):
    written(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time() - 100, socket.gethostname())
    Lease(tmp_path).release()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_heartbeat_keeps_nobody_out(tmp_path, damage):
    (tmp_path / LEASE).write_bytes(damage)
    Lease(tmp_path).release()


def test_a_process_of_another_host_is_gone_after_a_while(tmp_path):
    written(tmp_path, 1, 0.0, "elsewhere")
    with pytest.raises(Held, match=r"1 on elsewhere.*sign of life.*60 s"):
        Lease(tmp_path)
    before = time.time() - EXPIRY - 1
    os.utime(tmp_path / LEASE, (before, before))
    Lease(tmp_path).release()


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with Lease(tmp_path) as held:
        os.utime(tmp_path / LEASE, (0, 0))
        wait_until(lambda: (tmp_path / LEASE).stat().st_mtime > 0)
        (tmp_path / LEASE).unlink()
        wait_until((tmp_path / LEASE).exists)
        written(tmp_path, 1, 0.0, "elsewhere")
        with pytest.raises(Lost, match="1 on elsewhere"):
            held.confirm()
    assert "elsewhere" in (tmp_path / LEASE).read_text()  # what is another's stays
    folder = tmp_path / "run"
    folder.mkdir()
    with Lease(folder) as held:
        folder.rename(tmp_path / "moved")
        with pytest.raises(Lost, match="removed"):
            held.confirm()


def wait_until(happens, seconds=5.0):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_run_that_was_removed_does_not_come_back(tmp_path, monkeypatch, when):
    """A process that was about to work on it, and is late, must not make its folder anew with its lock."""

    def late(folder: Path) -> Lease:
        shutil.rmtree(folder)
        return Lease(folder)

    run = Run(tmp_path / "r")
    for take in (claim, lease_of):
        if when == "between":
            run.dir.mkdir()
            monkeypatch.setattr(writer, "Lease", late)
        with pytest.raises(LabError, match="any more"):
            take(run)
        assert not run.dir.exists()
