"""The run folder: what is written down about a run, and the checks before the first byte."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cutaway.errors import RunFolderError
from cutaway.train.checkpoint import LAST, PREVIOUS, write_atomically

RUN, HISTORY, WEIGHTS, INITIAL = "run.json", "history.jsonl", "model.safetensors", "initial.safetensors"
REPORT = "report.html"


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not.

    >>> holds_run(Path("no such folder"))
    False
    """
    return any((folder / name).exists() for name in (RUN, LAST, PREVIOUS))


def open_folder(out: str | os.PathLike[str], needed: int, overwrite: bool = False, resume: bool = False) -> Path:
    """Make or open a run folder, after checking everything that could go wrong with it later.

    Args:
        out: the folder.
        needed: bytes the run will write.
        overwrite: remove the run that is there.
        resume: go on with the run that is there, if there is one.

    Raises:
        RunFolderError: there is a run already, the folder cannot be written, or the disk is too full.
    """
    folder = Path(out)
    if overwrite and resume:
        raise RunFolderError("overwrite=True and resume=True contradict each other; choose one")
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; give a folder for the run")
    if holds_run(folder) and not (overwrite or resume):
        raise RunFolderError(
            f"{folder} holds a run already; go on with it by resume=True (--resume), "
            "replace it by overwrite=True (--overwrite), or give another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".probe", b"")
        (folder / ".probe").unlink()
    except OSError as reason:
        raise RunFolderError(f"{folder} cannot be written ({reason}); give another folder") from reason
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFolderError(
            f"{folder}: {free / 1e6:.1f} MB are free on the disk but the run needs about {needed / 1e6:.1f} MB; "
            "make room or give a folder on another disk"
        )
    if overwrite:
        _clear(folder)
    return folder


def _clear(folder: Path) -> None:
    """Remove what runs write, and nothing else."""
    for name in (RUN, HISTORY, WEIGHTS, INITIAL, LAST, PREVIOUS, REPORT):
        (folder / name).unlink(missing_ok=True)
        (folder / (name + ".new")).unlink(missing_ok=True)
    for part in folder.glob("seed-*"):
        if part.is_dir() and holds_run(part):
            _clear(part)
            if not any(part.iterdir()):
                part.rmdir()


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically as JSON."""
    write_atomically(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        RunFolderError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent} holds no run: {path.name} is missing; give a run folder") from None
    except (OSError, ValueError) as reason:
        raise RunFolderError(f"{path} cannot be read: {reason}") from reason


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights atomically as safetensors; tensors that share memory are written once each."""
    write_atomically(path, save({name: w.detach().cpu().contiguous().clone() for name, w in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights written by `write_weights`.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as reason:  # safetensors raises its own error, the system others
        raise RunFolderError(f"{path} cannot be read: {reason}") from reason


def write_history(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the whole history, one line per epoch (after going back to a checkpoint)."""
    write_atomically(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_history(folder: Path, row: dict[str, Any]) -> None:
    """Add one epoch's line and make it last."""
    with open(folder / HISTORY, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read the history; a last line cut off by a crash is left out."""
    path = folder / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the numbers depend on besides the settings: versions and machine.

    >>> environment()["python"] == platform.python_version()
    True
    """
    try:
        version = metadata.version("cutaway")
    except metadata.PackageNotFoundError:
        version = None
    kind = torch.device(device)
    return {
        "cutaway": version,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else str(kind),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _processor() -> str:
    """The processor's name: Linux tells it in a file, other systems by `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether it has changes; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True).stdout
