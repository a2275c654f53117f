"""`lab app`."""

from typing import Annotated

import typer

from lab.cli.options import Runs, Section, command


@command(Section.LOOK)
def app_(
    port: Annotated[int, typer.Option(help="port of the page")] = 8501,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 lets others come, with --token")] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token", help="ask for a key; the links that hold it are printed ($LAB_TOKEN sets it)")
    ] = False,
    allow_training: Annotated[
        bool, typer.Option("--allow-training", help="visitors can start, stop and delete runs too, not only the owner")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="another name that the page is called by, behind a proxy; *.example.org for all under one"),
    ] = None,
    owner: Annotated[str | None, typer.Option(help="e-mail address of the owner, where Streamlit's login is set up")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="nobody can start, stop or delete runs from the page")] = False,
    runs: Runs = None,
) -> None:
    """Open the dashboard: lab app"""
    from lab.pages import launch

    launch(port, runs, read_only, host, allow_host or (), token, allow_training, owner)
