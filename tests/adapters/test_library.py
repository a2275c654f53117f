"""Experts as files: subspaces against scipy, norms against dense matrices, archives that peft loads, archives to refuse."""

import io
import json
import math
import zipfile

import numpy as np
import pytest
import scipy.linalg
from support.run_folders import KEEPS, TASKS, write_run
from support.saved_experts import LAYERS, save

from lab.adapters import library, peft_folder
from lab.adapters.library import SavedExpert
from lab.core import atomic_io, registry
from lab.core.errors import LabError


def test_alignment_is_the_cosine_of_the_whole_updates(tmp_path):
    """Against dense matrices, for experts of other ranks and scales; unknown where an update is zero or not there."""
    experts = [save(tmp_path / "a", 3, 1), save(tmp_path / "b", 2, 2, use_rslora=True), save(tmp_path / "c", 3, 3, alpha=1.0)]
    one, *others = [expert.layers() for expert in experts]
    table = library.alignment(one, experts)
    assert list(table.columns) == [expert.key for expert in experts] and list(table.index) == [*LAYERS, "all layers"]
    np.testing.assert_allclose(table[experts[0].key], 1)
    for expert, other in zip(experts[1:], others, strict=True):
        x, y = ([layers[name]["lora_B"] @ layers[name]["lora_A"] for name in LAYERS] for layers in (one, other))
        x, y = [*x, np.concatenate(x)], [*y, np.concatenate(y)]
        expected = [np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(table[expert.key], expected)
    odd = [save(tmp_path / "d", zero=True), save(tmp_path / "e", layers={"other": (12, 10)})]
    assert library.alignment(one, odd).isna().all(axis=None)


@pytest.mark.parametrize("shapes", [(3, 3), (2, 5), (1, 1)])
def test_angles_are_those_of_scipy(shapes):
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=(20, shapes[0])), draw.normal(size=(20, shapes[1]))
    expected = scipy.linalg.subspace_angles(a, b)
    np.testing.assert_allclose(library.principal_angles(a, b), expected, atol=1e-7)
    found = library.overlap(library.basis(a), library.basis(b))
    assert found == pytest.approx(np.mean(np.cos(expected) ** 2))


def test_overlap_is_one_for_the_same_space_zero_for_orthogonal_ones_and_nothing_for_an_empty_one():
    draw = np.random.default_rng(1)
    a = draw.normal(size=(9, 3))
    basis = library.basis
    assert library.overlap(basis(a), basis(a @ draw.normal(size=(3, 3)))) == pytest.approx(1.0)
    q, _ = np.linalg.qr(draw.normal(size=(9, 9)))
    assert library.overlap(basis(q[:, :3]), basis(q[:, 3:6])) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(library.overlap(basis(a), basis(np.zeros((9, 3)))))
    assert basis(np.outer(a[:, 0], [1.0, 2.0, 3.0])).shape == (9, 1)  # a direction that is repeated counts once


def test_similarity_is_the_mean_over_common_layers(tmp_path):
    a, b = save(tmp_path / "a", seed=1), save(tmp_path / "b", seed=2, rank=2)
    other = save(tmp_path / "c", layers={"other": (4, 4)})
    empty = save(tmp_path / "d", zero=True)
    table = library.similarity([a, b, other, empty])
    one, two = a.layers(), b.layers()
    angles = [scipy.linalg.subspace_angles(one[name]["lora_B"], two[name]["lora_B"]) for name in LAYERS]
    expected = np.mean([np.mean(np.cos(angle) ** 2) for angle in angles])
    assert table.iloc[0, 1] == pytest.approx(expected) and table.iloc[1, 0] == table.iloc[0, 1]
    assert table.iloc[0, 0] == pytest.approx(1) and math.isnan(table.iloc[0, 2]) and math.isnan(table.iloc[0, 3])
    reads = library.similarity([a, b], "input").iloc[0, 1]
    angles = [scipy.linalg.subspace_angles(one[name]["lora_A"].T, two[name]["lora_A"].T) for name in LAYERS]
    assert reads == pytest.approx(np.mean([np.mean(np.cos(angle) ** 2) for angle in angles]))


