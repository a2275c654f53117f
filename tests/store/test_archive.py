"""Runs as one file: what goes out comes in as it was, and nothing else comes in."""

import gzip
import io
import json
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder.run import Run, all_runs
from lab.run_folder.writer import claim, update_info
from lab.store import archive

KINDS = ["run.zip", "run.tar.gz"]


@pytest.fixture
def run(tmp_path):
    """A finished run with its manifest, an expert, a state and things that are no files of a run."""
    run = write_run(tmp_path / "here", "a")
    for name in ("experts/sea/adapter_model.safetensors", "checkpoint/3/session.json", "state/after_0/router.safetensors"):
        atomic_io.replace_bytes(run.dir / name, b"x" * 99)
    sealed = {name: atomic_io.sha256(run.dir / name) for name in ("events.jsonl", "experts/sea/adapter_model.safetensors")}
    atomic_io.write_json(run.dir / "manifest.json", sealed)
    (run.dir / "thesis.docx").write_text("x")
    return run


def content(run: Run) -> dict[str, bytes]:
    return {path.relative_to(run.dir).as_posix(): path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}


def call(*words: object):
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.mark.parametrize("name", KINDS)
def test_a_run_travels_whole(run, tmp_path, name):
    assert archive.pack(run, tmp_path / name) == ["thesis.docx"]
    back = archive.unpack(tmp_path / name, tmp_path / "there")
    before = {name: data for name, data in content(run).items() if not name.startswith(("checkpoint", "thesis", "run.json"))}
    assert content(back) == before | {"run.json": (back.dir / "run.json").read_bytes()}
    assert back.result() | {"dir": ""} == run.result() | {"dir": ""} and all_runs(tmp_path / "there") == [back]
    again = tmp_path / f"again-{name}"
    archive.pack(run, again)
    assert (
        again.read_bytes()[:4] == (tmp_path / name).read_bytes()[:4] and again.stat().st_size == (tmp_path / name).stat().st_size
    )
    with pytest.raises(LabError, match=r"a run called 'a' is in .*--as"):
        archive.unpack(tmp_path / name, tmp_path / "there")
    arrived = archive.unpack(tmp_path / name, tmp_path / "there", "b")
    np.testing.assert_array_equal(arrived.matrix, run.matrix)
    assert {path.name for path in (tmp_path / "there").iterdir()} <= {"a", "b", ".jobs.lock"}


@pytest.mark.parametrize("name", KINDS)
def test_a_run_to_go_on_with_travels_with_its_checkpoint_and_without_its_place_in_the_queue(run, tmp_path, name):
    update_info(run, status="queued", waiting=3.0, pid=1)
    archive.pack(run, tmp_path / name)
    back = archive.unpack(tmp_path / name, tmp_path / "there")
    assert back.status == "interrupted" and (back.dir / "checkpoint" / "3" / "session.json").is_file()
    assert back.info["waiting"] is None and back.info["pid"] is None


