"""A network asked for in words: a name, a run folder, a weights file, or a function in a file of the user's."""

import importlib.util
import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cutaway import data as sources
from cutaway import nets
from cutaway import train as training
from cutaway.data import Dataset
from cutaway.data.files import folders
from cutaway.errors import ArgumentError, CutawayError, LookupFailure, RunFolderError, nearest
from cutaway.report.subject import load_data
from cutaway.train.job import HIDDEN

WEIGHTS = (".safetensors", ".pth", ".pt", ".th", ".bin")
CENTERED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PREPROCESSING = {"googlenet": CENTERED}  # of published weights; all others take ImageNet's mean and std
KINDS = "expected a network's name, a run folder, a weights file (.safetensors, .pth) or file.py:function"


@dataclass(frozen=True)
class Opened:
    """A network that was asked for.

    Attributes:
        model: in evaluation mode, for inputs as the data have them.
        about: what it is, in words.
        shape: of one input, (C, H, W) or (D,).
        classes: their names; empty when not known.
        test: test examples, None where the network brings no data.
        caution: what to beware of, in words; empty for nothing.
        trained: whether its weights are more than random numbers.
    """

    model: nn.Module
    about: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    test: Dataset | None = None
    caution: str = ""
    trained: bool = True

    def class_name(self, index: int) -> str:
        """A class in words."""
        return self.classes[index] if index < len(self.classes) else f"class {index}"

    def class_index(self, asked: str) -> int:
        """The index of a class given by name or number.

        Raises:
            LookupFailure: no class has this name.
        """
        if asked.isdecimal() and asked not in self.classes:
            return int(asked)
        found = [k for k, name in enumerate(self.classes) if name.lower() == asked.lower()]
        found = found or [k for k, name in enumerate(self.classes) if asked.lower() in name.lower()]
        if not found:
            raise nearest(asked, self.classes, "class")
        return found[0]

    def example(self, asked: str) -> tuple[Float[Tensor, "1 ..."], int | None]:
        """An input and its class: "3" or "digits:3" is test example 3, anything else a picture's file.

        Raises:
            ArgumentError, DataError: there is no such example or picture.
        """
        number = asked.rpartition(":")[2]
        if number.isdecimal() and not Path(asked).exists():
            if self.test is None:
                raise ArgumentError(
                    f"{asked}: {self.about} brings no data; name a set by --data, or give a picture's file"
                )
            if int(number) >= len(self.test):
                raise ArgumentError(f"{asked}: {self.test.name} has the examples 0 … {len(self.test) - 1}")
            return self.test.x[int(number)][None], int(self.test.y[int(number)])
        if len(self.shape) != 3:
            raise ArgumentError(f"{asked}: {self.about} does not take pictures but inputs of shape {self.shape}")
        if not Path(asked).is_file():
            raise ArgumentError(f"{asked}: there is no such file; give a picture, or the number of a test example")
        if not self.trained:
            raise ArgumentError(
                f"{asked}: there are no weights for pictures, {self.about}, was found. Give a run folder or a weights "
                f"file, or put NAME.safetensors into the folder of CUTAWAY_DATA ({', '.join(map(str, folders()))})"
            )
        return sources.read_image(asked, self.shape[1:], channels=self.shape[0])[None], None  # type: ignore[arg-type]


def open_model(asked: str, data: str | None = None, shape: tuple[int, ...] | None = None) -> Opened:
    """Find a network.

    Args:
        asked: a name of `cutaway.nets.NAMES`, which stands for its weights file NAME.safetensors in the data folders
            if there is one; a run folder, a weights file, or "file.py:function".
        data: the data set to take test examples from; a run's own by default.
        shape: of one input, where the network comes without data; by default the first usual one that it takes.

    Raises:
        CutawayError: there is no such thing; the message says what would be accepted.

    >>> open_model("lenet")
    Traceback (most recent call last):
    cutaway.errors.LookupFailure: unknown model 'lenet'; nearest: 'lenet5', ...
    """
    file, _, function = asked.rpartition(":")
    if file.endswith(".py"):
        return _with_data(_call(Path(file), function), asked, data, shape=shape)
    path = Path(asked).expanduser()
    if path.is_dir():
        return _open_run(path, data)
    if path.suffix in WEIGHTS:
        return _open_weights(path, data, shape)
    if asked in nets.NAMES and shape is None and data is None:
        for folder in folders():
            if (folder / f"{asked}.safetensors").is_file():
                return _open_weights(folder / f"{asked}.safetensors", None)
    if asked in nets.NAMES and shape is not None and data is None:
        return _with_data(_published(asked, shape), f"{asked}, untrained", None, shape=shape)
    if asked in nets.NAMES:
        return _untrained(asked, data or "digits")
    if "/" in asked or path.suffix:
        raise ArgumentError(f"--model {asked}: there is no such file or folder; {KINDS}")
    raise nearest(asked, nets.NAMES, "model")


