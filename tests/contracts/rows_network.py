"""Example calls of pooling, resampling, normalisation, attention, losses, recurrent networks, and backward kernels."""

from typing import Any

import torch

from tests.contracts.calls import Call, T, call, each, pointwise

POOLING: dict[str, list[Call]] = {
    "max_pool1d": [call(T((2, 3, 9)), [3], [2], [1], [2])],
    "max_pool2d": [
        call(T((2, 3, 7, 8)), [2]),
        call(T((2, 3, 7, 8)), [3, 2], [2, 1], [1, 1], [1, 2], True),
        call(T((3, 7, 8)), [3], [2], [1]),
        call(T((0, 3, 7, 8)), [2]),
    ],
    "max_pool3d": [call(T((1, 2, 5, 4, 6)), [2, 2, 3], [1, 2, 1], [1, 0, 1])],
    "max_pool1d_with_indices": [call(T((2, 3, 9)), [3], [2], [1], [2])],
    "max_pool2d_with_indices": [call(T((2, 3, 7, 8)), [3, 2], [2, 1], [1, 1], [1, 2], True)],
    "max_pool3d_with_indices": [call(T((1, 2, 5, 4, 6)), [2, 2, 3], [1, 2, 1], [1, 0, 1])],
    "max_pool2d_with_indices_backward": [],
    "adaptive_max_pool1d": [call(T((2, 3, 9)), [4])],
    "adaptive_max_pool2d": [call(T((2, 3, 7, 8)), [3, 2])],
    "adaptive_max_pool3d": [call(T((1, 2, 5, 4, 6)), [2, 3, 1])],
    "fractional_max_pool2d": [call(T((1, 2, 6, 6)), [2, 2], [3, 3], T((1, 2, 2), "unit", fixed=True))],
    "fractional_max_pool3d": [call(T((1, 2, 6, 6, 6)), [2] * 3, [3] * 3, T((1, 2, 3), "unit", fixed=True))],
    "max_unpool2d": [call(T((1, 1, 2, 2)), T(values=[[[[0, 3], [9, 14]]]], kind=9), [4, 4])],
    "max_unpool3d": [
        call(T((1, 1, 1, 2, 2)), T(values=[[[[[0, 3], [9, 14]]]]], kind=9), [1, 4, 4], [1, 2, 2], [0, 0, 0])
    ],
    "avg_pool1d": [call(T((2, 3, 9)), [3], [2], [1], True, False), call(T((2, 3, 9)), [3])],
    "avg_pool2d": [
        call(T((2, 3, 7, 8)), [2]),
        call(T((2, 3, 7, 8)), [3, 2], [2, 1], [1, 1], True, False),
        call(T((2, 3, 7, 8)), [3], [2], [1], True, True),
        call(T((3, 7, 8)), [3], [2], [1], False, True, 5),
    ],
    "avg_pool3d": [
        call(T((1, 2, 5, 4, 6)), [2, 2, 3], [1, 2, 1], [1, 0, 1], True, False),
        call(T((1, 2, 5, 4, 6)), [2], divisor_override=3),
    ],
    "avg_pool2d_backward": [],
    "avg_pool3d_backward": [],
    "adaptive_avg_pool1d": [call(T((2, 3, 9)), [4]), call(T((2, 3, 9)), [1])],
    "adaptive_avg_pool2d": [call(T((2, 3, 7, 8)), [3, 2]), call(T((2, 3, 7, 8)), [1, 1]), call(T((3, 7, 8)), [1, 8])],
    "adaptive_avg_pool3d": [call(T((1, 2, 5, 4, 6)), [2, 3, 1]), call(T((1, 2, 5, 4, 6)), [1, 1, 1])],
    "_adaptive_avg_pool2d": [call(T((2, 3, 7, 8)), [3, 2])],
    "_adaptive_avg_pool3d": [call(T((1, 2, 5, 4, 6)), [2, 3, 1])],
    "_adaptive_avg_pool2d_backward": [],
    "_adaptive_avg_pool3d_backward": [],
    "grid_sampler": [call(T((2, 3, 5, 6)), T((2, 4, 3, 2), "unit"), 0, 0, False, second=False)],
    "grid_sampler_2d": [
        call(T((2, 3, 5, 6)), T((2, 4, 3, 2), "unit"), mode, padding, corners, second=False)
        for mode, padding, corners in ((0, 0, True), (0, 1, False), (2, 0, False), (0, 2, False))
    ],
    "grid_sampler_3d": [call(T((1, 2, 4, 5, 6)), T((1, 2, 4, 3, 3), "unit"), 0, 0, False, second=False)],
}

