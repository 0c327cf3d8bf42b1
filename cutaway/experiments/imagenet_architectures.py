"""Depth, parameters and multiply-adds of the architectures that won on ImageNet, counted from our constructors.

Published, as far as the papers themselves say so (top-5 error in %; AlexNet, VGG-19, GoogLeNet as entered, ResNets
and SqueezeNet single networks):

                   weight layers   parameters   multiply-adds   top-5 error
    AlexNet 2012        8             60 M           –             15.3
    VGG-11 … 19      11 … 19      133 … 144 M     19.6 G            7.3
    GoogLeNet          22             6.8 M        1.5 G            6.7
    ResNet-18 … 152  18 … 152          –        1.8 … 11.3 G     5.6 … 4.5
    SqueezeNet         18             1.25 M         –             19.7

Source: Krizhevsky, Sutskever, Hinton, 2012; Simonyan, Zisserman, 2015; Szegedy et al., 2015, table 1; He et al., 2016,
table 1; Iandola et al., 2016. Our AlexNet is the one tower of 2014 that torchvision's weights fit.
"""

from typing import Any

import torch
from torch import nn

from cutaway import nets
from cutaway.errors import nearest
from cutaway.experiments.result import Result, axes_of

# name: year, published weight layers, parameters (millions), multiply-adds (billions), top-5 error
PUBLISHED: dict[str, tuple[int, int, float | None, float | None, float | None]] = {
    "alexnet2012": (2012, 8, 60.0, None, 15.3),
    "alexnet": (2014, 8, None, None, None),
    "vgg11": (2014, 11, 133.0, None, None),
    "vgg13": (2014, 13, 133.0, None, None),
    "vgg16": (2014, 16, 138.0, None, None),
    "vgg19": (2014, 19, 144.0, 19.6, 7.3),
    "googlenet": (2014, 22, 6.8, 1.5, 6.7),
    "resnet18": (2015, 18, None, 1.8, None),
    "resnet34": (2015, 34, None, 3.6, 5.6),
    "resnet50": (2015, 50, None, 3.8, 5.25),
    "resnet101": (2015, 101, None, 7.6, 4.6),
    "resnet152": (2015, 152, None, 11.3, 4.49),
    "squeezenet1_0": (2016, 18, 1.25, None, 19.7),
    "squeezenet1_1": (2016, 18, None, None, None),
}


def depth(model: nn.Module) -> int:
    """Layers with weights on the longest way through the network, shortcuts by projection not counted.

    >>> depth(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    2
    """
    kinds = (nn.Conv2d, nn.Linear)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return len([name for name in layers if not _beside(name)])


def _beside(name: str) -> bool:
    """Whether a layer lies beside another one that is deeper: a projection, or a shorter branch of a module."""
    return "downsample" in name or any(part in name for part in ("branch1.", "branch3.", "branch4.", "expand1x1"))


def imagenet_architectures(names: tuple[str, ...] = tuple(PUBLISHED)) -> Result:
    """Count every architecture and set it beside its paper.

    Args:
        names: which, of `PUBLISHED`.

    Raises:
        LookupFailure: for an unknown name.

    >>> imagenet_architectures(("alexnet",)).column("parameters")
    [61100840]
    """
    rows = []
    for name in names:
        if name not in PUBLISHED:
            raise nearest(name, PUBLISHED, "network")
        year, layers, parameters, adds, error = PUBLISHED[name]
        with torch.device("meta"):
            model = nets.NAMES[name]()
            side = 227 if name == "alexnet2012" else 224
            counted = nets.multiply_adds(model, 3, side, side)
        row: dict[str, Any] = {"network": name, "year": year, "weight layers": depth(model), "layers, paper": layers}
        row |= {"parameters": nets.parameters(model), "parameters, paper (M)": parameters}
        row |= {"multiply-adds": counted, "multiply-adds, paper (G)": adds, "top-5 error, paper (%)": error}
        rows.append(row)
    return Result("imagenet_architectures", tuple(rows), read(rows), {"names": list(names)}, draw)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""

    def far(ours: str, unit: float, theirs: str) -> list[str]:
        known = [row for row in rows if row[theirs] is not None]
        return [row["network"] for row in known if abs(row[ours] / unit / row[theirs] - 1) > 0.03]

    other = far("parameters", 1e6, "parameters, paper (M)")
    text = f"Parameters differ by over 3 % from the paper's: {', '.join(other) or 'none'}; "
    other = far("multiply-adds", 1e9, "multiply-adds, paper (G)")
    text += (
        f"multiply-adds: {', '.join(other) or 'none'} (ours stride in the 3×3 of a bottleneck, the paper in the 1×1). "
    )
    deep = [row["network"] for row in rows if row["weight layers"] != row["layers, paper"]]
    text += f"Depth differs: {', '.join(deep) or 'none'}."
    return (
        text + " From AlexNet to ResNet-152 the number of layers grew nineteenfold while the parameters stayed: "
        "depth was bought with small kernels, bottlenecks and the loss of the large fully connected layers."
    )


def draw(result: Result) -> Any:
    """Multiply-adds over parameters, each network by its name; the area grows with depth."""
    figure, axis = axes_of(6.4, 4.2)
    for number, row in enumerate(result.rows):
        x, y = row["parameters"] / 1e6, row["multiply-adds"] / 1e9
        axis.scatter(x, y, s=4 * row["weight layers"], alpha=0.6, color=f"C{(row['year'] - 2012) % 10}")
        left = row["network"].startswith(("vgg", "resnet"))
        place = (-6, -3) if left else (4, 7 if number % 2 else -10)
        side = "right" if left else "left"
        axis.annotate(row["network"], (x, y), place, textcoords="offset points", fontsize=8, ha=side)
    axis.set(xscale="log", yscale="log", xlabel="parameters, millions", ylabel="multiply-adds, billions")
    return figure
