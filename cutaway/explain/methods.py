"""The tables of methods: by name, what a user calls and what computes the map on a graph."""

from collections.abc import Callable

from cutaway.explain import attention, averages, cam_family, gradients, perturbation, propagation, rectifiers, units
from cutaway.explain.attribution import Attribution
from cutaway.explain.cam import CAM_MAPS, grad_cam, grad_cam_plus_plus, guided_grad_cam, layer_cam
from cutaway.explain.frame import Compute

METHODS: dict[str, Callable[..., Attribution]] = {
    "gradient": gradients.gradient,
    "gradient_x_input": gradients.gradient_x_input,
    "smooth_grad": averages.smooth_grad,
    "integrated_gradients": averages.integrated_gradients,
    "guided_backprop": rectifiers.guided_backprop,
    "deconvnet": rectifiers.deconvnet,
    "grad_cam": grad_cam,
    "guided_grad_cam": guided_grad_cam,
    "lrp": propagation.lrp,
    "deep_lift": propagation.deep_lift,
    "occlusion": perturbation.occlusion,
    "rise": perturbation.rise,
    "cam": cam_family.cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "score_cam": cam_family.score_cam,
    "var_grad": averages.var_grad,
    "layer_attribution": units.layer_attribution,
    "neuron_attribution": units.neuron_attribution,
    "attention_rollout": attention.attention_rollout,
}

MAPS: dict[str, Compute] = {
    "gradient": gradients.gradient_map,
    "gradient_x_input": gradients.gradient_x_input_map,
    "smooth_grad": averages.smooth_grad_map,
    "integrated_gradients": averages.integrated_gradients_map,
    "guided_backprop": rectifiers.guided_map,
    "deconvnet": rectifiers.deconvnet_map,
    **CAM_MAPS,
    "lrp": propagation.lrp_map,
    "deep_lift": propagation.deep_lift_map,
    "occlusion": perturbation.occlusion_map,
    "rise": perturbation.rise_map,
    "cam": cam_family.cam_map,
    "score_cam": cam_family.score_cam_map,
    "var_grad": averages.var_grad_map,
    "layer_attribution": units.layer_map,
    "neuron_attribution": units.neuron_map,
    "attention_rollout": attention.rollout_map,
}

# Methods whose sign says whether a place speaks for or against the target; of the others only the magnitude counts.
SIGNED = frozenset(
    {
        "gradient_x_input",
        "integrated_gradients",
        "grad_cam",
        "lrp",
        "deep_lift",
        "occlusion",
        "rise",
        "cam",
        "grad_cam_plus_plus",
        "layer_cam",
        "score_cam",
        "layer_attribution",
        "attention_rollout",
    }
)
