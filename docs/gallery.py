"""Make the gallery: docs/gallery.md and its pictures in docs/images, from networks and photographs in a local folder.

    make gallery CUTAWAY_DATA=path/to/data

The folder holds squeezenet1_0.safetensors, mobilenet_v2.safetensors, imagenet_samples/ (photographs, with labels.csv)
and pictures/ (paintings and two views). A run that was interrupted goes on where it stopped; `make gallery
ONLY="dream priors"` makes a chapter and a picture again.
"""

import argparse
import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from cutaway import data, explain, nets
from cutaway import visualize as V

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "images"
LIMIT = 60_000  # bytes of a picture
LIMITS = {"depth-squeezenet": 40_000, "depth-mobilenet": 40_000}  # of those that may be smaller
WIDTH = 1000  # pixels
QUALITIES = (
    (90, 1),
    (82, 1),
    (74, 1),
    (66, 0.9),
    (60, 0.8),
    (54, 0.7),
    (50, 0.6),
    (46, 0.55),
    (40, 0.5),
    (40, 0.4),
    (30, 0.4),
    (30, 0.35),
)  # and sizes
BEGUN = HERE.parent / "build" / "gallery-begun"  # is there while a run is: pictures newer than it are finished
PHOTOGRAPHS = ("n02110958_pug", "n02391049_zebra", "n01818515_macaw", "n02056570_king_penguin")
NEEDED = ("squeezenet1_0.safetensors", "mobilenet_v2.safetensors", "imagenet_samples", "pictures")
LEFT_OUT = ("layer_attribution", "neuron_attribution", "attention_rollout")  # no map of an image's places, no attention
FEWER: dict[str, dict[str, Any]] = {"rise": {"samples": 250}, "score_cam": {"channels": 64}}  # passes, to save time
VIEW, PAINTINGS = "content_tubingen", ("style_starry_night", "style_the_scream", "style_composition_vii")


@dataclass(frozen=True)
class Material:
    """The networks and photographs of a folder."""

    folder: Path

    @cached_property
    def squeezenet(self) -> nn.Module:
        mean, std = nets.IMAGENET["mean"], nets.IMAGENET["std"]
        return nets.normalized(nets.load("squeezenet1_0", self.folder / NEEDED[0]), mean, std)

    @cached_property
    def mobilenet(self) -> nn.Module:
        return nets.normalized(nets.load("mobilenet_v2", self.folder / NEEDED[1], padding="same"), 0.5, 0.5)

    @cached_property
    def photographs(self) -> Tensor:
        """The four that every explanation is shown on, (4, 3, 224, 224)."""
        return torch.stack([self.sample(name) for name in PHOTOGRAPHS])

    @cached_property
    def classes(self) -> list[int]:
        return [self.labels[f"{name}.jpg"] for name in PHOTOGRAPHS]

    @cached_property
    def labels(self) -> dict[str, int]:
        with (self.folder / "imagenet_samples" / "labels.csv").open(newline="", encoding="utf-8") as rows:
            return {row["file"]: int(row["class_index"]) for row in csv.DictReader(rows)}

    @cached_property
    def every(self) -> Tensor:
        """All photographs, (N, 3, 224, 224)."""
        return torch.stack([self.sample(name.removesuffix(".jpg")) for name in sorted(self.labels)])

    def sample(self, name: str, size: int = 224) -> Tensor:
        return data.read_image(self.folder / "imagenet_samples" / f"{name}.jpg", size=size)

    def picture(self, name: str, side: int) -> Tensor:
        """A painting or view with a short side of so many pixels, (1, 3, H, W)."""
        return data.read_image(self.folder / "pictures" / f"{name}.jpg", resize=side)[None]


Pictures = Mapping[str, Callable[[], "Figure | Tensor"]]  # by name, made when asked for


def methods(material: Material) -> Pictures:
    """Every method on each photograph."""
    return {f"methods-{short(name)}": partial(all_methods, material, place) for place, name in enumerate(PHOTOGRAPHS)}


def all_methods(material: Material, place: int) -> Figure:
    """Every method on one photograph."""
    image, target = material.photographs[place], material.classes[place]
    maps = {
        method: function(material.squeezenet, image[None], target, **FEWER.get(method, {}))
        for method, function in explain.METHODS.items()
        if method not in LEFT_OUT
    }
    return explain.panel(image, maps, f"{short(PHOTOGRAPHS[place])}, by SqueezeNet 1.0")


def short(name: str) -> str:
    """What a file of a photograph shows."""
    return name.partition("_")[2].replace("_", "-")


