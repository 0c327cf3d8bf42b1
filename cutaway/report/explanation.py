"""What the network looks at: input gradient, guided backprop and Grad-CAM, each with its sanity score."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from cutaway import explain
from cutaway import graph as G
from cutaway.errors import CutawayError
from cutaway.explain import Attribution
from cutaway.report.figures import Tile, cases
from cutaway.report.images import overlay, picture, signed
from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.words import percent

METHODS: dict[str, Callable[..., Attribution]] = {
    "input gradient": explain.gradient,
    "guided backprop": explain.guided_backprop,
    "Grad-CAM": explain.grad_cam,
}
PASSES = 0.5
TITLE = "What it looks at"


def section(subject: Subject) -> Section:
    """Make the chapter: eight test examples, three methods, and how far each can be trusted."""
    chosen = subject.chosen(8)
    x = subject.test_x[chosen]
    graph = subject.graph
    found: dict[str, Attribution] = {}
    missing = []
    for name, method in METHODS.items():
        if reason := _impossible(name, graph):
            missing.append(reason)
            continue
        try:
            found[name] = method(subject.model, x)
        except CutawayError as error:
            missing.append(f"There is no {name}: {error}")
    words = [_reading(found)] if found else []
    if "guided backprop" in found and not _has(graph, "relu", "threshold", "clamp"):
        words.append("The network has no ReLU, so guided backprop has nothing to guide: it is the input gradient here.")
    figures = [_pictures(subject, chosen, found)] if subject.images else [_features(subject, found)]
    return Section("explanation", TITLE, words, figures if found else [], missing)


def _impossible(name: str, graph: G.Graph) -> str:
    """Why a method has nothing to show for this network; empty when it has."""
    if name == "Grad-CAM" and not _has(graph, "conv"):
        return "There is no Grad-CAM: the network has no convolution, so no layer keeps the places of the image."
    return ""


def _has(graph: G.Graph, *names: str) -> bool:
    """Whether some operation's name holds one of the words."""
    return any(word in node.op_name for node in graph.nodes if node.op is not None for word in names)


def _reading(found: dict[str, Attribution]) -> str:
    scored = {name: one.score for name, one in found.items() if one.score is not None}
    said = ["Every map was drawn again for a copy of the network whose upper half has random weights."]
    good = [f"{name} ({score:.2f})" for name, score in scored.items() if score >= PASSES]
    poor = [f"{name} ({score:.2f})" for name, score in scored.items() if score < PASSES]
    if good:
        said.append(f"What changes with the weights, and so shows what was learned: {', '.join(good)}.")
    if poor:
        said.append(
            f"What stays much the same, and so mostly shows the input: {', '.join(poor)}; do not read much into it."
        )
    said.append(
        "The number is the sanity score, 1 minus the rank correlation of the two maps, averaged over the examples."
    )
    return " ".join(said)


def _pictures(subject: Subject, chosen: Sequence[int], found: dict[str, Attribution]) -> Figure:
    probabilities = subject.test_outputs[chosen].softmax(1)
    rows = []
    for place, index in enumerate(chosen):
        sure, predicted = probabilities[place].max(0)
        true = subject.classes[int(subject.test_y[index])]
        named = subject.classes[int(predicted)]
        tone = "good" if named == true else "bad"
        label = named if named == true else f"{named}, not {true}"
        image = picture(subject.test_x[index], f"test example {index}, class {true}")
        row = [Tile(image, label, f"{percent(float(sure), 0)} sure", tone)]
        for name, one in found.items():
            score = "" if one.scores is None else f"score {float(one.scores[place]):.2f}"
            row.append(Tile(_map(subject, one, place, index, f"{name} for {named}"), "", score))
        rows.append(row)
    place = "strokes that make the class" if subject.test_x.shape[1] == 1 else "object"
    caption = (
        f"Look whether the colours lie on the {place} (orange speaks for the class, blue against it), and trust a "
        "map no more than its score: 1 depends on what was learned, 0 is the same with a random upper half."
    )
    return Figure(f"{len(chosen)} test examples", caption, cases(["Image", *_heads(found)], rows), wide=True)


def _heads(found: dict[str, Attribution]) -> list[str]:
    return [name[0].upper() + name[1:] for name in found]


def _map(subject: Subject, one: Attribution, place: int, index: int, alt: str) -> Markup:
    values = one.values.detach().cpu()
    if one.layer is not None:
        return overlay(subject.test_x[index], values[place].mean(0), alt)
    flat = values.sum(1)  # (N, h, w)
    largest = float(flat.abs().flatten().quantile(0.995)) or None
    return signed(flat[place], alt, largest)


def _features(subject: Subject, found: dict[str, Attribution]) -> Figure:
    """For tables: the columns that count most, on average over the examples."""
    one = next(iter(found.values()))
    strength: Float[Tensor, " d"] = one.values.detach().abs().flatten(1).mean(0)
    top = torch.argsort(strength, descending=True)[:12].tolist()
    rows = [[f"column {i}", f"{float(strength[i]):.3g}"] for i in top]
    caption = "Look at the columns on top: moving them a little moves the predicted class's logit most."
    return Figure("Columns that count most", caption, table(["Input", "Mean |gradient|"], rows, numeric=(1,)))
