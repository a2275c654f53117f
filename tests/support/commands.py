"""The command line, called in this process."""

from typer.testing import CliRunner

from lab.cli.main import app


def lab(*words: str):
    return CliRunner().invoke(app, ["compose", *map(str, words)])
