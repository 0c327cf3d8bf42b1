import math

import pytest
import torch
from scipy.stats import rankdata, spearmanr

from cutaway.errors import ArgumentError
from cutaway.explain.similarity import magnitude, rank_correlation, ranks, ssim


def test_ranks_share_ties_as_scipy_does():
    values = torch.randint(0, 6, (4, 50)).double()
    assert torch.equal(ranks(values), torch.from_numpy(rankdata(values.numpy(), axis=1)))


@pytest.mark.parametrize("levels", [4, 1000])
def test_rank_correlation_is_scipys_with_and_without_ties(levels):
    a, b = torch.randint(0, levels, (5, 3, 4, 6)).double(), torch.randint(0, levels, (5, 3, 4, 6)).double()
    expected = [spearmanr(p.flatten(), q.flatten()).statistic for p, q in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected))


def test_rank_correlation_of_constant_maps():
    constant, other = torch.zeros(1, 8), torch.rand(1, 8)
    assert rank_correlation(constant, other) == 0
    assert rank_correlation(constant, constant + 3) == 1


def ssim_by_definition(a, b, side, sigma=1.5):
    """Equation 13 of Wang et al., written out: a Gaussian-weighted mean over every window that fits."""
    a, b = a / a.abs().max(), b / b.abs().max()
    window = [
        [math.exp(-((i - side // 2) ** 2 + (j - side // 2) ** 2) / (2 * sigma**2)) for j in range(side)]
        for i in range(side)
    ]
    total = sum(map(sum, window))
    found = []
    for top in range(a.shape[0] - side + 1):
        for left in range(a.shape[1] - side + 1):
            cells = [
                (window[i][j] / total, float(a[top + i, left + j]), float(b[top + i, left + j]))
                for i in range(side)
                for j in range(side)
            ]
            ma, mb = sum(w * p for w, p, _ in cells), sum(w * q for w, _, q in cells)
            va, vb = sum(w * (p - ma) ** 2 for w, p, _ in cells), sum(w * (q - mb) ** 2 for w, _, q in cells)
            cov = sum(w * (p - ma) * (q - mb) for w, p, q in cells)
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("size", "side"), [((13, 12), 11), ((8, 6), 5), ((3, 3), 3)])
def test_ssim_is_its_definition(size, side):
    a, b = torch.rand(1, *size, dtype=torch.float64), torch.rand(1, *size, dtype=torch.float64)
    expected = ssim_by_definition(a[0], b[0], side)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_ssim_of_equal_unrelated_and_zero_maps():
    a = torch.rand(2, 16, 16)
    torch.testing.assert_close(ssim(a, 3 * a), torch.ones(2, dtype=torch.float64))
    assert ssim(a, torch.rand(2, 16, 16)).abs().max() < 0.3
    assert torch.isfinite(ssim(a, torch.zeros(2, 16, 16))).all()


def test_magnitude_sums_channels_of_maps_only():
    values = torch.randn(2, 3, 4, 5)
    assert torch.equal(magnitude(values), values.abs().sum(1))
    assert torch.equal(magnitude(values.flatten(1)), values.flatten(1).abs())


def test_shapes_must_agree():
    with pytest.raises(ArgumentError, match=r"\(2, 3\) and \(2, 4\)"):
        rank_correlation(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ArgumentError, match=r"\(N, H, W\)"):
        ssim(torch.zeros(2, 3), torch.zeros(2, 3))