def test_norm_is_that_of_the_whole_update(tmp_path):
    expert = save(tmp_path / "a", alpha=6.0)
    dense = [2.0 * layer["lora_B"] @ layer["lora_A"] for layer in expert.layers().values()]
    assert library.describe(expert)["norm"] == pytest.approx(np.sqrt(sum(np.linalg.norm(one) ** 2 for one in dense)))
    rooted = save(tmp_path / "b", alpha=6.0, use_rslora=True)
    assert library.describe(rooted)["norm"] == pytest.approx(library.describe(expert)["norm"] * math.sqrt(3))


def test_experts_of_runs_know_what_they_have_kept(runs):
    run = write_run(runs, "a")
    for name in (*TASKS[:2], "shared"):
        save(run.dir / "experts" / name)
    (run.dir / "experts" / "weather" / peft_folder.WEIGHTS).write_bytes(b"xx")
    found = {expert.key: library.describe(expert) for expert in library.experts([run])}
    assert list(found) == ["a/animals", "a/shared", "a/weather"]
    first = found["a/animals"]
    assert (first["learned"], first["now"]) == (KEEPS[0][0], KEEPS[2][0]) and first["kept"] == pytest.approx(0.86 / 0.9)
    assert first["parameters"] == 2 * 3 * 22 and math.isnan(found["a/shared"]["learned"])
    assert found["a/weather"]["kind"] == "damaged" and "cannot be read" in found["a/weather"]["problem"]


@pytest.mark.parametrize("kind", registry.experts.names())
def test_the_card_says_whether_peft_loads_the_expert(tmp_path, kind):
    """For every kind of expert, against peft itself."""
    from peft import PeftModel
    from support import tiny

    _, bank = tiny.bank("bert", kind=kind, experts=1)
    bank.export(0, tmp_path / "one", "tiny")
    card = library.card(SavedExpert(tmp_path / "one"))
    try:
        loaded = isinstance(PeftModel.from_pretrained(tiny.model("bert"), tmp_path / "one"), PeftModel)
    except (TypeError, ValueError, KeyError):
        loaded = False
    assert (
        loaded
        == ("library_name: peft" in card)
        == ("PeftModel.from_pretrained" in card)
        == registry.experts.get(kind).peft_format
    )
    assert f"Kind: {kind}" in card and "base_model: " in card


def test_a_packed_expert_loads_in_peft_and_comes_back(runs, tmp_path):
    import torch
    from peft import PeftModel
    from support.tiny import model

    bert = model("bert")
    layers = {name: (32, 32) for name, _ in bert.named_modules() if name.endswith("self.query")}
    run = write_run(runs, "a")
    saved = save(run.dir / "experts" / "animals", layers=layers, target_modules=["query"], task_type="FEATURE_EXTRACTION")
    expert = SavedExpert(saved.folder, run)
    with zipfile.ZipFile(io.BytesIO(library.packed(expert))) as archive:
        archive.extractall(tmp_path)
    card = (tmp_path / "animals" / "README.md").read_text()
    assert "labels no, yes" in card and "0.900 when it was learned, 0.860 at the end" in card and "run `a`" in card
    adapted = PeftModel.from_pretrained(bert, tmp_path / "animals")
    name = next(iter(layers))
    loaded = adapted.base_model.model.get_submodule(name).lora_B["default"].weight
    np.testing.assert_array_equal(loaded.detach().numpy(), expert.layers()[name]["lora_B"].astype(np.float32))
    assert torch.isfinite(loaded).all()
    brought = library.import_expert(library.packed(expert), "mine", runs)
    assert brought.key == "imported/mine" and library.similarity([expert, brought]).iloc[0, 1] == pytest.approx(1)
    assert [one.key for one in library.experts([], runs)] == ["imported/mine"]
    with pytest.raises(LabError, match="already"):
        library.import_expert(library.packed(expert), "mine", runs)


