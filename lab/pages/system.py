"""What the pages say about the machine: device, folder of runs, free disk, and a check that training can work. No torch here."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import LabError
from lab.jobs import jobs, scheduler

PATIENCE = 120  # seconds for the process that loads torch
LEAST_FREE = 1e9  # bytes
PROBE = """
import json, torch, transformers, peft
from lab.models.pretrained import locate
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "cuda": cuda, "minilm": str(locate("minilm").path is not None)}))
"""


@dataclass(frozen=True)
class Check:
    """One thing that training needs, whether it is there, and what was seen."""

    name: str
    good: bool
    seen: str


def device() -> tuple[str, str]:
    """Name and icon of the device that training would use, found without loading torch."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if cards and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        model = next((line for line in cards[0].read_text().splitlines() if line.startswith("Model")), "Model: NVIDIA GPU")
        return model.partition(":")[2].strip() + (f" × {len(cards)}" if len(cards) > 1 else ""), ":material/developer_board:"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU", ":material/developer_board:"
    return f"CPU, {os.cpu_count()} cores", ":material/memory:"


def place(folder: Path) -> str:
    """A folder as people know it: relative to where the server was started, else its last two names."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(Path("…", *folder.resolve().parts[-2:]))


def disk(folder: Path) -> tuple[int, int]:
    """Bytes used by a folder, and bytes free on its disk."""
    used = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    near = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.is_dir())
    return used, shutil.disk_usage(near).free


def self_check(folder: Path) -> list[Check]:
    """What training needs, tried: a folder that can be written, disk, a process that loads torch, the default backbone."""
    jobs.refuse_read_only()
    return [_writable(folder), _space(folder), *_process()]


def recipes() -> list[dict[str, str]]:
    """What `lab list recipes` says, from a process of its own, since it loads torch. LabError if that cannot be."""
    command = [sys.executable, "-m", "lab", "list", "recipes", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=scheduler.environment())
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise LabError(f"the list of recipes did not come: {type(error).__name__}") from error
    except ValueError:
        raise LabError((done.stderr.strip().splitlines() or ["the list of recipes is empty"])[-1]) from None


def _writable(folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-"):
            return Check("Runs can be written", True, place(folder))
    except OSError as error:
        return Check("Runs can be written", False, f"{place(folder)}: {error.strerror}")


def _space(folder: Path) -> Check:
    free = disk(folder)[1]
    return Check("Disk has room", free > LEAST_FREE, f"{free / 1e9:.1f} GB free")


def _process() -> list[Check]:
    """A process as a job is one, which loads what training loads."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PATIENCE, env=scheduler.environment()
        )
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError) as error:
        return [Check("A process can train", False, f"{type(error).__name__}: it did not answer in {PATIENCE} s")]
    except ValueError:
        return [Check("A process can train", False, (done.stderr.strip().splitlines() or ["it said nothing"])[-1])]
    where = ", ".join(found["cuda"]) or "CPU"
    return [
        Check("A process can train", True, f"torch {found['torch']} on {where}"),
        Check("Backbone minilm is here", found["minilm"] == "True", "shipped with the package, checked by its hash"),
    ]


def refused() -> str:
    """Why the check cannot be made here; empty if it can."""
    try:
        jobs.refuse_read_only()
    except LabError as error:
        return str(error)
    return ""
