"""How training went: learning curves read in words, and the table of seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.svg import Scale, Series, around, chart
from cutaway.report.words import Curves, count, duration, percent

TITLE = "How training went"

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # Student's t, 97.5 %, 1 … 10 degrees


def section(subject: Subject) -> Section:
    """Make the chapter from the run's history and its replicates."""
    history = subject.history
    if not history.get("loss"):
        return Section("training", TITLE, missing=["No epoch was completed, so there are no curves to show."])
    words = [" ".join(_read(subject))] if history.get("validation_loss") else [_without_validation(history["loss"])]
    figures = _curves(subject)
    if len(subject.replicates) > 1:
        words.append(spread(subject.replicates))
        figures.append(_seeds(subject))
    return Section("training", TITLE, words, figures)


def _read(subject: Subject) -> list[str]:
    history = subject.history
    return Curves(
        history["loss"],
        history["validation_loss"],
        history.get("accuracy", ()),
        history.get("validation_accuracy", ()),
        subject.best_epoch - 1,
        subject.sizes.get("validation", 0),
        subject.harder,
    ).read()


def _without_validation(loss: Sequence[float]) -> str:
    fell = f"Training loss went from {loss[0]:.3g} to {loss[-1]:.3g} in {count(len(loss), 'epoch')}"
    return f"{fell}. There were no validation data, so over- and underfitting cannot be told apart."


def _curves(subject: Subject) -> list[Figure]:
    history, epochs = subject.history, list(range(1, len(subject.history["loss"]) + 1))
    x = Scale(1, max(epochs[-1], 2), whole=True)
    mark = (subject.best_epoch, "kept") if history.get("validation_loss") else None
    loss = _pair(history, "loss", epochs)
    values = [value for one in loss for value in one.y]
    log = min(values) > 0 and max(values) / min(values) > 20
    body = chart(loss, x=x, y=around(values, log=log), xlabel="epoch", ylabel=f"loss ({subject.loss_name})", mark=mark)
    caption = (
        "Look at the gap between the curves: when training loss keeps falling while validation loss turns up, "
        "the network is overfitting; the dotted line marks the weights that were kept."
        if mark
        else "Look whether the curve has become flat: if not, more epochs would lower the loss further."
    )
    figures = [Figure("Loss by epoch", caption, body)]
    if history.get("accuracy"):
        lines = _pair(history, "accuracy", epochs)
        low = min(value for one in lines for value in one.y)
        y = Scale(max(0.0, low - 0.02), 1.0, percent=True)
        caption = (
            "Look where the curves become flat and how far apart they stay: the distance is what is lost on new data."
        )
        body = chart(lines, x=x, y=y, xlabel="epoch", ylabel="accuracy", mark=mark)
        figures.append(Figure("Accuracy by epoch", caption, body))
    return figures


def _pair(history: Mapping[str, Sequence[float]], name: str, epochs: list[int]) -> list[Series]:
    lines = [Series("training", epochs, history[name], "blue")]
    if history.get(f"validation_{name}"):
        lines.append(Series("validation", epochs, history[f"validation_{name}"], "orange"))
    return lines


def spread(replicates: Sequence[Mapping[str, Any]]) -> str:
    """Say how test accuracy varies over the seeds.

    >>> spread([{"test_accuracy": 0.98}, {"test_accuracy": 0.99}])[:46]
    'Over 2 seeds test accuracy was 98.50 ± 0.71 % '
    """
    found = accuracies(replicates)
    if len(found) < 2:
        return f"{count(len(found), 'seed')} of {len(replicates)} finished, too few for a spread."
    mean, sd = statistics.mean(found), statistics.stdev(found)
    half = (T95[len(found) - 2] if len(found) - 2 < len(T95) else 1.96) * sd / len(found) ** 0.5
    interval = f"95 % interval of the mean {percent(max(mean - half, 0))} to {percent(min(mean + half, 1))}"
    text = f"{100 * mean:.2f} ± {100 * sd:.2f} %"
    return f"Over {len(found)} seeds test accuracy was {text} (mean ± standard deviation; {interval})."


def accuracies(replicates: Sequence[Mapping[str, Any]]) -> list[float]:
    """The test accuracies of the seeds that finished."""
    return [one["test_accuracy"] for one in replicates if one.get("test_accuracy") is not None]


def _seeds(subject: Subject) -> Figure:
    rows: list[list[object]] = []
    n = subject.sizes["test"]
    for one in subject.replicates:
        share = one.get("test_accuracy")
        told = ["–", "–"] if share is None else [percent(share, 2), round((1 - share) * n)]
        rows.append([one["seed"], one["best_epoch"] or "–", *told, duration(one["seconds"])])
    found = accuracies(subject.replicates)
    if len(found) > 1:
        mean, sd = statistics.mean(found), statistics.stdev(found)
        rows.append(["mean ± sd", "", f"{100 * mean:.2f} ± {100 * sd:.2f} %", f"{(1 - mean) * n:.1f}", ""])
    body = table(["Seed", "Best epoch", "Test accuracy", "Mistakes", "Time"], rows, numeric=(1, 2, 3, 4), total=True)
    caption = (
        "Look at the spread: a difference between two networks that is smaller than the sd may be the seed's alone."
    )
    return Figure(f"{len(subject.replicates)} seeds", caption, body, wide=True)
