"""Which parts of an input made the model say what it says, and whether the answer can be trusted."""

from cutaway.explain.attribution import Attribution
from cutaway.explain.averages import integrated_gradients, smooth_grad
from cutaway.explain.cam import grad_cam, guided_grad_cam
from cutaway.explain.check import Check, check
from cutaway.explain.curves import Curve
from cutaway.explain.gradients import gradient, gradient_x_input
from cutaway.explain.layers import spatial_nodes
from cutaway.explain.methods import METHODS
from cutaway.explain.objective import OBJECTIVES
from cutaway.explain.randomize import randomized
from cutaway.explain.rectifiers import deconvnet, guided_backprop
from cutaway.explain.similarity import rank_correlation, ssim

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "Attribution",
    "Check",
    "Curve",
    "check",
    "deconvnet",
    "grad_cam",
    "gradient",
    "gradient_x_input",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "randomized",
    "rank_correlation",
    "smooth_grad",
    "spatial_nodes",
    "ssim",
]
