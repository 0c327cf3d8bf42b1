"""A search for examples written down as it goes, to be gone on with after an interruption."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cutaway.errors import ArgumentError, RunFolderError


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        tensors: what was found so far, by name; empty at the beginning.
        about: what these are, as JSON can hold it.
        batches: how many batches of the data are done.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 0


@dataclass
class State:
    """The file that a search is written to: one safetensors file, replaced as a whole.

    Attributes:
        path: of the file; None for no file.
        settings: what the search is for; a file of other settings is refused.
        every: seconds between two writes.
        data: the sum of the first batch, by which other data are told apart.
    """

    path: Path | None
    settings: Mapping[str, Any]
    every: float = 30.0
    data: str = ""
    last: float = field(default_factory=time.monotonic)

    def read(self) -> Progress:
        """What the file holds; nothing where there is none.

        Raises:
            RunFolderError: the file cannot be read.
            ArgumentError: it is of another search.
        """
        if self.path is None or not self.path.exists():
            return Progress()
        try:
            with safe_open(str(self.path), "pt") as file:
                words = json.loads((file.metadata() or {})["examples"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise RunFolderError(
                f"{self.path} does not hold a search for examples ({error}): delete it, or name another"
            ) from error
        for name, value in self.settings.items():
            if words["settings"].get(name) != value:
                raise ArgumentError(
                    f"{self.path} holds a search with {name}={words['settings'].get(name)!r}, this one has "
                    f"{name}={value!r}: delete the file, or name another"
                )
        self.data = words["data"]
        return Progress(tensors, words["about"], words["batches"])

    def meet(self, x: Tensor) -> None:
        """Look at the first batch of the data.

        Raises:
            ArgumentError: the file is of other data.
        """
        if self.path is None:
            return
        found = fingerprint({"x": x})
        if self.data not in ("", found):
            raise ArgumentError(f"{self.path} holds a search over other data: delete the file, or name another")
        self.data = found

    def write(self, progress: Progress) -> None:
        """Write the file; at every moment either the old or the new one is there in full."""
        if self.path is None:
            return
        words = {"settings": self.settings, "about": progress.about, "batches": progress.batches}
        words["data"] = self.data
        content = save(dict(progress.tensors), metadata={"examples": json.dumps(words)})
        fresh = self.path.with_name(self.path.name + ".new")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for another write."""
        return self.path is not None and time.monotonic() - self.last >= self.every


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A short sum of tensors, by which another model or other data are told apart.

    >>> import torch
    >>> fingerprint({"x": torch.zeros(2)}) == fingerprint({"x": torch.ones(2)})
    False
    """
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
