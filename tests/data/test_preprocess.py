"""Preprocessing is fitted on training data and does what its name says."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cutaway import data
from cutaway.errors import ArgumentError, LookupFailure


def correlated(n=400):
    x = torch.randn(n, 1, 2, 3) @ torch.randn(3, 3) + torch.tensor([1.0, -2.0, 3.0])
    return data.Dataset(x, torch.zeros(n, dtype=torch.long), ("a",))


def covariance(x):
    return np.cov(x.double().flatten(1).numpy().T, bias=True)


def test_each_does_what_its_name_says():
    train = correlated()
    made = {name: data.fit_preprocessing(train, name, epsilon=0.0)(train.x) for name in data.PREPROCESSING}
    for x in made.values():
        assert x.shape == train.x.shape and x.mean(0).abs().max() < 1e-5
    before = covariance(train.x)
    np.testing.assert_allclose(covariance(made["center"]), before, atol=1e-4)
    np.testing.assert_allclose(np.diag(covariance(made["scale"])), 1, atol=1e-4)
    values = np.linalg.eigvalsh(before)[::-1]
    np.testing.assert_allclose(covariance(made["decorrelate"]), np.diag(values), atol=1e-4 * values[0])
    np.testing.assert_allclose(covariance(made["whiten"]), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(covariance(made["zca"]), np.eye(6), atol=1e-3)
    root = data.fit_preprocessing(train, "zca", epsilon=0.0).matrix
    np.testing.assert_allclose(root, root.T, atol=1e-5)  # the inverse square root of the covariance is symmetric
    np.testing.assert_allclose(root @ torch.tensor(before).float() @ root, np.eye(6), atol=1e-3)


def test_the_numbers_are_those_of_training_and_saved_with_the_model(tmp_path):
    train, other = correlated(), correlated()
    model = nn.Sequential(data.fit_preprocessing(train, "whiten", components=2), nn.Linear(2, 3))
    assert (
        set(model.state_dict()) == {"0.mean", "0.matrix", "1.weight", "1.bias"} and len(list(model.parameters())) == 2
    )
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = nn.Sequential(data.fit_preprocessing(other, "whiten", components=2), nn.Linear(2, 3))
    assert not torch.allclose(again(other.x), model(other.x))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(other.x), model(other.x))


def test_components_keep_the_largest_variances():
    train = correlated()
    whole = data.fit_preprocessing(train, "decorrelate")(train.x).flatten(1)
    torch.testing.assert_close(data.fit_preprocessing(train, "decorrelate", components=3)(train.x), whole[:, :3])
    for components in (0, 7):
        with pytest.raises(ArgumentError, match="from 1 to 6"):
            data.fit_preprocessing(train, "whiten", components=components)
    with pytest.raises(LookupFailure, match="'whiten'"):
        data.fit_preprocessing(train, "witen")
    with pytest.raises(ArgumentError, match="empty"):
        data.fit_preprocessing(train[:0], "scale")


def test_preprocessing_can_be_exported():
    train = correlated()
    batch = {0: torch.export.Dim("N", min=2)}
    for name in data.PREPROCESSING:
        model = data.fit_preprocessing(train, name)
        exported = torch.export.export(model, (train.x[:2],), dynamic_shapes=(batch,), strict=False)
        torch.testing.assert_close(exported.module()(train.x[:5]), model(train.x[:5]))