def archive(members: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == link else 0o100644) << 16
            made.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "case, words",
    [
        ("slip", "leads out"),
        ("absolute", "leads out"),
        ("link", "link"),
        ("pickle", "pickle"),
        ("no zip", "no zip archive"),
        ("two", "2 files"),
        ("none", "0 files"),
        ("big", "more than"),
        ("kind", "r = 3 is no field of IA3"),
        ("rank", "of rank 4"),
        ("torn", "cannot be read"),
        ("text", "cannot be read"),
        ("name", "cannot name"),
        ("rank 0", "r = 0"),
        ("rank text", "r = '3'"),
        ("alpha", "lora_alpha = '6'"),
        ("empty", "it has no layer"),
        ("nan", "not finite"),
        ("crc", "cannot be taken out"),
        ("password", "without a password"),
        ("deep", "cannot be read"),
        ("list", "holds no mapping"),
        ("own", "peft_type None"),
        ("variant", "of rank 2"),
    ],
)
def test_archives_that_are_refused_leave_nothing(runs, tmp_path, monkeypatch, case, words):
    expert = save(tmp_path / "e", rank=0 if case == "rank 0" else 3, layers={} if case == "empty" else LAYERS)
    if case == "nan":
        arrays, header = atomic_io.read_arrays(expert.folder / peft_folder.WEIGHTS)
        next(iter(arrays.values()))[0, 0] = np.nan
        atomic_io.write_arrays(expert.folder / peft_folder.WEIGHTS, arrays, header)
    config, weights = (expert.folder / peft_folder.CONFIG).read_bytes(), (expert.folder / peft_folder.WEIGHTS).read_bytes()
    good = {f"e/{peft_folder.CONFIG}": config, f"e/{peft_folder.WEIGHTS}": weights}
    changed = {"kind": {"peft_type": "IA3"}, "rank": {"r": 4}, "rank text": {"r": "3"}, "alpha": {"lora_alpha": "6"}}
    changed |= {"own": {"peft_type": None}, "variant": {"rank_pattern": {"query": 2}}}

    good[f"e/{peft_folder.CONFIG}"] = json.dumps(json.loads(config) | changed.get(case, {})).encode()
    more = {
        "slip": {"../../evil": b"x"},
        "absolute": {"/etc/evil": b"x"},
        "link": {"e/l": b"/etc/passwd"},
        "pickle": {"e/adapter_model.bin": b"x"},
        "two": {f"f/{peft_folder.CONFIG}": config},
        "torn": {f"e/{peft_folder.WEIGHTS}": weights[:100]},
        "text": {f"e/{peft_folder.CONFIG}": b"{"},
        "deep": {f"e/{peft_folder.CONFIG}": b"[" * 100_000},
        "list": {f"e/{peft_folder.CONFIG}": b"[]"},
    }.get(case, {})
    if case == "big":
        monkeypatch.setattr(library, "UNPACKED", 100)
    content = b"no zip" if case == "no zip" else archive({} if case == "none" else good | more, link="e/l")
    directory = content.find(b"PK\x01\x02")  # of the first member: its flags are at 8, its checksum at 16
    if case == "crc":
        content = content[: directory + 16] + bytes(4) + content[directory + 20 :]
    elif case == "password":
        content = content[: directory + 8] + b"\x01" + content[directory + 9 :]
    with pytest.raises(LabError, match=words):
        library.import_expert(content, "../x" if case == "name" else "x", runs)
    assert not (runs / ".library" / "x").exists() and not (tmp_path / "evil").exists()


def test_adapters_that_came_in_another_way_are_damaged_and_no_error(tmp_path):
    """Rank 0, and a scale or weights that are no numbers: the table and the overlaps go on beside them."""
    for name, config in (("zero", {"r": 0}), ("deep", None), ("list", [])):
        folder = save(tmp_path / name, rank=0 if name == "zero" else 3).folder
        if config is None:
            (folder / peft_folder.CONFIG).write_text("[" * 100_000)
        elif config == []:
            atomic_io.write_json(folder / peft_folder.CONFIG, config)
        row = library.describe(SavedExpert(folder))
        assert row["kind"] == "damaged" and row["problem"]
    failed, sound = save(tmp_path / "failed"), save(tmp_path / "sound")
    arrays, header = atomic_io.read_arrays(failed.folder / peft_folder.WEIGHTS)
    atomic_io.write_arrays(failed.folder / peft_folder.WEIGHTS, {name: array * np.nan for name, array in arrays.items()}, header)
    found = library.similarity([failed, sound]).to_numpy()
    assert np.isnan(found[0]).all() and found[1, 1] == pytest.approx(1)


def test_experts_are_not_imported_where_the_lab_is_read_only(runs, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    with pytest.raises(LabError, match="read-only"):
        library.import_expert(b"", "x", runs)
