"""Which parts of an input made the model say what it says, and whether the answer can be trusted."""

from cutaway.explain.attention import AttentionMaps, attention_maps, attention_rollout
from cutaway.explain.attribution import Attribution
from cutaway.explain.averages import integrated_gradients, smooth_grad, var_grad
from cutaway.explain.cam import grad_cam, grad_cam_plus_plus, guided_grad_cam, layer_cam
from cutaway.explain.cam_family import cam, score_cam
from cutaway.explain.check import Check, check
from cutaway.explain.classical import Classical, classical
from cutaway.explain.curves import Curve
from cutaway.explain.gradients import gradient, gradient_x_input
from cutaway.explain.layers import spatial_nodes
from cutaway.explain.methods import METHODS
from cutaway.explain.objective import OBJECTIVES
from cutaway.explain.panel import panel
from cutaway.explain.perturbation import occlusion, rise
from cutaway.explain.propagation import deep_lift, lrp
from cutaway.explain.randomize import randomized
from cutaway.explain.rectifiers import deconvnet, guided_backprop
from cutaway.explain.similarity import rank_correlation, ssim
from cutaway.explain.units import layer_attribution, neuron_attribution

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "AttentionMaps",
    "Attribution",
    "Check",
    "Classical",
    "Curve",
    "attention_maps",
    "attention_rollout",
    "cam",
    "check",
    "classical",
    "deconvnet",
    "deep_lift",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_x_input",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "layer_attribution",
    "layer_cam",
    "lrp",
    "neuron_attribution",
    "occlusion",
    "panel",
    "randomized",
    "rank_correlation",
    "rise",
    "score_cam",
    "smooth_grad",
    "spatial_nodes",
    "ssim",
    "var_grad",
]
