"""Classical models beside a network: each part against what it is by definition."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from cutaway import explain
from cutaway.errors import ArgumentError


@pytest.fixture(scope="module")
def small():
    bunch = load_digits(n_class=3)
    return torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None], torch.tensor(bunch.target)


def test_support_vectors_weights_are_the_sum_over_them(small):
    x, y = small
    found = explain.classical(x[:300], y[:300], x[300:], y[300:])
    for k in range(3):
        vectors = x[:300].flatten(1).double()[found.support[k]]
        weights = (found.dual[k][:, None] * vectors).sum(0)  # Σ αᵢ yᵢ xᵢ
        torch.testing.assert_close(found.weights["svm"][k].flatten(), weights.float())
        assert abs(float(found.dual[k].sum())) < 1e-9  # Σ αᵢ yᵢ = 0
        signs = torch.where(y[:300][found.support[k]] == k, 1.0, -1.0)
        assert ((found.dual[k] * signs) > 0).all() and found.dual[k].abs().max() <= 0.1 + 1e-9  # 0 < αᵢ ≤ C
        fitted = SVC(kernel="linear", C=0.1).fit(x[:300].flatten(1), y[:300] == k)
        np.testing.assert_allclose(found.weights["svm"][k].flatten(), fitted.coef_[0], atol=1e-3)


def test_linear_weights_and_accuracies_are_those_of_the_models(small):
    x, y = small
    found = explain.classical(x[:300], y[:300], x[300:], y[300:], c=0.05)
    model = LogisticRegression(C=0.05, max_iter=5000).fit(x[:300].flatten(1), y[:300])
    np.testing.assert_allclose(found.weights["linear"].flatten(1), model.coef_, atol=1e-3)
    assert found.accuracy["linear"] == pytest.approx(model.score(x[300:].flatten(1), y[300:]))
    assert min(found.accuracy.values()) > 0.8


def test_what_a_tree_asks_is_counted_with_the_answers_sign():
    """One question decides: is the second column above 1?"""
    x = torch.tensor([[5.0, 0.0], [6.0, 0.5], [5.0, 2.0], [6.0, 3.0]])
    y = torch.tensor([0, 0, 1, 1])
    found = explain.classical(x, y, x, y, columns=["height", "width"], classes=["thin", "wide"])
    assert found.weights["tree"].tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert found.accuracy["tree"] == 1.0
    assert "width <= 1.25" in found.rules and "class: wide" in found.rules and "height" not in found.rules
    torch.testing.assert_close(found.weights["linear"][0], -found.weights["linear"][1])


def test_the_network_is_read_by_its_mean_gradient():
    x, y = (torch.tensor(each) for each in load_iris(return_X_y=True))
    net = nn.Linear(4, 3).double()
    found = explain.classical(x, y, x, y, net)
    torch.testing.assert_close(found.weights["network"], net.weight.detach().float())
    assert found.accuracy["network"] == pytest.approx(float((net(x).argmax(1) == y).double().mean()))


def test_pictures_and_numbers_are_saved(small, tmp_path):
    x, y = small
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    found = explain.classical(x[:200], y[:200], x[200:], y[200:], net, classes=["zero", "one", "two"])
    assert found.save(tmp_path / "models.png").stat().st_size > 10_000
    axes = found.plot([1]).subfigs[0].axes
    assert [axis.get_title().split("\n")[0] for axis in axes[:2]] == ["example", "linear weights"]
    assert axes[0].get_ylabel() == "one"
    saved = np.load(found.save(tmp_path / "models.npz"), allow_pickle=False)
    assert saved["tree"].shape == (3, 1, 8, 8)
    assert json.loads(str(saved["about"]))["accuracy"]["svm"] == found.accuracy["svm"]
    with pytest.raises(ArgumentError, match=r"models\.txt"):
        found.save(tmp_path / "models.txt")
    with pytest.raises(ArgumentError, match="classes are 0 … 2"):
        found.plot([3])


def test_wrong_data_are_refused(small):
    x, y = small
    with pytest.raises(ArgumentError, match="every class"):
        explain.classical(x, y, x[y != 1], y[y != 1])
    with pytest.raises(ArgumentError, match=r"\(5, 1, 8, 8\)"):
        explain.classical(x[:5], y[:4], x, y)
    with pytest.raises(ArgumentError, match="depth=0"):
        explain.classical(x, y, x, y, depth=0)