def large(material: Material) -> Pictures:
    """Guided backprop, guided Grad-CAM and Grad-CAM, large."""

    def draw(method: str, network: str) -> Figure:
        found = explain.METHODS[method](getattr(material, network), material.photographs, material.classes)
        return found.plot(material.photographs, columns=2, names=data.imagenet_classes())

    return {
        "guided-backprop": lambda: draw("guided_backprop", "squeezenet"),
        "guided-grad-cam": lambda: draw("guided_grad_cam", "squeezenet"),
        "grad-cam-squeezenet": lambda: draw("grad_cam", "squeezenet"),
        "grad-cam-mobilenet": lambda: draw("grad_cam", "mobilenet"),
    }


def checks(material: Material) -> Pictures:
    """One method that passes its tests and one that does not."""

    def draw(method: str) -> Figure:
        found = explain.METHODS[method](material.squeezenet, material.photographs, material.classes)
        return explain.check(found, material.squeezenet, material.photographs, samples=60, neighbours=5).plot()

    return {f"check-{name.replace('_', '-')}": partial(draw, name) for name in ("grad_cam", "guided_backprop")}


def filters(material: Material) -> Pictures:
    """The weights that read the image."""
    return {
        "filters-squeezenet": lambda: V.filters(material.squeezenet).plot(columns=24),
        "filters-mobilenet": lambda: V.filters(material.mobilenet).plot(columns=16),
    }


EXAMPLES = {
    "model.features.1": [3, 26, 42, 80],
    "model.features.4": [2, 40, 66, 90],
    "model.features.12": [4, 1, 200, 400],
}


def examples(material: Material) -> Pictures:
    """What excites some units of three layers most, among 120 photographs."""

    def draw(layer: str) -> Figure:
        return V.dataset_examples(material.squeezenet, material.every, layer, k=8).plot(EXAMPLES[layer])

    return {f"examples-{layer.rpartition('.')[2]}": partial(draw, layer) for layer in EXAMPLES}


SQUEEZED = {1: [3, 26, 61, 14], 4: [20, 66, 90, 120], 7: [7, 33, 101, 150], 12: [4, 1, 200, 300]}
MOBILE = {2: [0, 3, 5, 14], 6: [10, 15, 20, 25], 10: [0, 20, 30, 50], 15: [40, 120, 140, 150]}


def depth(material: Material) -> Pictures:
    """Channels through the depth of both networks."""

    def draw(model: nn.Module, chosen: Mapping[int, list[int]]) -> Figure:
        return V.gallery(model, {f"model.features.{place}": units for place, units in chosen.items()}).plot()

    return {
        "depth-squeezenet": lambda: draw(material.squeezenet, SQUEEZED),
        "depth-mobilenet": lambda: draw(material.mobilenet, MOBILE),
    }


CLASSES = {"goldfish": 1, "macaw": 88, "zebra": 340, "king penguin": 145, "monarch": 323, "daisy": 985}


def classes(material: Material) -> Pictures:
    """Classes, one under several priors, and four with the spectrum and colours of the photographs."""
    goal, words = V.logit(list(CLASSES.values())), list(CLASSES)

    def phases() -> Figure:
        matrix = V.colour_matrix(material.every)
        whitened = torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), material.every)
        made = V.MACO(magnitude=V.spectrum(whitened), colours=matrix)
        settings: dict[str, Any] = {"size": 224, "samples": 2, "transformation": [V.Crop(0.3, 0.8)]}
        found = V.optimize(material.mobilenet, V.logit([88, 145]), parametrization=made, **settings)
        return found.plot(titles=["macaw", "king penguin"])

    return {
        "classes": lambda: V.optimize(material.mobilenet, goal, size=160).plot(3, words),
        "priors": lambda: V.priors(material.mobilenet, 88).plot(),
        "maco": phases,
    }


def ways(material: Material) -> Pictures:
    """From one channel to another, and one channel's examples beside its images."""
    way = V.interpolation("model.features.12", 4, 1, count=6)
    return {
        "interpolation": lambda: V.optimize(material.squeezenet, way).plot(3),
        "portrait": lambda: V.portrait(material.squeezenet, material.every, "model.features.12", 4).plot(),
    }


def dreams(material: Material) -> Pictures:
    """The same view dreamt by layers of different depth, and with a guide image."""
    view, guide = material.picture(VIEW, 360), material.sample("n02099601_golden_retriever")[None]

    def dreamt(place: int, **options: Any) -> Tensor:
        return V.dream(material.squeezenet, view, f"model.features.{place}", **options).image[0]

    made: dict[str, Callable[[], Tensor]] = {f"dream-{place}": partial(dreamt, place) for place in (5, 8, 12)}
    return {**made, "dream-guided": lambda: dreamt(9, guide=guide)}


