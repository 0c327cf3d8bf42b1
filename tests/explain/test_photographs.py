"""The sanity scores on networks and photographs of the real world."""

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway import explain, nets

PHOTOS = ("n02110958_pug", "n02391049_zebra", "n02056570_king_penguin")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def squeezenet(data_folder):
    weights = data_folder / "squeezenet1_0.safetensors"
    return nets.normalized(nets.load("squeezenet1_0", weights), MEAN, STD)


@pytest.fixture(scope="module")
def photos(data_folder):
    images = []
    for name in PHOTOS:
        with Image.open(data_folder / "imagenet_samples" / f"{name}.jpg") as image:
            width, height = image.size
            left, top = (width - 320) // 2, (height - 320) // 2
            cropped = image.convert("RGB").crop((left, top, left + 320, top + 320)).resize((160, 160))
        images.append(torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 255)
    return torch.stack(images)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("gradient", True),
        ("gradient_x_input", True),
        ("grad_cam", True),
        ("guided_backprop", False),
        ("guided_grad_cam", False),
    ],
)
def test_which_methods_show_what_was_learned(name, passes, squeezenet, photos):
    found = explain.METHODS[name](squeezenet, photos)
    assert (found.score >= 0.5) == passes
    assert ("much the same map" in found.warning) != passes


def test_grad_cam_answers_for_the_class_it_is_asked_about(squeezenet, photos):
    """On one picture made of a zebra (left) and a penguin (right), each class is found on its own side."""
    both = torch.cat([photos[1], photos[2]], 2)[None]  # (1, 3, 160, 320)
    zebra, penguin = (explain.grad_cam(squeezenet, both, index, score=False).values[0, 0] for index in (340, 145))
    half = zebra.shape[1] // 2
    assert zebra[:, :half].sum() > 2 * zebra[:, half:].sum()
    assert penguin[:, half:].sum() > 2 * penguin[:, :half].sum()
