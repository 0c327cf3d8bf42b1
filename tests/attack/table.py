"""One row per attack, for the contracts that all of them keep."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cutaway import attack


@dataclass(frozen=True)
class Row:
    """How to call an attack in a test, and which contracts apply.

    `bounded`: takes an eps. `gradients`: needs gradients. `least`: the success it has to have on the test network at
    the test's eps, untargeted; attacks that find the smallest perturbation have to succeed everywhere. `start`: with a
    target it has to be given images of that class. `alone`: what it does to an image does not depend on the others.
    `brief`: settings for promises that hold whatever the strength.
    """

    call: Callable[..., attack.Attack]
    norms: tuple[str, ...]
    bounded: bool = True
    gradients: bool = True
    targeted: bool = True
    least: float = 0.5
    start: bool = False
    alone: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    brief: dict[str, Any] = field(default_factory=dict)


def transfer_to_itself(model, x, y, **settings) -> attack.Attack:
    return attack.transfer(model, model, x, y, **settings)


def universal_on_all(model, x, y, **settings) -> attack.Attack:
    return attack.universal(model, x, y, held_out=0.0, **settings).made_on


EPS = {"linf": 0.2, "l2": 1.0, "l1": 4.0}
ALL = ("linf", "l2", "l1")
TABLE = {
    "random_noise": Row(attack.random_noise, ALL, gradients=False, least=0.0),
    "fgsm": Row(attack.fgsm, ALL, least=0.3),
    "bim": Row(attack.bim, ALL),
    "pgd": Row(attack.pgd, ALL, settings={"steps": 15}),
    "pgd to the end": Row(attack.pgd, ALL, settings={"steps": 15, "early_stop": False, "restarts": 2}),
    "pgd dlr": Row(attack.pgd, ALL, settings={"steps": 15, "loss": "dlr"}),
    "momentum": Row(attack.momentum, ALL),
    "square": Row(attack.square, ALL, gradients=False, settings={"queries": 150}, brief={"queries": 55}),
    "apgd": Row(attack.apgd, ALL, settings={"steps": 20}),
    "apgd dlr": Row(attack.apgd, ALL, settings={"steps": 20, "loss": "dlr"}),
    "deepfool": Row(attack.deepfool, ("l2", "linf"), bounded=False),
    "carlini_wagner": Row(
        attack.carlini_wagner,
        ("l2",),
        bounded=False,
        settings={"steps": 60, "searches": 5, "rate": 0.1, "weight": 0.1},
        brief={"steps": 30, "searches": 2},
    ),
    "lbfgs": Row(
        attack.lbfgs, ("l2",), bounded=False, settings={"steps": 20, "searches": 6}, brief={"steps": 8, "searches": 2}
    ),
    "elastic_net": Row(
        attack.elastic_net,
        ("l1",),
        bounded=False,
        settings={"steps": 60, "searches": 5, "rate": 0.05, "weight": 0.1},
        brief={"steps": 30, "searches": 2},
    ),
    "jsma": Row(attack.jsma, ("l0",), bounded=False, settings={"share": 0.8}),
    "jsma in both directions": Row(attack.jsma, ("l0",), bounded=False, settings={"share": 0.5, "direction": "both"}),
    "fab": Row(attack.fab, ALL, bounded=False, settings={"steps": 30}, brief={"steps": 10}),
    "boundary": Row(
        attack.boundary,
        ("l2",),
        bounded=False,
        gradients=False,
        start=True,
        settings={"steps": 200, "pace": 0.2},
        brief={"steps": 40},
    ),
    "hop_skip_jump": Row(
        attack.hop_skip_jump,
        ("l2", "linf"),
        bounded=False,
        gradients=False,
        start=True,
        settings={"steps": 4, "probes": 40},
        brief={"steps": 2},
    ),
    "transfer": Row(transfer_to_itself, ALL),
    "universal": Row(
        universal_on_all,
        ALL,
        targeted=False,
        least=0.25,
        alone=False,
        settings={"epochs": 20, "per_step": 16},
        brief={"epochs": 3},
    ),
    "auto_attack": Row(
        attack.auto_attack,
        ALL,
        targeted=False,
        settings={"effort": attack.Effort(steps=15, targets=2, queries=30)},
        brief={"effort": attack.Effort(steps=8, targets=2, queries=10)},
    ),
}
CASES = [(name, norm) for name, row in TABLE.items() for norm in row.norms]