def styles(material: Material) -> Pictures:
    """One view in three manners, and in one of them with its own colours."""
    view = material.picture(VIEW, 288)

    def painted(name: str, **options: Any) -> Tensor:
        return V.style(material.squeezenet, view, material.picture(name, 288), **options).image[0]

    made: dict[str, Callable[[], Tensor]] = {"style-content": lambda: view[0]}
    made |= {name.replace("_", "-"): partial(painted, name) for name in PAINTINGS}
    return {**made, "style-own-colours": lambda: painted(PAINTINGS[0], keep_colour=True)}


def classical(material: Material) -> Pictures:
    """Convolution without learning."""
    return {"filters-by-hand": lambda: V.panels(material.picture(VIEW, 256)).plot()}


@dataclass(frozen=True)
class Chapter:
    """A part of the page: its heading, its words, what makes its pictures, and their names with captions."""

    heading: str
    words: str
    make: Callable[[Material], Pictures]
    captions: Mapping[str, str]


CHAPTERS: dict[str, Chapter] = {
    "methods": Chapter(
        "Every method on the same photographs",
        "`ct.explain.panel(image, maps)`, or `cutaway explain photo.jpg --model squeezenet1_0.safetensors`. Under each "
        "name stands the sanity score; a method that draws much the same map when the upper half of the network is "
        "random says so in its title. Red speaks for the class, blue against it. Of deconvnet, which lets only "
        "positive adjoints through, next to nothing is left at the input of this network.",
        methods,
        {f"methods-{short(name)}": short(name).replace("-", " ") for name in PHOTOGRAPHS},
    ),
    "guided": Chapter(
        "Guided backprop and Grad-CAM",
        "`found.plot(x)`. Guided backprop draws crisp edges wherever there are some: its warning, in words, is part of "
        "the picture. Grad-CAM is coarse, and lies on the animal.",
        large,
        {
            "guided-backprop": "guided backprop, SqueezeNet 1.0",
            "guided-grad-cam": "guided Grad-CAM, SqueezeNet 1.0",
            "grad-cam-squeezenet": "Grad-CAM, SqueezeNet 1.0",
            "grad-cam-mobilenet": "Grad-CAM, MobileNet v2",
        },
    ),
    "check": Chapter(
        "Checks",
        "`ct.explain.check(found, model, x).plot()`: the map's likeness to the trained one as layers are randomised "
        "from the output down, and the output as places are deleted and inserted.",
        checks,
        {"check-grad-cam": "a method that passes", "check-guided-backprop": "a method that fails"},
    ),
    "filters": Chapter(
        "First-layer filters",
        "`V.filters(model).plot()`: SqueezeNet's 7 × 7 kernels (of weights that were pruned: a third of them is left) "
        "and MobileNet's 3 × 3, grey for zero.",
        filters,
        {"filters-squeezenet": "SqueezeNet 1.0", "filters-mobilenet": "MobileNet v2"},
    ),
    "examples": Chapter(
        "Examples of a data set",
        "`V.dataset_examples(model, data, layer).plot(units)`: of 120 photographs the parts that excite four units of "
        "a layer most, each cut out by the unit's receptive field.",
        examples,
        {f"examples-{layer.rpartition('.')[2]}": f"SqueezeNet's `{layer}`" for layer in EXAMPLES},
    ),
    "depth": Chapter(
        "Channels through the depth",
        "`V.gallery(model, layers)`: images made to excite one channel each, from shallow layers to deep: edges and "
        "colours, then textures, then patterns and parts.",
        depth,
        {"depth-squeezenet": "SqueezeNet 1.0", "depth-mobilenet": "MobileNet v2"},
    ),
    "classes": Chapter(
        "Classes and priors",
        "`V.optimize(model, V.logit([…]))` and `V.priors(model, 88)`: what keeps an image natural.",
        classes,
        {
            "classes": "six classes, MobileNet v2",
            "priors": "macaw under eight priors, MobileNet v2",
            "maco": "phases alone (MACO), with the spectrum and colours of 120 photographs",
        },
    ),
    "ways": Chapter(
        "Between two channels, and one channel in full",
        "`V.interpolation(layer, first, second)` and `V.portrait(model, data, layer, channel)`.",
        ways,
        {"interpolation": "from one channel to another", "portrait": "examples, what it saw, and diverse images"},
    ),
    "dream": Chapter(
        "Dreams",
        "`V.dream(model, image, layer)`: four octaves, ten steps each; the deeper the layer, the larger what is "
        "dreamt. The last one is guided by a photograph of a dog.",
        dreams,
        {
            "dream-5": "`features.5`",
            "dream-8": "`features.8`",
            "dream-12": "`features.12`",
            "dream-guided": "`features.9`, guided",
        },
    ),
    "style": Chapter(
        "Styles",
        "`V.style(model, content, painting)` with SqueezeNet 1.0 and its default layers.",
        styles,
        {
            "style-content": "the view",
            "style-starry-night": "The Starry Night",
            "style-the-scream": "The Scream",
            "style-composition-vii": "Composition VII",
            "style-own-colours": "The Starry Night, the view's own colours",
        },
    ),
    "classical": Chapter(
        "Filters made by hand",
        "`V.panels(image)`, or `cutaway visualize photo.jpg`.",
        classical,
        {"filters-by-hand": "smoothing, medians, edges, lines, a pattern"},
    ),
}


