"""What timm calls the layers that torchvision, and so we, call otherwise."""

from cutaway.nets.mobilenet import STAGES

VGG_NAMES = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def _mobilenet_v2() -> dict[str, str]:
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
    names |= {"conv_head": "features.18.0", "bn2": "features.18.1"}
    place = 1
    for stage, (expansion, _, repeats, _) in enumerate(STAGES):
        wide = ["conv_pw", "bn1"] if expansion > 1 else []
        layers = [*wide, "conv_dw", "bn2", "conv_pwl", "bn3"] if wide else ["conv_dw", "bn1", "conv_pw", "bn2"]
        inside = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if wide else ["0.0", "0.1", "1", "2"]
        for repeat in range(repeats):
            for theirs, ours in zip(layers, inside, strict=True):
                names[f"blocks.{stage}.{repeat}.{theirs}"] = f"features.{place}.conv.{ours}"
            place += 1
    return names


TIMM_NAMES: dict[str, dict[str, str]] = {  # class of the network -> {their layer: our layer}
    "VGG": VGG_NAMES,
    "MobileNetV2": _mobilenet_v2(),
}


def renamed(key: str, network: str) -> str:
    """Our name for a key of a state dict of timm; other keys stay as they are.

    Args:
        key: such as "head.fc.weight".
        network: name of the class of our network.

    >>> renamed("head.fc.weight", "VGG"), renamed("features.0.weight", "VGG")
    ('classifier.6.weight', 'features.0.weight')
    """
    layer, _, kind = key.rpartition(".")
    ours = TIMM_NAMES.get(network, {}).get(layer)
    return key if ours is None else f"{ours}.{kind}"