SIZES = {1: ([7], [5]), 2: ([4, 5], [7, 3]), 3: ([3, 4, 3], [5, 2, 4])}


def resampled(name: str, spatial: int, corners: bool) -> dict[str, list[Call]]:
    """Larger and smaller, to a size and by a factor."""
    source, goal = SIZES[spatial]
    image = T((2, 2, *source))
    choices = ([True], [False]) if corners else ([],)
    return {
        f"{name}.vec": [
            *(call(image, goal, *extra, None) for extra in choices),
            *(call(image, None, *extra, [1.6, 0.7, 1.3][:spatial]) for extra in choices),
        ],
        f"{name}.default": [call(image, goal, *extra) for extra in choices],
        f"{name}_backward": [],
    }


RESAMPLING: dict[str, list[Call]] = {}
for nearest in ("upsample_nearest", "_upsample_nearest_exact"):
    for spatial in (1, 2, 3):
        RESAMPLING |= resampled(f"{nearest}{spatial}d", spatial, False)
for smooth in ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    RESAMPLING |= resampled(smooth, 2, True)
RESAMPLING |= resampled("upsample_linear1d", 1, True) | resampled("upsample_trilinear3d", 3, True)

STATISTICS = (T((3,), fixed=True), T((3,), "positive", fixed=True))
NORMALISATION: dict[str, list[Call]] = {
    "batch_norm": [
        call(T((4, 3, 2, 2)), T((3,)), T((3,)), *STATISTICS, False, 0.1, 1e-3, False),
        call(T((4, 3)), None, None, *STATISTICS, False, 0.1, 1e-3, False),
        call(T((4, 3, 5)), T((3,)), None, *STATISTICS, False, 0.1, 1e-3, False),
    ],
    "_native_batch_norm_legit_functional": [call(T((4, 3, 2, 2)), T((3,)), T((3,)), *STATISTICS, True, 0.1, 1e-3)],
    "_native_batch_norm_legit": [call(T((4, 3, 2)), T((3,)), T((3,)), *STATISTICS, True, 0.1, 1e-3)],
    "native_batch_norm": [
        call(T((4, 3, 2, 2)), T((3,)), T((3,)), *STATISTICS, True, 0.1, 1e-3),
        call(T((4, 3)), T((3,)), T((3,)), *STATISTICS, False, 0.1, 1e-3),
        call(T((4, 3, 2)), None, None, None, None, True, 0.1, 1e-3),
    ],
    "_native_batch_norm_legit.no_stats": [
        call(T((4, 3, 2)), T((3,)), T((3,)), True, 0.1, 1e-3),
        call(T((4, 3, 2)), None, None, True, 0.1, 1e-3),
    ],
    "layer_norm": [
        call(T((2, 3, 4)), [4], T((4,)), T((4,))),
        call(T((2, 3, 4)), [3, 4], T((3, 4)), None, 1e-3),
        call(T((2, 3)), [3]),
        call(T((0, 3)), [3], T((3,)), T((3,))),
    ],
    "native_layer_norm": [call(T((2, 3, 4)), [4], T((4,)), T((4,)), 1e-3)],
    "group_norm": [
        call(T((2, 6, 3, 2)), 3, T((6,)), T((6,))),
        call(T((2, 6, 4)), 2, None, None, 1e-3),
        call(T((2, 4)), 2, T((4,))),
        call(T((2, 4, 3, 3)), 1, T((4,)), T((4,))),
    ],
    "native_group_norm": [call(T((2, 6, 3, 2)), T((6,)), T((6,)), 2, 6, 6, 3, 1e-3, outputs=1)],
    "rms_norm": [call(T((2, 3, 4)), [4], T((4,))), call(T((2, 3, 4)), [3, 4], None, 1e-3)],
    "_fused_rms_norm": [call(T((2, 3, 4)), [4], T((4,)), 1e-5, outputs=1)],
    "_weight_norm_interface": [
        call(T((3, 4)), T((3, 1)), 0, outputs=1),
        call(T((3, 2, 2)), T((1, 1, 2)), 2, outputs=1),
    ],
    "native_layer_norm_backward": [],
    "native_group_norm_backward": [],
    "native_batch_norm_backward": [],
}

