"""Models that explain themselves, beside a network: linear weights, support vectors' weights, a tree's rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, export_text
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.explain import classical_picture
from cutaway.explain.gradients import gradient
from cutaway.saving import save, save_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Classical:
    """What classical models learned from a data set, and what a network answers to, class by class.

    Attributes:
        weights: by model, (K, …) shaped like an example of the data: what raises the class's score. "linear" holds
            logistic regression's weights, "svm" Σ αᵢ yᵢ xᵢ over the support vectors of each class against the rest,
            "tree" how often a place is asked for on the way to the class, with the sign of the answer, "network" the
            mean gradient of the class's logit over its examples.
        accuracy: of each model on the test examples.
        rules: the tree in words.
        support: for each class, the places of its support vectors in the training examples.
        dual: for each class, αᵢ yᵢ of those.
        examples: one test example of each class (K, …).
        classes, columns: names, empty where none were given.
        settings: the arguments.
        seed: fixes the tree.
    """

    weights: Mapping[str, Float[Tensor, "k ..."]]
    accuracy: Mapping[str, float]
    rules: str
    support: Sequence[Int[Tensor, " s"]]
    dual: Sequence[Float[Tensor, " s"]]
    examples: Float[Tensor, "k ..."]
    classes: Sequence[str] = ()
    columns: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def plot(self, chosen: Sequence[int] | None = None) -> "Figure":
        """Draw the models side by side for some classes (the first four by default), with the tree's rules."""
        return classical_picture.draw(self, chosen)

    def save(self, path: str | Path, chosen: Sequence[int] | None = None) -> Path:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz).

        Raises:
            ArgumentError: the ending is none of these.
        """
        about = {"accuracy": dict(self.accuracy), "rules": self.rules, "seed": self.seed}
        numbers = partial(save_arrays, tensors=self.weights, about=about)
        return save(path, lambda: self.plot(chosen), numbers, ".npz")


def classical(
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    test_x: Float[Tensor, "m ..."],
    test_y: Int[Tensor, " m"],
    model: nn.Module | Callable | None = None,
    *,
    classes: Sequence[str] = (),
    columns: Sequence[str] = (),
    depth: int = 5,
    c: float = 0.1,
    seed: int = 0,
) -> Classical:
    """Fit logistic regression, linear support vector machines and a decision tree, and read what they learned.

    Args:
        x, y: training examples (N, …), images or tables, and their class indices (N,).
        test_x, test_y: test examples (M, …) of the same shape, and theirs, with every class among them.
        model: a network trained on the same data; None for the classical models alone.
        classes, columns: names of the classes, and of a table's columns, for pictures and rules.
        depth: how many questions the tree asks at most.
        c: the penalty of errors, for regression and support vectors: smaller gives smoother weights.
        seed: fixes the tree.

    Raises:
        ArgumentError: shapes do not fit, depth or c is not positive, or a class is missing.

    Source: C. Cortes, V. Vapnik, Support-Vector Networks, 1995, eq. 14 (w = Σ αᵢ yᵢ xᵢ); L. Breiman et al.,
    Classification and Regression Trees, 1984.

    >>> from sklearn.datasets import load_iris
    >>> x, y = (torch.tensor(each) for each in load_iris(return_X_y=True))
    >>> found = classical(x, y, x, y, columns=["sepal length", "sepal width", "petal length", "petal width"], depth=2)
    >>> print(found.rules.splitlines()[0])
    |--- petal ...
    """
    _check(x, y, test_x, test_y, depth, c)
    flat, labels = x.flatten(1).double().numpy(), y.numpy()
    seen, truth = test_x.flatten(1).double().numpy(), test_y.numpy()
    count = int(labels.max()) + 1
    linear = LogisticRegression(C=c, max_iter=5000).fit(flat, labels)
    machines = [SVC(kernel="linear", C=c).fit(flat, labels == k) for k in range(count)]
    tree = DecisionTreeClassifier(max_depth=depth, random_state=seed).fit(flat, labels)
    margins = np.stack([machine.decision_function(seen) for machine in machines], 1)
    found = {
        "linear": linear.coef_ if count > 2 else np.concatenate([-linear.coef_, linear.coef_]),
        "svm": np.concatenate([machine.dual_coef_ @ machine.support_vectors_ for machine in machines]),
        "tree": asked(tree, seen, truth, count),
    }
    predicted = {"linear": linear.predict(seen), "svm": margins.argmax(1), "tree": tree.predict(seen)}
    weights = {name: torch.from_numpy(each).float().unflatten(1, x.shape[1:]) for name, each in found.items()}
    if model is not None:
        weights["network"], predicted["network"] = network(model, test_x, test_y, count)
    names = list(columns) or [_place(index, x.shape[1:]) for index in range(flat.shape[1])]
    return Classical(
        weights=weights,
        accuracy={name: float(np.mean(each == truth)) for name, each in predicted.items()},
        rules=export_text(tree, feature_names=names, class_names=list(classes) or None, max_depth=depth),
        support=[torch.from_numpy(machine.support_).long() for machine in machines],
        dual=[torch.from_numpy(machine.dual_coef_[0]) for machine in machines],
        examples=torch.stack([test_x[int((test_y == k).nonzero()[0])] for k in range(count)]),
        classes=tuple(classes),
        columns=tuple(columns),
        settings={"depth": depth, "c": c},
        seed=seed,
    )


def asked(tree: DecisionTreeClassifier, x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """For each class, how often its examples are asked for a feature, counted + where it is above the threshold."""
    paths, structure = tree.decision_path(x), tree.tree_
    found = np.zeros((count, x.shape[1]))
    for example, label in enumerate(y):
        for node in paths.indices[paths.indptr[example] : paths.indptr[example + 1]]:
            feature = structure.feature[node]
            if feature >= 0:  # not a leaf
                found[label, feature] += 1 if np.float32(x[example, feature]) > structure.threshold[node] else -1
    return found / np.bincount(y, minlength=count).clip(1)[:, None]


def network(
    model: nn.Module | Callable, x: Float[Tensor, "m ..."], y: Int[Tensor, " m"], count: int
) -> tuple[Float[Tensor, "k ..."], np.ndarray]:
    """The mean gradient of each class's logit over its examples, and the predicted classes."""
    parts = [gradient(model, x[y == k], k, score=False).values.mean(0) for k in range(count)]
    predicted = torch.cat([gradient(model, part, score=False).target for part in x.split(256)])  # type: ignore[arg-type]
    return torch.stack(parts).float().cpu(), predicted.cpu().numpy()


def _place(index: int, shape: Sequence[int]) -> str:
    """A feature's name: its row and column in an image, else its number."""
    if len(shape) < 2:
        return f"column {index}"
    channel, *place = np.unravel_index(index, tuple(shape))
    where = ",".join(map(str, place))
    return f"pixel {where}" if shape[0] == 1 else f"channel {channel} pixel {where}"


def _check(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, depth: int, c: float) -> None:
    if x.shape[1:] != test_x.shape[1:] or len(x) != len(y) or len(test_x) != len(test_y):
        shapes = [tuple(each.shape) for each in (x, y, test_x, test_y)]
        raise ArgumentError(f"examples (N, …) with classes (N,) of one shape are compared, got shapes {shapes}")
    if depth < 1 or c <= 0:
        raise ArgumentError(f"classical needs depth >= 1 and c > 0, got {depth=}, {c=}")
    known, present = set(range(int(y.max()) + 1)), set(y.tolist())
    if len(known) < 2 or known != present or not known <= set(test_y.tolist()):
        raise ArgumentError(
            f"every class 0 … {len(known) - 1}, at least two, must be among training and test examples; training has "
            f"{sorted(present)}, test {sorted(set(test_y.tolist()))}"
        )
