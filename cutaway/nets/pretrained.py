"""Weights from files and from the hub, put into our networks; errors name the key or shape that does not fit."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cutaway.errors import ArgumentError, DataError
from cutaway.nets.names import renamed
from cutaway.nets.registry import make

try:  # an optional extra
    import huggingface_hub  # pyright: ignore[reportMissingImports]
except ImportError:
    huggingface_hub = None

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")  # where checkpoints keep their weights
PREFIXES = ("module.", "model.", "_orig_mod.")  # what wrappers put in front of every name
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth")


def load(name: str, weights: str | Path, *, seed: int | None = 0, **settings: Any) -> nn.Module:
    """Make a network by name, put in weights from a file or the hub, and set it to evaluation mode.

    Args:
        name: one of `NAMES`.
        weights: a `.safetensors`, `.pth`, `.pt`, `.th` or `.bin` file (read without unpickling code), here or in the
            folder that CUTAWAY_DATA names, or
            "hub:owner/name", "hub:owner/name/file.safetensors" (needs huggingface_hub).
        seed: of the initial weights, all of which are replaced.
        settings: of the constructor, such as `classes=10` or `padding="same"`.

    Returns:
        the model, float32, in evaluation mode.

    Raises:
        LookupFailure: for an unknown network.
        DataError: when the file is missing or damaged, or a key or shape does not fit; all of them are named.

    >>> load("lenet5", "lenet5.safetensors")
    Traceback (most recent call last):
    cutaway.errors.DataError: lenet5.safetensors: no such file; expected weights as .safetensors or .pth, or a hub: name
    """
    model = make(name, seed=seed, **settings)
    return put(model, read(weights), f"{weights}").eval()


def read(weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file or hub name by key, without what checkpoints wrap around them.

    Args:
        weights: see `load`.

    Raises:
        DataError: when the file is missing, damaged, needs unpickling, or holds no tensors.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     safetensors.torch.save_file({"weight": torch.ones(2)}, f"{folder}/one.safetensors")
    ...     read(f"{folder}/one.safetensors")
    {'weight': tensor([1., 1.])}
    """
    path = (
        _from_hub(weights)
        if isinstance(weights, str) and weights.startswith("hub:")
        else _local(Path(weights).expanduser())
    )
    if not path.is_file():
        raise DataError(f"{weights}: no such file; expected weights as .safetensors or .pth, or a hub: name")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = "holds more than tensors, and reading it would run code; save its state_dict() instead"
        raise DataError(f"{weights}: {text}") from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise DataError(f"{weights}: cannot be read as weights: {error}") from error
    return _tensors(held, str(weights))


def _local(path: Path) -> Path:
    """The path as given, or the file of that name in the folder that CUTAWAY_DATA names."""
    folder = os.environ.get("CUTAWAY_DATA")
    return Path(folder).expanduser() / path if folder and not path.exists() and not path.is_absolute() else path


def _tensors(held: Any, where: str) -> dict[str, Tensor]:
    while isinstance(held, Mapping):
        if held and all(isinstance(value, Tensor) for value in held.values()):
            return dict(held)
        inside = [held[key] for key in WRAPPERS if isinstance(held.get(key), Mapping)]
        if not inside:
            break
        held = inside[0]
    shown = f"keys {', '.join(map(str, list(held)[:8]))}" if isinstance(held, Mapping) else type(held).__name__
    raise DataError(f"{where}: holds {shown}; expected a state dict of tensors by name")


def _from_hub(name: str) -> Path:
    if huggingface_hub is None:
        raise DataError(f"{name}: huggingface_hub is not installed; pip install 'cutaway[hub]', or give a local file")
    owner, _, rest = name.removeprefix("hub:").partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise ArgumentError(f"{name}: expected hub:owner/name or hub:owner/name/file.safetensors")
    failures = []
    for candidate in [file] if file else HUB_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", candidate))
        except Exception as error:  # the hub client raises its own and its transports' errors
            failures.append(
                f"{candidate}: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"
            )
    tried = "; ".join(failures)
    raise DataError(f"{name}: cannot be fetched ({tried}). Check the name and the connection, or give a local file")


def put(model: nn.Module, weights: Mapping[str, Tensor], where: str = "weights") -> nn.Module:
    """Put tensors into a model by name; nothing is changed unless all of them fit.

    Prefixes such as `module.` are dropped. Counters of batch norm (`num_batches_tracked`) may be missing, and keys that
    the model declares as unused are left out. Numbers are cast to the type of the model's parameters.

    Args:
        model: any module; it is changed and returned.
        weights: tensors by name, as in a state dict of torchvision or timm.
        where: what to call them in errors.

    Raises:
        DataError: naming every key that is missing or unknown and every shape that differs.

    >>> put(nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "bias": torch.zeros(1), "scale": torch.zeros(1)})
    Traceback (most recent call last):
    cutaway.errors.DataError: weights does not fit Linear. Unknown: 'scale'. Shapes: 'weight' is (1, 3), expected (1, 2)
    """
    wanted = model.state_dict()
    given = _unwrapped(weights, wanted, type(model).__name__)
    unused = tuple(getattr(model, "unused", ()))
    given = {key: value for key, value in given.items() if key in wanted or not (unused and key.startswith(unused))}
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [
        f"{key!r} is {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    faults = [
        f"{title}: {_listed(entries)}"
        for title, entries in (
            ("Missing", [repr(key) for key in missing]),
            ("Unknown", [repr(key) for key in unknown]),
            ("Shapes", shapes),
        )
        if entries
    ]
    if faults:
        raise DataError(f"{where} does not fit {type(model).__name__}. {'. '.join(faults)}")
    model.load_state_dict({**wanted, **given})
    return model


def _unwrapped(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """Drop prefixes common to all keys that no wanted key has, and translate names and shapes of timm."""
    given = dict(weights)
    while given and not set(given) & set(wanted):
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in given)), None)
        if prefix is None:
            break
        given = {key.removeprefix(prefix): value for key, value in given.items()}
    if set(given) <= set(wanted):
        return given
    given = {key if key in wanted else renamed(key, network): value for key, value in given.items()}
    # A convolution over its whole input is a linear layer (VGG's first two in timm).
    linear = {key for key, value in given.items() if value.dim() == 4 and key in wanted and wanted[key].dim() == 2}
    return {key: value.flatten(1) if key in linear else value for key, value in given.items()}


def _listed(entries: list[str], most: int = 10) -> str:
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
