"""Where the network errs: confusion matrix and the misclassified test examples."""

from collections import Counter

from torch import Tensor

from cutaway.report.figures import Tile, matrix, tiles
from cutaway.report.images import picture
from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.words import count, listed, percent

TITLE = "Where it errs"

MOST_CLASSES = 40  # beyond this a confusion matrix cannot be read
MOST_MISTAKES = 16
ROOM = 12  # examples shown at least


def section(subject: Subject) -> Section:
    """Make the chapter from the predictions on the test set."""
    if not subject.classes:
        return Section("mistakes", TITLE, missing=["The network does not classify, so there is no confusion matrix."])
    probabilities = subject.test_outputs.softmax(1)
    sure, predicted = probabilities.max(1)
    wrong = (predicted != subject.test_y).nonzero()[:, 0].tolist()
    words = [" ".join(_words(subject, predicted, sure, wrong))]
    figures = [_confusion(subject, predicted)]
    missing = []
    if subject.images:
        right = (predicted == subject.test_y).nonzero()[:, 0].tolist()
        figures.append(_shown(subject, predicted, sure, wrong, right))
    elif wrong:
        missing.append("The inputs are not images, so the misclassified examples are only counted.")
    return Section("mistakes", TITLE, words, figures, missing)


def _words(subject: Subject, predicted: Tensor, sure: Tensor, wrong: list[int]) -> list[str]:
    total = len(predicted)
    if not wrong:
        return [f"All {count(total, 'test example')} were classified correctly."]
    said = [f"{count(len(wrong), 'mistake').capitalize()} in {count(total, 'test example')}."]
    pairs = Counter((int(subject.test_y[i]), int(predicted[i])) for i in wrong)
    often = [(pair, n) for pair, n in pairs.most_common(3) if n > 1]
    if often:
        named = [f"{subject.classes[a]} for {subject.classes[b]} ({n} times)" for (a, b), n in often]
        said.append(f"Most often it mistook {listed(named)}.")
    else:
        said.append("No two classes were confused more than once.")
    right = [i for i in range(total) if i not in set(wrong)]
    if right:
        doubtful, certain = float(sure[wrong].mean()), float(sure[right].mean())
        verdict = (
            "its doubts are worth heeding" if certain - doubtful > 0.15 else "its confidence does not warn of mistakes"
        )
        means = (
            f"{percent(doubtful, 0)} sure on average where it was wrong and {percent(certain, 0)} where it was right"
        )
        said.append(f"It was {means}: {verdict}.")
    return said


def _confusion(subject: Subject, predicted: Tensor) -> Figure:
    k = len(subject.classes)
    counts = [[0] * k for _ in range(k)]
    for true, found in zip(subject.test_y.tolist(), predicted.tolist(), strict=True):
        counts[true][found] += 1
    if k <= MOST_CLASSES:
        caption = "Look off the diagonal: every orange cell counts examples of the row's class taken for the column's."
        return Figure("Confusion matrix", caption, matrix(counts, subject.classes))
    worst = sorted(((n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), reverse=True)[:20]
    rows = [[subject.classes[i], subject.classes[j], n] for n, i, j in worst if n]
    caption = f"Look at the pairs at the top: of {k * (k - 1):,} possible confusions these are the most frequent."
    return Figure("Most frequent confusions", caption, table(["True", "Predicted", "Count"], rows, numeric=(2,)))


def _shown(subject: Subject, predicted: Tensor, sure: Tensor, wrong: list[int], right: list[int]) -> Figure:
    """The mistakes it was surest of and, where there is room, the right answers it was least sure of."""
    worst = sorted(wrong, key=lambda i: -float(sure[i]))[:MOST_MISTAKES]
    close = sorted(right, key=lambda i: float(sure[i]))[: max(ROOM - len(worst), 0)]
    entries = [_tile(subject, i, predicted, sure) for i in worst + close]
    caption = "Look whether you would have known better: mistakes a person would make too are hard to train away."
    title = "Misclassified test examples"
    if len(worst) < len(wrong):
        title += f" (the {len(worst)} it was surest of)"
    if close:
        title = f"{title} and closest calls" if wrong else "The closest calls: right, but least sure"
    return Figure(title, caption, tiles(entries, "large"))


def _tile(subject: Subject, i: int, predicted: Tensor, sure: Tensor) -> Tile:
    true, found = subject.classes[int(subject.test_y[i])], subject.classes[int(predicted[i])]
    share = f"{percent(float(sure[i]), 0)} sure"
    if true == found:
        return Tile(picture(subject.test_x[i], f"test example {i}, a {true}"), true, share, "good")
    image = picture(subject.test_x[i], f"test example {i}, a {true} taken for a {found}")
    return Tile(image, f"{found}, not {true}", share, "bad")
