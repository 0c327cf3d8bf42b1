"""Where data files are looked for."""

import os
from pathlib import Path

from cutaway.errors import DataError


def folders() -> list[Path]:
    """The folders searched for data files: `CUTAWAY_DATA` when set, then the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutaway" / "data"
    given = os.environ.get("CUTAWAY_DATA")
    return [Path(given).expanduser(), cache] if given else [cache]


def find(name: str, how: str) -> Path:
    """The first file or folder of that name in `folders()`.

    Args:
        name: path below the data folder.
        how: one sentence that says how to get it, for the error.

    Raises:
        DataError: when it is nowhere.
    """
    for folder in folders():
        if (folder / name).exists():
            return folder / name
    looked = ", ".join(str(folder) for folder in folders())
    raise DataError(f"{name} is not in {looked}. {how} Set CUTAWAY_DATA to the folder that holds it.")