def kept(made: "Figure | Tensor", path: Path) -> int:
    """Write a picture as a JPEG of at most so many bytes; how many it has."""
    if isinstance(made, Tensor):
        pixels = (made.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels)
    else:
        drawn = io.BytesIO()
        made.savefig(drawn, format="png", dpi=2 * WIDTH / made.get_figwidth())
        image = Image.open(drawn).convert("RGB")
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    for quality, share in QUALITIES:
        size = (round(image.width * share), round(image.height * share))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LIMITS.get(path.stem, LIMIT):
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def page() -> str:
    """The page in Markdown."""
    parts = [
        "# Gallery\n",
        "Made by `make gallery` (`docs/gallery.py`) with the real ImageNet weights of SqueezeNet 1.0 and MobileNet v2. "
        "The photographs are samples of ImageNet, shown for research and teaching; they belong to who took them.\n",
    ]
    for chapter in CHAPTERS.values():
        parts += [f"## {chapter.heading}\n", chapter.words + "\n"]
        for name, caption in chapter.captions.items():
            alt = caption.replace("`", "")
            parts.append(f"![{chapter.heading}: {alt}](images/{name}.jpg)\n\n*{caption}*\n")
    return "\n".join(parts)


def main() -> None:
    """Make all chapters, or the ones asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for chapter in CHAPTERS.values() for name in chapter.captions]
    parser.add_argument("--only", nargs="+", choices=[*CHAPTERS, *names], metavar="NAME", help="chapters or pictures")
    only = parser.parse_args().only
    named = os.environ.get("CUTAWAY_DATA")
    if not named:
        sys.exit(
            "the gallery needs networks and photographs: make gallery CUTAWAY_DATA=path/to/data (see docs/gallery.py)"
        )
    folder = Path(named).resolve()
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        sys.exit(f"the gallery needs {', '.join(missing)} in CUTAWAY_DATA={named}")
    IMAGES.mkdir(exist_ok=True)
    console = Console()
    if only:
        some({*only}, Material(folder), console)
    else:
        everything(console)
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")


def some(chosen: set[str], material: Material, console: Console) -> None:
    """Make chapters and pictures, one after the other."""
    for title, chapter in CHAPTERS.items():
        for name, make in chapter.make(material).items() if {title, *chapter.captions} & chosen else ():
            if {title, name} & chosen:
                start = time.perf_counter()
                size = kept(make(), IMAGES / f"{name}.jpg")
                console.print(f"images/{name}.jpg: {size} bytes, {time.perf_counter() - start:.0f} s")


def everything(console: Console) -> None:
    """Make all chapters, as many at a time as there are cores, in processes of their own with one thread each."""
    begun = resumed(console)
    waiting = [[name for name in chapter.captions if not finished(name, begun)] for chapter in CHAPTERS.values()]

    def make(names: list[str]) -> int:
        alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, __file__, "--only", *names], env=alone, check=False).returncode

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        failed = any(pool.map(make, filter(None, waiting)))
    if failed:
        sys.exit("some pictures could not be made, see above; the same command goes on with those that are missing")
    BEGUN.unlink()


def finished(name: str, begun: float) -> bool:
    """Whether a picture was made since a run began."""
    path = IMAGES / f"{name}.jpg"
    return path.exists() and path.stat().st_mtime > begun


def resumed(console: Console) -> float:
    """When the run began that goes on now: this one, or one that was interrupted."""
    if BEGUN.exists():
        console.print(f"going on with a run that was interrupted (to start anew, delete {BEGUN})")
    else:
        BEGUN.parent.mkdir(exist_ok=True)
        BEGUN.touch()
    return BEGUN.stat().st_mtime


if __name__ == "__main__":
    main()
