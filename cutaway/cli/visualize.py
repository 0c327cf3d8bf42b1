"""`cutaway visualize`, `dream` and `style`: what the parts of a network look for, and what they make of pictures."""

import wave
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from cutaway import data as sources
from cutaway import graph as G
from cutaway import report as reporting
from cutaway import visualize as visualizing
from cutaway.cli.common import DataOption, ModelOption, app, open_subject, out, wrote
from cutaway.errors import ArgumentError, DataError

LayerOption = Annotated[str | None, typer.Option("--layer", "-l", help="A node or module by name.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Steps of the optimisation.")]
SizeOption = Annotated[int, typer.Option(min=16, help="The short side of the picture, in pixels.")]
PictureOption = Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")]


@app.command()
def visualize(
    example: Annotated[
        str | None, typer.Argument(help="A picture or 16-bit .wav file, to look at through filters made by hand.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A network's name, run folder, weights file or module.py:function."),
    ] = None,
    layer: LayerOption = None,
    channels: Annotated[str, typer.Option(help="Channels of the layer, with commas.")] = "0,1,2,3,4,5",
    target: Annotated[str | None, typer.Option("--class", help="A class instead of a layer.")] = None,
    examples: Annotated[bool, typer.Option("--examples", help="The data's examples instead of made images.")] = False,
    data: DataOption = None,
    steps: StepsOption = 128,
    size: Annotated[int | None, typer.Option(min=4, help="Side of the images made, in pixels.")] = None,
    to: PictureOption = Path("visualize.png"),
) -> None:
    """Show a network's first filters, what channels or a class look for, or a picture through filters made by hand.

    With a model alone: the weights that read the image. With --layer: images made for its channels, or, by --examples,
    the crops of the data that excite them most.

    Example: [bold]cutaway visualize --model runs/demo --layer c3[/bold]

    Example: [bold]cutaway visualize --model squeezenet1_0.safetensors --class goldfish[/bold]

    Example: [bold]cutaway visualize photo.jpg[/bold]
    """
    reporting.picture_path(to)
    if model is None:
        if example is None:
            raise ArgumentError("visualize needs --model, or a picture or .wav file to look at")
        wrote(reporting.save_figure(visualizing.panels(_by_hand(example)).plot(), to))
        return
    opened = open_subject(model, data)
    if layer is None and target is None:
        found: Any = visualizing.filters(opened.model, shape=opened.shape)
    elif examples and layer is not None:
        if opened.test is None:
            raise ArgumentError(f"{opened.about} brings no data; name a set by --data")
        found = visualizing.dataset_examples(opened.model, opened.test, layer)
        wrote(reporting.save_figure(found.plot(_numbers(channels, len(found.scores))), to))
        return
    else:
        goal = visualizing.logit(opened.class_index(target)) if target is not None else None
        goal = goal or visualizing.channel(str(layer), _numbers(channels))
        shape = opened.shape if size is None else (opened.shape[0], size, size)
        reach = max(1, min(shape[1:]) // 16) if len(shape) > 2 else 0
        moves = (visualizing.Jitter(reach), visualizing.Scale(0.95, 1.05), visualizing.Rotate(5)) if reach else ()
        found = visualizing.optimize(opened.model, goal, size=shape, steps=steps, transformation=moves)
        if found.dead.any():
            out.print(f"{int(found.dead.sum())} of {len(found.dead)} are dead: no gradient reaches the image")
    wrote(reporting.save_figure(found.plot(), to))


@app.command()
def dream(
    photo: Annotated[str, typer.Argument(help="A picture's file.")],
    model: ModelOption,
    layer: LayerOption = None,
    target: Annotated[str | None, typer.Option("--class", help="A class instead of a layer.")] = None,
    guide: Annotated[str | None, typer.Option(help="A picture whose features are to appear.")] = None,
    size: SizeOption = 320,
    octaves: Annotated[int, typer.Option(min=1, help="Sizes, from small to large.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps at each size.")] = 10,
    to: PictureOption = Path("dream.png"),
) -> None:
    """Let a network dream into a picture: a layer, a class, or the features of another picture.

    Example: [bold]cutaway dream photo.jpg --model squeezenet1_0.safetensors --layer model.features.8[/bold]
    """
    opened = open_subject(model, None)
    image = _photograph(photo, size, opened.shape[0])
    if target is None and layer is None:
        layer = _middle(opened.model, opened.shape)
        out.print(f"layer   {layer}", highlight=False)
    goal = visualizing.logit(opened.class_index(target)) if target is not None else str(layer)
    other = None if guide is None else _photograph(guide, size, opened.shape[0])
    tile = min(224, *opened.shape[1:], *image.shape[2:])
    found = visualizing.dream(opened.model, image, goal, guide=other, octaves=octaves, steps=steps, tile=tile)
    wrote(found.save(str(to)))


@app.command()
def style(
    content: Annotated[str, typer.Argument(help="The picture that is painted.")],
    manner: Annotated[str, typer.Argument(metavar="STYLE", help="The picture whose style it gets.")],
    model: ModelOption,
    size: SizeOption = 224,
    steps: StepsOption = 150,
    weight: Annotated[float, typer.Option(help="Of the style, beside 1 for the content.")] = 1000.0,
    start: Annotated[str, typer.Option(help="content or noise.")] = "content",
    keep_colour: Annotated[bool, typer.Option("--keep-colour", help="Keep the colours of the content.")] = False,
    to: PictureOption = Path("style.png"),
) -> None:
    """Paint one picture in the style of another.

    Example: [bold]cutaway style photo.jpg painting.jpg --model squeezenet1_0.safetensors[/bold]
    """
    opened = open_subject(model, None)
    images = [_photograph(file, size, 3) for file in (content, manner)]
    found = visualizing.style(
        opened.model, *images, style_weight=weight, steps=steps, start=start, keep_colour=keep_colour
    )
    wrote(found.save(str(to)))


def _photograph(file: str, size: int, channels: int) -> Tensor:
    """A picture whose short side has so many pixels, (1, C, H, W)."""
    if not Path(file).is_file():
        raise ArgumentError(f"{file}: there is no such file; give a picture")
    return sources.read_image(file, resize=size, channels=channels)[None]


def _by_hand(file: str) -> Tensor:
    """A picture (1, 3, H, W), or the loudest second of a sound (1, 1, L)."""
    if not file.lower().endswith(".wav"):
        return _photograph(file, 240, 3)
    try:
        with wave.open(file, "rb") as sound:
            if sound.getsampwidth() != 2:
                raise DataError(f"{file} has {8 * sound.getsampwidth()} bits; expected 16")
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16).reshape(-1, sound.getnchannels())
            rate = sound.getframerate()
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{file}: cannot be read as sound: {error}") from error
    line = torch.from_numpy(samples.mean(1)).float() / 2**15
    start = max(0, int(line.abs().argmax()) - rate // 2)
    return line[None, None, start : start + rate]


def _numbers(asked: str, count: int | None = None) -> list[int]:
    """Channels given with commas; those that exist."""
    parts = [part.strip() for part in asked.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ArgumentError(f"--channels {asked}: expected numbers with commas, such as 0,3,5")
    return [int(part) for part in parts if count is None or int(part) < count]


def _middle(model: Any, shape: tuple[int, ...]) -> str:
    """The last of the default layers of a style: neither edges nor whole classes."""
    return visualizing.style_nodes(G.capture(model, torch.zeros(1, *shape)))[-1]
