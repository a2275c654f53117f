"""Sets of files are whole or not there, wherever the process dies; second copies mend single files."""

import hashlib
from contextlib import suppress

import pytest
from support import faults

from lab.core import verified_files
from lab.core.verified_files import MANIFEST, Damaged

OLD = {"a.bin": b"old" * 100, "b.json": b"{}"}
NEW = {"a.bin": b"new" * 100, "b.json": b'{"x": 1}'}


def test_a_set_is_read_as_it_was_written(tmp_path):
    verified_files.write(tmp_path / "sets" / "0", NEW)
    assert verified_files.read(tmp_path / "sets" / "0") == NEW
    assert sorted(path.name for path in (tmp_path / "sets" / "0").iterdir()) == ["a.bin", "b.json", MANIFEST]


@pytest.mark.parametrize("damage", faults.DAMAGE)
@pytest.mark.parametrize("name", [*NEW, MANIFEST])
def test_damage_to_any_file_is_seen(tmp_path, name, damage):
    verified_files.write(tmp_path / "0", NEW)
    faults.DAMAGE[damage](tmp_path / "0" / name)
    with pytest.raises(Damaged):
        verified_files.read(tmp_path / "0")


def test_every_flipped_bit_of_a_manifest_is_seen(tmp_path):
    verified_files.write(tmp_path / "0", NEW)
    path = tmp_path / "0" / MANIFEST
    content = path.read_bytes()
    for place in range(0, len(content) * 8, 7):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        with suppress(Damaged):
            assert verified_files.read(tmp_path / "0") == NEW  # white space between the words


@pytest.mark.parametrize("torn", [False, True])
def test_a_write_that_dies_anywhere_leaves_nothing_or_everything(tmp_path, torn):
    with faults.killed(tmp_path) as counted:
        verified_files.write(tmp_path / "counted", NEW)
    assert counted.count >= 5  # a folder, three files, a name
    states = set()
    for at in range(counted.count):
        folder = tmp_path / str(at)
        folder.mkdir()
        verified_files.write(folder / "0", OLD)
        with faults.killed(folder, at, torn):
            verified_files.write(folder / "1", NEW)
        assert verified_files.read(folder / "0") == OLD
        states.add((folder / "1").exists())
    assert states == {False}  # the name is given last
    with faults.killed(tmp_path / "0", 1):
        verified_files.remove(tmp_path / "0" / "0")
    assert not (tmp_path / "0" / "0").exists()


def test_what_is_read_back_otherwise_has_no_name(tmp_path, monkeypatch):
    """A disk that loses a bit on the way."""
    real = verified_files.atomic_io.write_bytes
    monkeypatch.setattr(verified_files.atomic_io, "write_bytes", lambda path, content: real(path, content[:-1] + b"?"))
    with pytest.raises(Damaged):
        verified_files.write(tmp_path / "0", NEW)
    assert not [*tmp_path.iterdir()]


def test_what_is_damaged_is_set_aside_with_its_reason(tmp_path):
    for number in (1, 2):
        verified_files.write(tmp_path / "sets" / "0", NEW)
        aside = verified_files.set_aside(tmp_path / "sets" / "0", "a.bin is missing")
        assert aside == tmp_path / f"sets.damaged-{number}" and not (tmp_path / "sets" / "0").exists()
        assert (aside / "reason.txt").read_text() == "a.bin is missing\n" and (aside / "a.bin").exists()


@pytest.mark.parametrize("damage", faults.DAMAGE)
def test_a_file_and_its_copy_mend_each_other(tmp_path, damage):
    path, copies = tmp_path / "f", tmp_path / "copies"
    path.write_bytes(b"content")
    digest = verified_files.copy(path, copies)
    assert digest == hashlib.sha256(b"content").hexdigest() and not verified_files.mend(path, digest, copies)
    faults.DAMAGE[damage](path)
    assert verified_files.mend(path, digest, copies) and path.read_bytes() == b"content"
    faults.DAMAGE[damage](copies / digest)
    assert not verified_files.mend(path, digest, copies) and (copies / digest).read_bytes() == b"content"
    faults.DAMAGE[damage](path), faults.DAMAGE[damage](copies / digest)
    with pytest.raises(Damaged):
        verified_files.mend(path, digest, copies)