def test_what_is_not_packed(run, tmp_path):
    (tmp_path / "there.zip").write_text("x")
    for file, word in (("a.rar", "called .zip or .tar.gz"), ("there.zip", "is there already"), ("no/a.zip", "cannot be written")):
        with pytest.raises(LabError, match=word):
            archive.pack(run, tmp_path / file)
    (run.dir / "config.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(LabError, match="damaged"):
        archive.pack(run, tmp_path / "a.zip")
    (tmp_path / "config.yaml").rename(run.dir / "config.yaml")
    update_info(run, status="stopped")
    lease = claim(run)
    with pytest.raises(LabError, match="is running: stop it"):
        archive.pack(run, tmp_path / "a.zip")
    lease.release()
    assert not (tmp_path / "a.zip").exists()


# -- hostile ones ----------------------------------------------------------------------------------------------------------


def zipped(members: list[tuple[str, bytes]], **about: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            item = zipfile.ZipInfo("x")
            item.filename = name
            item.compress_type = zipfile.ZIP_DEFLATED
            for key, value in about.items():
                setattr(item, key, value)
            file.writestr(item, data)
    return out.getvalue()


def tarred(members: list[tuple[str, bytes]], **about: object) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as packed, tarfile.open(fileobj=packed, mode="w") as file:
        for name, data in members:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            for key, value in about.items():
                setattr(item, key, value)
            file.addfile(item, io.BytesIO(data))
    return out.getvalue()


GOOD = [(f"a/{name}", b"{}") for name in ("archive.json", "run.json", "config.yaml")]
NAMES = {
    "/etc/passwd": "is empty|no file of a run",
    "../a/run.json": "separator|no file",
    "a/../../x": "separator|no file",
    "a/experts/../run.json": "separator|no file",
    "a\\run.json": "separator",
    "a/experts/x\ny/adapter_config.json": "control characters",
    "C:/run.json": "no file of a run",
    "a/launch.json": "no file of a run",
    "a/.lock": "no file of a run",
    "a/plugins/evil.py": "no file of a run",
    "a/RUN.JSON": "no file of a run|capitals",
    "a/run.json": "there twice",
    "a/experts/SEA/adapter_config.json": "capitals",
    "b/notes.json": "several folders",
    f"a/experts/{'x' * 300}/adapter_config.json": "longer than 255 bytes",
}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused(tmp_path, make, name):
    file = tmp_path / "x"
    with pytest.warns(UserWarning) if make is zipped and name == "a/run.json" else pytest.MonkeyPatch.context():
        file.write_bytes(make([*GOOD, ("a/experts/sea/adapter_config.json", b"{}"), (name, b"{}")]))
    with pytest.raises(LabError, match=NAMES[name]):
        archive.unpack(file, tmp_path / "runs")
    assert [*tmp_path.iterdir()] == [file]


def bomb() -> bytes:
    return tarred([("a/log.txt", b"0" * (1 << 22)), *GOOD])


def pax_bomb() -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as packed:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 1 << 23
        packed.write(header.tobuf())
        for _ in range(1 << 3):
            packed.write(b"0" * (1 << 20))
    return out.getvalue()


def wrong_list(**files: object) -> bytes:
    return zipped([("a/archive.json", json.dumps({"format": 1, "files": files}).encode()), *GOOD[1:]])


HOSTILE = {
    "link": (lambda: tarred([*GOOD, ("a/log.txt", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no regular file"),
    "hard link": (lambda: tarred([("a/log.txt", b"")], type=tarfile.LNKTYPE, linkname="a/run.json"), "no regular file"),
    "device": (lambda: tarred([("a/log.txt", b"")], type=tarfile.CHRTYPE), "no regular file"),
    "fifo": (lambda: tarred([("a/log.txt", b"")], type=tarfile.FIFOTYPE), "no regular file"),
    "folder": (lambda: tarred([("a", b"")], type=tarfile.DIRTYPE), "no regular file"),
    "zip link": (lambda: zipped([("a/log.txt", b"/etc/passwd")], external_attr=(stat.S_IFLNK | 0o777) << 16), "no regular file"),
    "zip folder": (lambda: zipped([("a/", b"")]), "no regular file"),
    "bomb": (bomb, "times as large"),
    "zip bomb": (lambda: zipped([("a/log.txt", b"0" * (1 << 22)), *GOOD]), "times as large"),
    "bomb in a header": (pax_bomb, "times as large|cannot be read"),
    "too large a file": (lambda: zipped([("a/run.json", os.urandom(3000))]), "at most|times as large"),
    "empty": (lambda: zipped([]), "holds no run"),
    "no run": (lambda: zipped(GOOD[:2]), "lacks a/config.yaml"),
    "no list": (lambda: zipped(GOOD), "archive.json cannot be read"),
    "another list": (lambda: wrong_list(**{"run.json": "0" * 64}), "config.yaml is not in both"),
    "another content": (lambda: wrong_list(**{"run.json": "0" * 64, "config.yaml": "0" * 64}), "SHA-256 differs"),
    "cut": (lambda: tarred(GOOD)[:-30], "cannot be read"),
    "no archive": (lambda: b"hello", "cannot be read"),
    "nothing": (lambda: b"", "cannot be read"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archive, "ALLOWED", 1 << 20)
    monkeypatch.setattr(archive, "LARGEST", {".json": 2000})
    make, word = HOSTILE[kind]
    (tmp_path / "x").write_bytes(make())
    with pytest.raises(LabError, match=word):
        archive.unpack(tmp_path / "x", tmp_path / "runs")
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.name != ".jobs.lock"]


def test_a_flipped_byte_and_a_run_that_its_own_manifest_denies(run, tmp_path):
    atomic_io.write_json(run.dir / "manifest.json", {"events.jsonl": "0" * 64})
    archive.pack(run, tmp_path / "a.zip")
    with pytest.raises(LabError, match=r"events\.jsonl is not as it was written"):
        archive.unpack(tmp_path / "a.zip", tmp_path / "there")
    with pytest.raises(LabError, match="there is no archive"):
        archive.unpack(tmp_path / "none.zip", tmp_path / "there")


def test_many_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MEMBERS", 3)
    (tmp_path / "x").write_bytes(zipped([*GOOD, ("a/log.txt", b"")]))
    with pytest.raises(LabError, match="more than 3 files"):
        archive.unpack(tmp_path / "x", tmp_path / "runs")


def test_commands(run, tmp_path, monkeypatch):
    packed = call("pack", "a", tmp_path / "a.tar.gz", "--runs", run.dir.parent)
    assert packed.exit_code == 0 and "thesis.docx" in packed.stdout, packed.output
    done = call("unpack", tmp_path / "a.tar.gz", "--as", "b", "--runs", run.dir.parent, "--json")
    assert json.loads(done.stdout)["name"] == "b" and Run.open("b", run.dir.parent).status == "finished"
    assert call("unpack", tmp_path / "a.tar.gz", "--as", "../b", "--runs", run.dir.parent).exit_code == 2
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert call("unpack", tmp_path / "a.tar.gz", "--as", "c", "--runs", run.dir.parent).exit_code == 2
