"""`python -m lab` is the command `lab`."""

from lab.cli import app

app()