def _published(name: str, shape: tuple[int, ...]) -> nn.Module:
    """A network with random weights and its paper's sizes, for inputs of a shape."""
    sizes = (math.prod(shape), HIDDEN, 10) if name == "mlp" else ()
    channels = {"channels": shape[0]} if "channels" in inspect.signature(nets.NAMES[name]).parameters else {}
    return nets.make(name, *sizes, seed=0, **channels).eval()


def _untrained(name: str, data: str) -> Opened:
    train, _, test = sources.load(data)
    model, _ = training.make_model(name, train, seed=0)
    caution = f"{name} has random weights here: train it, and give its run folder."
    return Opened(model.eval(), f"{name}, untrained", train.shape, train.classes, test, caution, trained=False)


def _open_run(folder: Path, data: str | None) -> Opened:
    run = training.load_run(folder)
    try:
        test = load_data(folder, run.record)[2] if data is None else sources.load(data)[2]
    except RunFolderError:
        raise RunFolderError(f"{folder}: its data were not loaded by name; name a data set by --data") from None
    return Opened(run.model, str(folder), test.shape, test.classes, test)


def _open_weights(path: Path, data: str | None, shape: tuple[int, ...] | None = None) -> Opened:
    """A run's weights, or a file whose name begins with its network's, such as resnet20_cifar10.safetensors."""
    if (path.parent / "run.json").is_file():
        opened = _open_run(path.parent, data)
        nets.put(opened.model, nets.read(path), str(path))
        return opened
    fitting = [name for name in nets.NAMES if path.stem.startswith(name)]
    if not fitting:
        raise LookupFailure(
            f"--model {path}: which network are these weights of? Let the file's name begin with the network's "
            f"({', '.join(list(nets.NAMES)[:4])}, …), or write a function that builds it and give file.py:function"
        )
    name = max(fitting, key=len)
    words = _words_of(path)
    known = CENTERED if "/127.5 - 1" in words else PREPROCESSING.get(name, nets.IMAGENET)
    settings: dict[str, Any] = {"padding": "same"} if name == "mobilenet_v2" and "SAME padding" in words else {}
    model = nets.normalized(nets.load(name, path, **settings), known["mean"], known["std"])
    caution = f"The pixels are standardised with mean {known['mean']} and sd {known['std']}."
    shape = shape or ((3, 32, 32) if name.endswith("_cifar") else None)
    return _with_data(model.eval(), f"{name} with the weights of {path.name}", data, caution, shape)


def _words_of(path: Path) -> str:
    """What a .safetensors file says of itself: networks converted from TensorFlow want other pixels and padding."""
    if path.suffix != ".safetensors" or not path.is_file():
        return ""
    try:
        with safe_open(path, framework="pt") as file:
            return " ".join((file.metadata() or {}).values())
    except SafetensorError:  # said by who reads the weights
        return ""


def _call(path: Path, function: str) -> nn.Module:
    """Build a network by a function of the user's own file."""
    if not path.is_file():
        raise ArgumentError(f"--model {path}:{function}: there is no file {path}; {KINDS}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"--model {path}:{function}: {path} cannot be imported; {KINDS}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    if function not in own:
        raise nearest(function, own, f"function of {path}")
    model = getattr(module, function)()
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"--model {path}:{function}: it returned a {type(model).__name__}; expected an nn.Module")
    return model.eval()


def _with_data(
    model: nn.Module, about: str, data: str | None, caution: str = "", shape: tuple[int, ...] | None = None
) -> Opened:
    """Say what the inputs and classes are: those of the data, else photographs of ImageNet's classes."""
    if data is not None:
        test = sources.load(data)[2]
        return Opened(model, about, test.shape, test.classes, test, caution)
    shape = shape or _accepted(model)
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(1, *shape)).shape[-1]
    except RuntimeError as reason:
        raise ArgumentError(f"{about} does not take inputs of shape {shape}: {str(reason).splitlines()[0]}") from None
    names = _imagenet() if outputs == 1000 else ()
    return Opened(model, about, shape, names, None, caution)


def _accepted(model: nn.Module) -> tuple[int, ...]:
    """The first usual input shape that the network takes."""
    for shape in ((3, 224, 224), (3, 32, 32), (1, 32, 32), (1, 28, 28), (1, 16, 16), (1, 8, 8)):
        try:
            with torch.no_grad():
                model(torch.zeros(1, *shape))
        except (RuntimeError, CutawayError):
            continue
        return shape
    raise ArgumentError("the network takes none of the usual image sizes; name a data set that fits it by --data")


def _imagenet() -> tuple[str, ...]:
    try:
        return sources.imagenet_classes()
    except CutawayError:
        return ()
