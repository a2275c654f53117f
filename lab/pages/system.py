"""Facts about the machine for the pages: device, folder of runs, free disk, and a check that training works. No torch here."""

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

TIMEOUT = 120  # seconds for the process that loads torch
LEAST_FREE = 1e9  # bytes
PROBE = """
import json, torch, transformers, peft
from lab.models.pretrained import locate
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "cuda": cuda, "minilm": locate("minilm").path is not None}))
"""


@dataclass(frozen=True)
class Check:
    """One requirement of training, whether it is met, and the evidence."""

    name: str
    passed: bool
    detail: str


def device() -> tuple[str, str]:
    """Name and icon of the device that training would use, determined without loading torch."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if cards and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        model = next((line for line in cards[0].read_text().splitlines() if line.startswith("Model")), "Model: NVIDIA GPU")
        return model.partition(":")[2].strip() + (f" × {len(cards)}" if len(cards) > 1 else ""), ":material/developer_board:"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU", ":material/developer_board:"
    return f"CPU, {os.cpu_count()} cores", ":material/memory:"


def short_path(folder: Path) -> str:
    """A folder relative to where the server was started, else its last two names."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(Path("…", *folder.resolve().parts[-2:]))


def disk(folder: Path) -> tuple[int, int]:
    """Bytes used by a folder, and bytes free on its disk."""
    used = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.is_dir())
    return used, shutil.disk_usage(existing).free


def self_check(folder: Path) -> list[Check]:
    """Test what training needs: a writable folder, disk, a process that loads torch, the default backbone.

    Raises LabError in a read-only lab.
    """
    jobs.refuse_read_only()
    return [_folder_is_writable(folder), _disk_has_room(folder), *_process_can_train()]


def recipes() -> list[dict[str, str]]:
    """The output of `lab list recipes --json`, from a process of its own, since it loads torch. Raises LabError if it fails."""
    command = [sys.executable, "-m", "lab", "list", "recipes", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=scheduler.environment())
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise LabError(f"the recipes cannot be listed: {type(error).__name__}; try `lab list recipes`") from error
    except ValueError:
        raise LabError((done.stderr.strip().splitlines() or ["`lab list recipes` printed nothing"])[-1]) from None


def _folder_is_writable(folder: Path) -> Check:
    name = "The folder of runs is writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-"):
            return Check(name, True, short_path(folder))
    except OSError as error:
        return Check(name, False, f"{short_path(folder)}: {error.strerror}")


def _disk_has_room(folder: Path) -> Check:
    free = disk(folder)[1]
    return Check("The disk has room", free > LEAST_FREE, f"{free / 1e9:.1f} GB free")


def _process_can_train() -> list[Check]:
    """Start a process like that of a job and load there what training loads."""
    name = "A process can train"
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=scheduler.environment())
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError) as error:
        return [Check(name, False, f"{type(error).__name__}: no answer within {TIMEOUT} s")]
    except ValueError:
        return [Check(name, False, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])]
    device_name = ", ".join(report["cuda"]) or "CPU"
    return [
        Check(name, True, f"torch {report['torch']} on {device_name}"),
        Check("The backbone minilm is installed", report["minilm"], "comes with the package; its hash is checked"),
    ]