HEADS = [T((2, 3, 4, 5)), T((2, 3, 6, 5)), T((2, 3, 6, 5))]
SQUARE = [T((2, 3, 4, 5))] * 3
MASK = T((4, 6), values=[[True, False, True, True, False, True]] * 3 + [[False] * 6], kind="bool")
ATTENTION: dict[str, list[Call]] = {
    "scaled_dot_product_attention": [
        call(*HEADS),
        call(*HEADS, scale=0.3),
        call(*SQUARE, None, 0.0, True),
        call(*HEADS, T((4, 6))),
        call(*HEADS, T((2, 1, 4, 6))),
        call(*HEADS, T((4, 6), "bool", fixed=True)),
        call(*HEADS, MASK, second=False),
        call(T((4, 5)), T((6, 5)), T((6, 5))),
        call(T((2, 4, 5)), T((2, 6, 5)), T((2, 6, 7))),
        call(T((2, 6, 4, 5)), T((2, 2, 6, 5)), T((2, 2, 6, 5)), enable_gqa=True),
        call(*HEADS, None, 0.4, random=True),
        call(*HEADS, T((4, 6)), 0.4, random=True),
    ],
    "_scaled_dot_product_flash_attention_for_cpu": [call(*HEADS, second=False), call(*SQUARE, 0.0, True, second=False)],
}

CLASSES = T((5,), 4)
REDUCE = (0, 1, 2)
LOSSES: dict[str, list[Call]] = {
    **{name: [*(call(T((2, 3)), T((2, 3)), r) for r in REDUCE)] for name in ("mse_loss", "l1_loss")},
    "huber_loss": [call(T((2, 3)), T((2, 3)), r, 0.5) for r in REDUCE],
    "smooth_l1_loss": [call(T((2, 3)), T((2, 3)), r, beta) for r in REDUCE for beta in (0.5, 1.0)],
    "binary_cross_entropy": [
        *(call(T((2, 3), "unit"), T((2, 3), "unit"), None, r) for r in REDUCE),
        call(T((2, 3), "unit"), T((2, 3), "unit"), T((3,), "positive", fixed=True), 1),
    ],
    "binary_cross_entropy_with_logits": [
        *(call(T((2, 3)), T((2, 3), "unit"), None, None, r) for r in REDUCE),
        call(T((2, 3)), T((2, 3), "unit"), T((3,), "positive", fixed=True), T((3,), "positive", fixed=True), 1),
    ],
    "cross_entropy_loss": [
        *(call(T((5, 4)), CLASSES, None, r) for r in REDUCE),
        *(call(T((5, 4)), CLASSES, T((4,), "positive", fixed=True), r, 1, 0.2) for r in REDUCE),
        call(T((5, 4)), CLASSES, None, 1, 2),
        call(T((2, 4, 3)), T((2, 3), 4), None, 1, -100, 0.1),
        call(T((4,)), T((), 4)),
        *(call(T((5, 4)), T((5, 4), "probabilities"), None, r, -100, 0.1) for r in REDUCE),
        call(T((5, 4)), T((5, 4), "probabilities"), T((4,), "positive", fixed=True)),
    ],
    "nll_loss": [call(T((5, 4)), CLASSES, T((4,), "positive", fixed=True), r, 1) for r in REDUCE],
    "nll_loss_nd": [call(T((5, 4)), CLASSES, None, r) for r in REDUCE] + [call(T((2, 4, 3, 3)), T((2, 3, 3), 4))],
    "nll_loss2d": [call(T((2, 4, 3, 3)), T((2, 3, 3), 4), None, r, 2) for r in REDUCE],
    "nll_loss_forward": [call(T((5, 4)), CLASSES, T((4,), "positive", fixed=True), r, 1) for r in REDUCE],
    "nll_loss2d_forward": [call(T((2, 4, 3, 3)), T((2, 3, 3), 4), None, 1, -100)],
}


