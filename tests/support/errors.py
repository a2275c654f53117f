"""Texts of errors are checked by what a reader needs of them (values, names, what to do), not by their sentences."""

from pytest import ExceptionInfo


def assert_says(error: ExceptionInfo[BaseException], *words: str) -> None:
    """The text of a caught error has all these words, in any order, and is one line."""
    text = str(error.value)
    absent = [word for word in words if word not in text]
    assert not absent and "\n" not in text, f"{absent} should stand in: {text}"
