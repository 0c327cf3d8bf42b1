"""The top of the page: what was trained and how it went, in one paragraph and a row of numbers."""

from cutaway.intervals import wilson_interval
from cutaway.report.subject import Subject
from cutaway.report.words import count, duration, percent, short


def title(subject: Subject) -> str:
    """The page's heading."""
    return f"{subject.name} on {subject.data}"


def lede(subject: Subject) -> str:
    """What was trained, on what, and how well it does."""
    parameters = count(sum(weight.numel() for weight in subject.model.parameters()), "parameter")
    learned = f"{subject.name}, a network of {parameters}, was trained on {_examples(subject)}"
    if not subject.classes:
        return f"{learned}."
    right, total = _right(subject)
    low, high = wilson_interval(right, total)
    said = f"{learned} to tell {count(len(subject.classes), 'class', 'classes')} apart"
    told = f"It classifies {percent(right / total)} of {count(total, 'test example')} correctly"
    often = float(subject.test_y.bincount().max()) / total
    naive = f"naming the most frequent class every time: {percent(often, 0)}"
    sure = f"95 % interval {percent(low)} to {percent(high)}; {naive}"
    return f"{said}. {told} ({sure}). {_status(subject)}"


def facts(subject: Subject) -> list[tuple[str, str]]:
    """The row of numbers."""
    rows = []
    if subject.classes:
        right, total = _right(subject)
        low, high = wilson_interval(right, total)
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        rows.append((percent(right / total), f"test accuracy (95 % interval {interval})"))
        rows.append((f"{total - right}", f"mistakes in {count(total, 'test example')}"))
    rows.append((short(sum(weight.numel() for weight in subject.model.parameters())), "parameters"))
    rows.append((short(multiply_adds(subject)), "multiply-adds per example"))
    epochs = len(subject.history.get("loss", ()))
    rows.append((f"{epochs}", f"epochs, best after {subject.best_epoch}"))
    if subject.seconds:
        rows.append((duration(subject.seconds), "training time"))
    return rows


def _examples(subject: Subject) -> str:
    shape = subject.test_x.shape[1:]
    kind = f"{'×'.join(map(str, shape))} numbers"
    if subject.images:
        color = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]}-channel")
        kind = f"{shape[1]}×{shape[2]} {color} images"
    elif subject.test_x.dim() == 2:
        kind = f"{shape[0]} columns"
    trained = subject.sizes.get("training", len(subject.train_x))
    return f"{count(trained, 'example')} of {subject.data} ({kind})"


def _right(subject: Subject) -> tuple[int, int]:
    predicted = subject.test_outputs.argmax(1)
    return int((predicted == subject.test_y).sum()), len(predicted)


def _status(subject: Subject) -> str:
    epochs = count(len(subject.history.get("loss", ())), "epoch")
    took = f" and {duration(subject.seconds)}" if subject.seconds else ""
    if subject.status == "stopped early":
        return f"Training stopped by itself after {epochs}{took}, because validation had not improved any more."
    if subject.status == "interrupted":
        return f"Training was interrupted after {epochs}{took}; these are the best weights until then."
    return f"Training took {epochs}{took}."


def multiply_adds(subject: Subject) -> int:
    """Multiply-adds of one example."""
    return subject.cost.total.multiply_adds
