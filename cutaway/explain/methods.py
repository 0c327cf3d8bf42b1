"""The tables of methods: by name, what a user calls and what computes the map on a graph."""

from collections.abc import Callable

from cutaway.explain import averages, cam, gradients, rectifiers
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import Compute

METHODS: dict[str, Callable[..., Attribution]] = {
    "gradient": gradients.gradient,
    "gradient_x_input": gradients.gradient_x_input,
    "smooth_grad": averages.smooth_grad,
    "integrated_gradients": averages.integrated_gradients,
    "guided_backprop": rectifiers.guided_backprop,
    "deconvnet": rectifiers.deconvnet,
    "grad_cam": cam.grad_cam,
    "guided_grad_cam": cam.guided_grad_cam,
}

MAPS: dict[str, Compute] = {
    "gradient": gradients.gradient_map,
    "gradient_x_input": gradients.gradient_x_input_map,
    "smooth_grad": averages.smooth_grad_map,
    "integrated_gradients": averages.integrated_gradients_map,
    "guided_backprop": rectifiers.guided_map,
    "deconvnet": rectifiers.deconvnet_map,
    "grad_cam": cam.grad_cam_map,
    "guided_grad_cam": cam.guided_grad_cam_map,
}

# Methods whose sign says whether a place speaks for or against the target; of the others only the magnitude counts.
SIGNED = frozenset({"gradient_x_input", "integrated_gradients", "grad_cam"})
