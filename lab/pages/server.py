"""Starts the dashboard's server with the settings that travel inside the package."""

import os
import signal
import subprocess
import sys
import tomllib
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
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in chosen.items()]
    return [sys.executable, "-m", "streamlit", "run", str(HERE / "main.py"), *flags]


def launch(port: int = 8501, runs: str | Path | None = None, read_only: bool = False) -> None:
    """Run the dashboard until it is ended."""
    environment = (
        os.environ | ({"LAB_RUNS": str(Path(runs).resolve())} if runs else {}) | ({"LAB_READ_ONLY": "1"} if read_only else {})
    )
    paths = [str(HERE.parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    print(f"lab app: http://127.0.0.1:{port}  (Ctrl-C ends it)", file=sys.stderr)
    server = subprocess.Popen(command(port), env=environment | {"PYTHONPATH": os.pathsep.join(paths)})
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())  # else it would go on alone and keep the port
    try:
        status = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        status = server.wait()
    if status not in (0, -signal.SIGTERM):
        raise SystemExit(status)
