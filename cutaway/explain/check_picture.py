"""The picture of a check: the cascade of randomised layers, and the insertion and deletion curves."""

from typing import TYPE_CHECKING

import numpy as np

from cutaway.explain.picture import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cutaway.explain.check import Check
    from cutaway.explain.curves import Curve

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"  # Okabe and Ito's colours, told apart by everybody


def draw(check: "Check") -> "Figure":
    """Draw a check as three panels; nothing is shown or written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _cascade(left, check)
    _curve(middle, check.deletion)
    _curve(right, check.insertion)
    unexplained, moved = float(check.infidelity.unexplained.mean()), float(check.sensitivity.nanmean())
    words = f"{spelled(check.method)}: sanity score {check.score:.2f}, {unexplained:.0%} of the changes unexplained "
    figure.suptitle(f"{words}(infidelity), max-sensitivity {moved:.2f}", fontsize=11)
    return figure


def _cascade(axis: "Axes", check: "Check") -> None:
    places = np.arange(len(check.stages) + 1)
    lines = [("rank correlation", check.rank_correlation.abs(), BLUE, "o-")]
    if check.ssim is not None:
        lines.append(("SSIM", check.ssim, ORANGE, "s--"))
    for label, values, colour, style in lines:
        mean = np.concatenate([[1.0], values.mean(1).numpy()])
        axis.plot(places, mean, style, color=colour, label=label, markersize=4)
    axis.axhline(0, color=GREY, linewidth=0.6)
    one = len({stage.partition(".")[0] for stage in check.stages}) == 1  # all lie in one module: its name says nothing
    names = [stage.partition(".")[2] or stage if one else stage for stage in check.stages]
    axis.set_xticks(places, ["trained", *names], rotation=40, ha="right", fontsize=7)
    low = min(float(values.mean(1).min()) for _, values, _, _ in lines)
    axis.set_ylim(min(-0.1, low - 0.05), 1.05)
    axis.set_title("likeness to the trained map\nas layers are randomised, from the output down", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    axis.tick_params(axis="y", labelsize=8)


def _curve(axis: "Axes", curve: "Curve") -> None:
    shares = 100 * curve.shares.numpy()
    order, random = curve.values.mean(0).numpy(), curve.random.mean(0).numpy()
    axis.plot(shares, order, color=BLUE, label=f"the map's order, area {float(curve.area.mean()):.2f}")
    axis.plot(shares, random, "--", color=GREY, label=f"random order, area {float(curve.random_area.mean()):.2f}")
    axis.set_xlabel(f"places {'deleted' if curve.kind == 'deletion' else 'inserted'}, %", fontsize=8)
    wish = "lower" if curve.kind == "deletion" else "higher"
    axis.set_title(f"output under {curve.kind}\n({wish} than random is good)", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    axis.tick_params(labelsize=8)
