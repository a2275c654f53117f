"""Instructions and conversations as tasks of free text."""

import json

import pytest
from support.errors import assert_says

from lab.core.errors import LabError
from lab.data.folder_stream import FolderStream
from lab.data.sources import read_tasks
from lab.data.stream import SPLITS, Task


def turns(*texts: str, names=("role", "content"), speakers=("user", "assistant"), system: str = "") -> list[dict]:
    spoken = [("system", system)] if system else []
    spoken += [(speakers[i % 2], text) for i, text in enumerate(texts)]
    return [dict(zip(names, turn, strict=True)) for turn in spoken]


def task_of(*rows: dict) -> Task:
    """The rows, and enough others beside them."""
    plain = {"instruction": "more {}", "output": "fine"}
    filler = [{name: _number(plain, i) if name == "instruction" else value for name, value in plain.items()} for i in range(12)]
    if "instruction" not in rows[0]:
        (column,) = (name for name in rows[0] if name in ("messages", "conversations"))
        filler = [{column: turns(f"more {i}", "fine")} for i in range(12)]
    return read_tasks([*rows, *filler])[0]


def _number(plain: dict, i: int) -> str:
    return plain["instruction"].format(i)


def answers(task: Task) -> dict[str, str]:
    return {row.text: row.targets[0] for split in SPLITS for row in task.split(split)}


def test_rows_of_alpaca():
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello"},
        {"instruction": "Say no.", "input": None, "output": "No", "system": "Be brief."},
        {"instruction": "Say nothing.", "input": "", "output": " "},
    ]
    task = task_of(*rows)
    read = answers(task)
    assert task.generates and len(read) == 15
    assert (read["Add.\n\n1 and 2"], read["Say hello."], read["Be brief.\n\nSay no."]) == ("3", "Hello", "No")
    assert any("1 of 16 rows have no question or no answer" in note for note in task.notes)


@pytest.mark.parametrize(
    ("column", "form"),
    [("messages", {}), ("conversations", {"names": ("from", "value"), "speakers": ("human", "gpt")})],
)
def test_conversations(column, form):
    rows = [
        {column: turns("Hi", "Hello", **form)},
        {column: turns("Capital of Peru?", "Lima", system="Be brief.", **form)},
        {column: turns("2 + 2?", "4", "And 3 more?", "7", system="Count.", **form)},
        {column: turns("Thanks?", "Welcome", "Bye", **form)},
        {column: turns("No answer", **form)},
    ]
    task = task_of(*rows)
    read = answers(task)
    assert len(read) == 16 and read["Hi"] == "Hello" and read["Be brief.\n\nCapital of Peru?"] == "Lima"
    assert read["Count.\n\nUser: 2 + 2?\n\nAssistant: 4\n\nUser: And 3 more?"] == "7" and read["Thanks?"] == "Welcome"
    said = " ".join(task.notes)
    assert "1 of 17 conversations have several turns" in said and "1 of 17 conversations go on after" in said
    assert "1 of 17 rows have no question" in said


def test_folders_of_instructions(tmp_path):
    (tmp_path / "s" / "chat").mkdir(parents=True)
    rows = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
    (tmp_path / "s" / "chat" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = FolderStream(tmp_path / "s").load("chat")
    assert task.digest() == read_tasks({"chat": rows})[0].digest() and answers(task)["q3"] == "a3"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": "Hi"}, ["row 0", "messages is of type str"]),
        ({"messages": ["Hi"]}, ["turn 0", "str"]),
        ({"messages": [{"role": "tool", "content": "x"}]}, ["turn 0", "'tool'", "user"]),
        ({"messages": [{"text": "x"}]}, ["turn 0", "role None"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ["turn 0", "of type list"]),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, ["turn 0", "calls of tools"]),
        ({"instruction": 7, "output": "x"}, ["row 0: instruction is of type int"]),
    ],
)
def test_what_is_no_text_is_refused(row, words):
    with pytest.raises(LabError) as caught:
        task_of(row)
    assert_says(caught, *words)


def test_data_without_answers():
    with pytest.raises(LabError) as caught:
        read_tasks([{"messages": turns("Hi")}] * 3)
    assert_says(caught, "none of its 3 rows has a question and an answer")