def recurrent(gates: int, states: int) -> list[Call]:
    """One and two layers, both directions, with and without biases, batch first or second."""
    width, size, found = 3, 2, []
    for layers, directions, biases, batch_first, batch in (
        (1, 1, True, False, 2),
        (2, 2, True, True, 2),
        (2, 1, False, False, 1),
    ):
        shapes: list[Any] = []
        for layer in range(layers):
            for _ in range(directions):
                inner = width if layer == 0 else size * directions
                shapes += [T((gates * size, inner)), T((gates * size, size)), *([T((gates * size,))] * (2 * biases))]
        x = T((batch, 4, width) if batch_first else (4, batch, width))
        state = T((layers * directions, batch, size))
        hidden = state if states == 1 else [state] * states
        found.append(call(x, hidden, shapes, biases, layers, 0.0, False, directions == 2, batch_first, served=True))
    return found


PROJECTED = call(
    T((4, 2, 3)),
    [T((1, 2, 2)), T((1, 2, 5))],
    [T((20, 3)), T((20, 2)), T((20,)), T((20,)), T((2, 5))],
    True,
    1,
    0.0,
    False,
    False,
    False,
)
RECURRENT: dict[str, list[Call]] = {
    "lstm.input": [*recurrent(4, 2), PROJECTED],
    "gru.input": recurrent(3, 1),
    "rnn_tanh.input": recurrent(1, 1),
    "rnn_relu.input": recurrent(1, 1),
}

# backward kernels; those without calls are reached by the second derivatives of the others
SECOND: dict[str, list[Call]] = {
    "convolution_backward": [
        call(
            T((2, 6, 3, 3)),
            T((2, 4, 6, 7)),
            T((6, 2, 3, 3)),
            [6],
            [2, 1],
            [1, 0],
            [1, 2],
            False,
            [0, 0],
            2,
            [True] * 3,
            second=False,
        ),
        call(
            T((2, 6, 6, 6)),
            T((2, 4, 3, 4)),
            T((4, 3, 3, 3)),
            [6],
            [2, 1],
            [1, 0],
            [1, 1],
            True,
            [1, 0],
            2,
            [True, False, True],
            second=False,
        ),
    ],
    "threshold_backward": [call(T((2, 3)), T((2, 3)), 0.1)],
    "leaky_relu_backward": [call(T((2, 3)), T((2, 3)), 0.1, False)],
    "sigmoid_backward": [call(T((2, 3)), T((2, 3), "unit"))],
    "tanh_backward": [call(T((2, 3)), T((2, 3), "unit"))],
    "gelu_backward": [call(T((2, 3)), T((2, 3)), approximate=word) for word in ("none", "tanh")],
    "silu_backward": [],
    "mish_backward": [],
    "softplus_backward": [call(T((2, 3)), T((2, 3), "wide"), 2.0, 1.0)],
    "hardswish_backward": [call(T((2, 3)), T((2, 3), "wide"))],
    "elu_backward": [call(T((2, 3)), 0.7, 1.2, 0.9, False, T((2, 3)))],
    "_softmax_backward_data": [call(T((2, 3)), T((2, 3), "probabilities"), -1, torch.float64)],
    "_log_softmax_backward_data": [call(T((2, 3)), T((2, 3)), -1, torch.float64)],
    "select_backward": [call(T((3,)), [2, 3], 0, 1)],
    "slice_backward": [call(T((2, 3)), [5, 3], 0, 1, 5, 2)],
    "diagonal_backward": [call(T((3,)), [3, 4], 1, 0, 1)],
    "unfold_backward": [call(T((2, 3, 3)), [2, 7], 1, 3, 2)],
}

__all__ = ["ATTENTION", "LOSSES", "NORMALISATION", "POOLING", "RECURRENT", "RESAMPLING", "SECOND", "each", "pointwise"]
