import numpy as np
import pytest
import torch

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.explain.objective import OBJECTIVES, objective

Z = torch.randn(4, 6, dtype=torch.float64)


@pytest.mark.parametrize("of", [*OBJECTIVES, lambda z: (z**2).sum(1).sqrt()])
@pytest.mark.parametrize("target", [None, 2, [0, 5, 1, 1]])
def test_adjoint_is_autograds(of, target):
    goal = objective(torch.zeros(4, 1), target, of)
    z = Z.clone().requires_grad_()
    expected = torch.autograd.grad(goal.value(z).sum(), z)[0]
    torch.testing.assert_close(goal.adjoint(Z), expected)


def test_values_are_the_logit_and_the_log_probability_of_the_target():
    target = torch.tensor([1, 2, 3, 4])
    x, rows = torch.zeros(4, 1), torch.arange(4)
    assert torch.equal(objective(x, target, "logit").value(Z), Z[rows, target])
    torch.testing.assert_close(objective(x, target, "log_probability").value(Z), Z.log_softmax(1)[rows, target])


def test_no_target_means_the_predicted_class_of_each_example():
    assert torch.equal(objective(torch.zeros(4, 1), None, "logit").classes(Z), Z.argmax(1))


@pytest.mark.parametrize("target", [3, [3] * 4, np.full(4, 3), torch.full((4,), 3, dtype=torch.int32)])
def test_targets_come_as_numbers_lists_arrays_and_tensors(target):
    assert objective(torch.zeros(4, 1), target, "logit").classes(Z).tolist() == [3, 3, 3, 3]


def test_a_function_may_stand_in_the_place_of_the_target():
    goal = objective(torch.zeros(4, 1), lambda z: z[:, 0] - z[:, 1], "logit")
    assert torch.equal(goal.value(Z), Z[:, 0] - Z[:, 1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (6, "target 6 is not a class"),
        (-1, "target -1"),
        ([0, 1], "4 inputs"),
        ([0.5] * 4, "integers"),
        (True, "integers"),
    ],
)
def test_wrong_targets_are_refused(target, message):
    with pytest.raises(ArgumentError, match=message):
        objective(torch.zeros(4, 1), target, "logit").adjoint(Z)


def test_unknown_objective_lists_the_known():
    with pytest.raises(LookupFailure, match="log_probability"):
        objective(torch.zeros(4, 1), 0, "log_prob")


def test_outputs_that_are_no_logits_need_a_function():
    with pytest.raises(ArgumentError, match=r"\(4, 6, 2\)"):
        objective(torch.zeros(4, 1), 0, "logit").adjoint(torch.zeros(4, 6, 2))
    with pytest.raises(ArgumentError, match=r"got shape \(\)"):
        objective(torch.zeros(4, 1), None, lambda z: z.sum()).value(Z)
