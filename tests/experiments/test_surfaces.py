"""Every obstacle stops plain descent, and its cure helps."""

from pathlib import Path

import pytest

from cutaway.experiments import surfaces

module = __import__("cutaway.experiments.surfaces", fromlist=["NAMES"])


def test_obstacles_and_cures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "NAMES", ("rosenbrock", "sigmoid unit", "ReLU unit"))
    monkeypatch.setattr(module, "WAYS", ("sgd", "adam"))
    monkeypatch.setattr(module, "RATES", (0.001, 0.1, 1.0))
    few = dict.fromkeys(("rosenbrock", "sigmoid unit", "ReLU unit"), ("sgd", "adam"))
    monkeypatch.setattr(module, "PANELS", module.PANELS | few)
    found = surfaces(progress=False)
    rows = {(row["surface"], row["way"]): row for row in found.rows}
    assert rows["saddle", "sgd, no noise"]["ends at"] == "saddle"
    assert rows["saddle", "sgd, noise 0.0005"]["ends at"] == "minimum"
    assert rows["sigmoid unit", "sgd"]["gradient at start"] < 0.01 < 1 < rows["ReLU unit", "sgd"]["gradient at start"]
    assert rows["sigmoid unit", "sgd"]["above the least"] > 10 * rows["ReLU unit", "sgd"]["above the least"]
    thrown, clipped = rows["cliff", "sgd, no clipping"], rows["cliff", "sgd, clipped at 0.5"]
    assert thrown["longest step"] > 1 > clipped["longest step"]
    assert thrown["above the least"] > 10 * clipped["above the least"] and clipped["steps to 0.01"] < 30
    one, best = found.rows[-2:]
    assert best["above the least"] < one["above the least"] and "best of 20 starts" in found.reading
    assert rows["rosenbrock", "sgd"]["diverges at"].split(", ")[-1] == "1"
    assert (found.save(tmp_path / "out") / "figure.png").stat().st_size > 50_000
    assert len(found.plot().axes) == 6
