"""A folder of thousands of run folders, for tests of speed: `PYTHONPATH=.:tests python -m support.many_runs FOLDER NUMBER`."""

import json
import shutil
import sys
from pathlib import Path

from support.run_folders import write_run

FILES = ("config.yaml", "run.json", "matrix.json", "events.jsonl", "env.json")


def make(runs: Path, number: int) -> None:
    """So many finished runs, copies of one that differ in recipe, seed and time of creation; without arrays."""
    template = write_run(runs, "template", routed=False)
    contents = {name: template.bytes_of(name).decode() for name in FILES}
    info = template.info
    shutil.rmtree(template.dir)
    for k in range(number):
        folder = runs / f"run-{k:05d}"
        folder.mkdir()
        created = f"2026-01-{k % 28 + 1:02d}T{k // 28 % 24:02d}:00:00.000+00:00"
        config = contents["config.yaml"].replace("recipe: l2r", f"recipe: {('l2r', 'ewc', 'sequential')[k % 3]}")
        changed = {"run.json": json.dumps(info | {"created": created}), "config.yaml": config.replace("seed: 0", f"seed: {k}")}
        for name, content in (contents | changed).items():
            (folder / name).write_text(content)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
