"""Instruction data as tasks of free text: rows of Alpaca, and conversations as ShareGPT or lists of messages write them.

    {"instruction": ..., "input": ..., "output": ...}                    text: instruction and input, target: output
    {"conversations": [{"from": "human", "value": ...}, ...]}            text: all turns before the last answer,
    {"messages": [{"role": "user", "content": ...}, ...]}                target: the last answer

One row is one example, whatever the number of its turns, so answers in the middle of a conversation are read and not learned.
A single question stands for itself, several turns stand with who speaks; a system prompt stands before them. No chat template of
a backbone is applied: the text is the same for all of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lab.core.errors import LabError

COLUMNS = ("instruction", "input", "output", "system", "messages", "conversations")
TURNS = ("messages", "conversations")
SPEAKERS = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
Row = Mapping[str, Any]
Free = dict[str, Any]  # a row with text and targets


def is_instruction_data(columns: Collection[str]) -> bool:
    """Whether a table with these columns holds instructions or conversations."""
    return {"instruction", "output"} <= set(columns) or any(column in columns for column in TURNS)


def as_free_text(rows: Sequence[Row], location: Callable[[int], str]) -> tuple[list[Free], list[int], list[str]]:
    """Rows with `text` and `targets`, the index of the row that each comes from, and what is to be said of them.

    Rows without a question or without an answer are left out. Raises LabError with the `location` of a row that holds something
    else than texts, and for speakers other than system, user and assistant.
    """
    made: list[Free] = []
    kept: list[int] = []
    several = after = 0
    turns_in = next((column for column in TURNS if rows and column in rows[0]), None)
    for i, row in enumerate(rows):
        turns = _turns(row, turns_in, location(i)) if turns_in else _instruction(row, location(i))
        last = max((t for t, (speaker, text) in enumerate(turns) if speaker == "assistant" and text.strip()), default=0)
        before = [(speaker, text) for speaker, text in turns[:last] if text.strip()]
        if not any(speaker == "user" for speaker, _ in before):
            continue
        several += sum(speaker != "system" for speaker, _ in before) > 1
        after += last + 1 < len(turns)
        made.append({"text": _text(before), "targets": turns[last][1]})
        kept.append(i)
    notes = [f"{turns_in}: the last answer is the target, what stands before it is the text"] if turns_in else []
    notes += [] if turns_in else ["instruction and input are the text, output is the target"]
    if several:
        notes.append(f"{several:,} of {len(rows):,} conversations have several turns: all before the last answer are in the text")
    if after:
        notes.append(f"{after:,} of {len(rows):,} conversations go on after the last answer: these turns are left out")
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept):,} of {len(rows):,} rows have no question or no answer and are left out")
    return made, kept, notes


def _instruction(row: Row, location: str) -> list[tuple[str, str]]:
    """The turns of a row of Alpaca."""
    parts = {column: _string(row.get(column), f"{location}: {column}") for column in ("system", "instruction", "input", "output")}
    question = "\n\n".join(part for part in (parts["instruction"], parts["input"]) if part.strip())
    return [("system", parts["system"]), ("user", question), ("assistant", parts["output"])]


def _turns(row: Row, column: str, location: str) -> list[tuple[str, str]]:
    """Who speaks and what, of a row of messages."""
    turns = row.get(column)
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise LabError(f"{location}: {column} is of type {type(turns).__name__}, not a list of turns with role and content")
    spoken = [("system", _string(row.get("system"), f"{location}: system"))]
    for t, turn in enumerate(turns):
        where = f"{location}: turn {t} of {column}"
        if not isinstance(turn, Mapping):
            raise LabError(f"{where} is of type {type(turn).__name__}, not a mapping of role and content")
        role, content = (
            next((turn[name] for name in names if name in turn), None) for names in (("role", "from"), ("content", "value"))
        )
        speaker = SPEAKERS.get(role) if isinstance(role, str) else None
        if speaker is None or turn.get("tool_calls"):
            unread = "calls of tools are" if speaker else f"the role {role!r} is"
            raise LabError(f"{where}: {unread} not read, only texts of {', '.join(SPEAKERS)}")
        spoken.append((speaker, _string(content, f"{where}: the content")))
    return spoken


def _string(value: Any, where: str) -> str:
    """A text; nothing for None."""
    if value is not None and not isinstance(value, str):
        raise LabError(f"{where} is of type {type(value).__name__}, not a string")
    return value or ""


def _text(turns: Sequence[tuple[str, str]]) -> str:
    """What comes before the answer: with names of the speakers where there is more than one question."""
    named = sum(speaker != "system" for speaker, _ in turns) > 1
    return "\n\n".join(f"{speaker.capitalize()}: {text}" if named and speaker != "system" else text for speaker, text in turns)
