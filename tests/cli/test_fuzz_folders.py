"""Folders and archives that somebody else made or changed: used or refused in one line, and nothing is read or written elsewhere.

As in test_fuzz, each test tries a few inputs; with -m fuzz 10,000.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from support import toy
from support.fuzzing import ODD, as_json, changed, damaged, fuzzed, used_or_refused
from support.run_folders import write_run

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data import loading, saved_stream, uploads
from lab.inference.loading import load
from lab.store import archive

OUTSIDE = "what lies beside the folder"
LEADING_OUT = [
    "..",
    "../outside",
    "/etc/passwd",
    "a/../../outside",
    "..\\outside",
    "x\x00y",
    "",
    ".",
    "a" * 300,
    "e\u0301",
    "\ud800",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "outside").write_text(OUTSIDE)
    return folder


def stamps(folder: Path, but: Path) -> dict[Path, int]:
    """When each file of a folder was changed, but for those below another one."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if but not in (path, *path.parents)}


def anew(original: Path, copy: Path) -> Path:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy, symlinks=True)
    return copy


def plain_values(content: bytes) -> Any:
    """What a JSON file holds; None for another one, and for one that was spoilt before."""
    with suppress(ValueError, RecursionError):
        return json.loads(content)


def spoilt(data: Any, folder: Path) -> None:
    """One file of a folder gets other content, is gone, or is something else than a file; now and then two."""
    for _ in range(data.draw(st.integers(1, 2))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        content = path.read_bytes()
        how = data.draw(st.sampled_from(["bytes"] * 6 + ["values"] * 4 + ["gone", "link", "folder", "fifo"]))
        if how == "values" and (values := plain_values(content)):
            path.write_bytes(as_json(data.draw(changed([values]))))
        elif how in ("bytes", "values"):
            path.write_bytes(data.draw(damaged([content])))
        else:
            path.unlink()
            if how == "link":
                path.symlink_to(folder.parent / "outside")
            elif how == "folder":
                path.mkdir()
            elif how == "fifo":
                os.mkfifo(path)


# -- data ------------------------------------------------------------------------------------------------------------------

ROWS = [{"text": f"text {i}", "label": i // 3 % 2, "note": 0.5 * i} for i in range(24)]


@pytest.fixture(scope="module")
def saved_by_datasets(place) -> list[Path]:
    """A DatasetDict and a single data set, as `save_to_disk` writes them."""
    import datasets

    kinds = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "note": datasets.Value("float32"),
    }
    parts = [datasets.Dataset.from_list(ROWS[i::2], features=datasets.Features(kinds)) for i in range(2)]
    datasets.DatasetDict({"train": parts[0], "test": parts[1]}).save_to_disk(
        place / "splits" / "a", num_shards={"train": 2, "test": 1}
    )
    parts[0].save_to_disk(place / "single" / "a")
    return [place / "splits", place / "single"]


@fuzzed(st.integers(0, 1), st.data(), fixtures=["saved_by_datasets", "place"])
def test_save_to_disk(which, data, saved_by_datasets, place):
    folder = anew(saved_by_datasets[which], place / "stream")
    spoilt(data, folder / "a")
    if data.draw(st.integers(0, 9)) == 0:
        name, state = data.draw(st.sampled_from(LEADING_OUT)), folder / "a" / "dataset_dict.json"
        state = state if state.is_file() else folder / "a" / "state.json"
        content = {"splits": ["train", name]} if state.name.startswith("dataset") else {"_data_files": [{"filename": name}]}
        state.write_bytes(as_json(content))
    tasks = used_or_refused(lambda: loading.load_tasks(str(folder)))
    for task in tasks or ():
        assert {example.text for split in ("train", "validation", "test") for example in task.split(split)}
        assert all(OUTSIDE not in example.text for example in task.train)


@pytest.fixture(scope="module")
def tables(place) -> dict[str, bytes]:
    import pandas

    frame = pandas.DataFrame([row | {"label": ("no", "yes")[int(row["label"])]} for row in ROWS])
    buffers = {"parquet": io.BytesIO(), "xlsx": io.BytesIO()}
    frame.to_parquet(buffers["parquet"])
    frame.to_excel(buffers["xlsx"], index=False)
    texts = {"csv": frame.to_csv(index=False), "tsv": frame.to_csv(index=False, sep="\t"),
             "jsonl": frame.to_json(orient="records", lines=True), "json": frame.to_json(orient="records")}  # fmt: skip
    return {kind: text.encode() for kind, text in texts.items()} | {kind: file.getvalue() for kind, file in buffers.items()}


CHOSEN = ["task", "text", "label", "text_pair", "targets"]


@fuzzed(st.sampled_from(uploads.KINDS), st.data(), fixtures=["tables", "place"])
def test_uploads(kind, data, tables, place):
    """What the page does with a file: it is read, columns are proposed and chosen, the tasks are made and saved."""
    name = data.draw(st.sampled_from([f"data.{kind}", *(f"{name}.{kind}" for name in LEADING_OUT), *LEADING_OUT]))
    content = data.draw(st.one_of(damaged([tables[kind]]), damaged([*tables.values()])))
    shutil.rmtree(place / "runs", ignore_errors=True)
    before = stamps(place, place / "runs")

    def use() -> None:
        table = uploads.read_upload(name, content)
        chosen = uploads.proposed(table)
        if data.draw(st.booleans()) and table.columns:
            chosen = data.draw(st.dictionaries(st.sampled_from(CHOSEN), st.sampled_from(table.columns)))
        saved = saved_stream.save(uploads.tasks_in(table, chosen), runs=place / "runs")
        assert [task.digest() for task in saved.tasks] and saved.path.parent == place / "runs" / "streams"
        json.dumps([saved_stream.shown(task, 3) for task in saved.tasks])

    used_or_refused(use)
    assert stamps(place, place / "runs") == before


# -- archives --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(place) -> dict[str, dict[str, bytes]]:
    """The members of an archive of a run, and its bytes in either format."""
    run = write_run(place / "packed", "good")
    files = [place / name for name in ("good.zip", "good.tar.gz")]
    for file in files:
        archive.pack(run, file)
    with zipfile.ZipFile(files[0]) as zipped:
        members = {item.filename: zipped.read(item) for item in zipped.infolist()}
    return {"members": members, "bytes": {file.name: file.read_bytes() for file in files}}


LINKS = {tarfile.SYMTYPE: "../../outside", tarfile.LNKTYPE: "good/run.json"} | dict.fromkeys(
    [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE], ""
)


def archived(data: Any, members: dict[str, bytes]) -> tuple[str, bytes]:
    """An archive of members that were renamed, spoilt, repeated, lied about, or made into links; its list is often right."""
    listed = dict(members)
    name = data.draw(st.sampled_from(sorted(listed)))
    how = data.draw(st.sampled_from(["rename", "bytes", "values", "remove", "add"]))
    if how == "rename":
        other = data.draw(st.sampled_from([*LEADING_OUT, "good/RUN.json", "good/checkpoint/1/x", "other/run.json", "good/.lock"]))
        listed[data.draw(st.sampled_from([other, f"good/{other}"]))] = listed.pop(name)
    elif how == "values" and name.endswith(".json"):
        listed[name] = as_json(data.draw(changed([json.loads(listed[name])])))
    elif how in ("bytes", "values"):
        listed[name] = data.draw(damaged([listed[name]]))
    elif how == "remove":
        del listed[name]
    else:
        listed["good/log.txt"] = bytes(data.draw(st.sampled_from([0, 1, 1 << 16])))
    if data.draw(st.booleans()) and "good/archive.json" in listed:  # somebody who knows how digests are written
        digests = {path.partition("/")[2]: hashlib.sha256(content).hexdigest() for path, content in listed.items()}
        digests.pop("archive.json", None)
        if "manifest.json" in digests and data.draw(st.booleans()):
            listed.pop("good/manifest.json")
            del digests["manifest.json"]
        listed["good/archive.json"] = json.dumps({"format": 1, "files": digests}).encode(errors="replace")
    buffer, kind = io.BytesIO(), data.draw(st.sampled_from(["zip", "tar.gz"]))
    link = data.draw(st.sampled_from([None] * 6 + [*LINKS]))
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path, content in listed.items():
                about = zipfile.ZipInfo("x")
                about.filename = path.encode("utf-8", "replace").decode()
                about.external_attr = (0o120777 if link and path == name else 0o100644) << 16
                zipped.writestr(about, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT, errors="surrogatepass") as tarred:
            for path, content in listed.items():
                about = tarfile.TarInfo(path.encode("utf-8", "replace").decode().replace("\x00", ""))
                about.size = len(content)
                if link and path == name:
                    about.type, about.linkname, about.size = link, LINKS[link], 0
                tarred.addfile(about, io.BytesIO(content))
    return f"some.{kind}", buffer.getvalue()


@fuzzed(st.data(), fixtures=["packed", "place"])
def test_archives(data, packed, place):
    """A run comes in whole or not at all, and nothing else is changed."""
    if data.draw(st.booleans()):
        name, content = archived(data, packed["members"])
    else:
        name = data.draw(st.sampled_from(sorted(packed["bytes"])))
        content = data.draw(damaged([packed["bytes"][name]]))
    (place / name).write_bytes(content)
    shutil.rmtree(place / "in", ignore_errors=True)
    before = stamps(place, place / "in")
    run = used_or_refused(lambda: archive.unpack(place / name, place / "in"))
    there = [path for path in (place / "in").glob("*") if path.name != ".jobs.lock"]
    assert there == ([run.dir] if run else []) and stamps(place, place / "in") == before
    if run:
        assert archive.rows.problem(run) == "" and not [path for path in run.dir.rglob("*") if path.is_symlink()]
        assert run.status in ("finished", "stopped", "failed", "interrupted")
        archive.pack(run, place / "in" / "again.zip")


# -- saved models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(place) -> Path:
    """The folder of a saved model."""
    run = toy.recorded(toy.session("l2r", of=toy.tasks("sea", "city", train=16)), place / "trained")
    return load(run).save_pretrained(place / "model")


@fuzzed(st.data(), fixtures=["model", "place"])
def test_saved_models(data, model, place):
    """A model that was loaded answers; mostly the manifest agrees with what was changed, as somebody can write it anew."""
    folder = anew(model, place / "changed")
    spoilt(data, folder)
    about = folder / "model.json"
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        if data.draw(st.booleans()):
            content = json.loads(about.read_bytes())
            field = data.draw(st.sampled_from(sorted(content["origin"])))
            content["origin"][field] = data.draw(st.sampled_from([*ODD, *([name, "city"] for name in LEADING_OUT)]))
            about.write_bytes(as_json(content))
    if data.draw(st.integers(0, 9)):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        digests = {path.relative_to(folder).as_posix(): atomic_io.sha256(path) for path in files}
        atomic_io.write_json(folder / "manifest.json", digests)
    loaded = used_or_refused(lambda: load(folder))
    if loaded is not None:
        used_or_refused(lambda: loaded.predict(["red wave tide"]))
        used_or_refused(lambda: loaded.route(["red wave tide"]))


def test_what_is_damaged_can_be_read(saved_by_datasets, packed, model, place):
    for folder in saved_by_datasets:
        assert [len(task.train) for task in loading.load_tasks(str(folder))] == [9 if folder.name == "splits" else 7]
    for name, content in packed["bytes"].items():
        (place / name).write_bytes(content)  # inputs of other tests bear the same names
        assert archive.unpack(place / name, place / "unpacked", name.replace(".", "-")).status == "finished"
    assert load(model).predict(["red wave tide"])
    with pytest.raises(LabError):
        load(place / "nowhere")
