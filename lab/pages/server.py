"""Starts the dashboard's server with the settings that travel inside the package."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.core.dotted import flat

HERE = Path(__file__).parent


def settings() -> dict[str, Any]:
    """config.toml as dotted names: {'server.address': '127.0.0.1', ...}."""
    return flat(tomllib.loads((HERE / "config.toml").read_text()))


def command(port: int = 8501, **changes: Any) -> list[str]:
    """The command line of the server; `changes` are further settings by dotted name with underscores for dots."""
    chosen = settings() | {"server.port": port} | {name.replace("_", "."): value for name, value in changes.items()}
    values = [(name, each) for name, value in chosen.items() for each in (value if isinstance(value, list) else [value])]
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values]
    return [sys.executable, "-m", "streamlit", "run", str(HERE / "dashboard.py"), *flags]


def launch(
    port: int = 8501,
    runs: str | Path | None = None,
    read_only: bool = False,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
    token: bool = False,
    allow_training: bool = False,
    owner: str | None = None,
) -> None:
    """Run the dashboard until it is ended; see `lab app --help` for the options, and lab.pages.gate for who may come.

    Raises LabError for an address that others reach without a key or a login.
    """
    from lab.pages import gate

    chosen = {
        "LAB_RUNS": str(Path(runs).resolve()) if runs else None,
        "LAB_READ_ONLY": "1" if read_only else None,
        "LAB_TOKEN": os.environ.get("LAB_TOKEN") or (secrets.token_urlsafe(24) if token else None),
        "LAB_ALLOW_TRAINING": "1" if allow_training else None,
        "LAB_OWNER": owner,
    }
    environment = os.environ | {name: value for name, value in chosen.items() if value}
    reached = not gate.is_loopback(host) or bool(allow_hosts)
    gate.refuse_unguarded(host, reached, environment.get("LAB_TOKEN"))
    paths = [str(HERE.parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    for line in links(host, port, environment.get("LAB_TOKEN")):
        print(line, file=sys.stderr)
    names = [*gate.LOOPBACK, host, *allow_hosts] if allow_hosts else []  # Streamlit answers no other on its websocket
    changes: dict[str, Any] = {"server_address": host} | ({"server_allowedHosts": names} if names else {})
    server = subprocess.Popen(command(port, **changes), env=environment | {"PYTHONPATH": os.pathsep.join(paths)})
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())  # else it would go on alone and keep the port
    try:
        status = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        status = server.wait()
    if status not in (0, -signal.SIGTERM):
        raise SystemExit(status)


def links(host: str, port: int, token: str | None) -> list[str]:
    """What is printed at the start: the addresses, with the keys where there are any."""
    from lab.pages.gate import PARAMETER, Keys

    address = f"http://{socket.gethostname() if host in ('0.0.0.0', '::') else f'[{host}]' if ':' in host else host}:{port}"
    if not token:
        return [f"lab app: {address}  (Ctrl-C ends it)"]
    keys = Keys(token)
    return [
        f"lab app, your link:            {address}/?{PARAMETER}={keys.owner}  (Ctrl-C ends it)",
        f"for visitors, who only look:   {address}/?{PARAMETER}={keys.visitor}",
    ]
