"""How far more training carries: `python recipes/wren/scaling.py` draws log/scaling.png.

The figures in log/scaling.json are those of wren's versions, measured in one go with the same
questions, voices and settings; a straight line over the logarithm of the training says what a
doubling is worth. Needs matplotlib (`pip install -e '.[plots]'`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LOG = Path(__file__).parent / "log"


def slope(curve: dict[str, Any]) -> tuple[float, float]:
    """Value at the last point's amount, and gain with each doubling, of the least-squares line."""
    amounts = np.log2([point["amount"] for point in curve["points"]])
    values = np.array([point["value"][0] for point in curve["points"]])
    gain, _ = np.polyfit(amounts, values, 1)
    return float(values.mean() + gain * (amounts[-1] - amounts.mean())), float(gain)


def main() -> None:
    """Draw all curves beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = json.loads((LOG / "scaling.json").read_text())["curves"]
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.5 * len(curves), 3.6), layout="constrained", squeeze=False
    )
    for axis, curve in zip(axes[0], curves, strict=True):
        amounts = np.array([point["amount"] for point in curve["points"]], float)
        values = np.array([point["value"] for point in curve["points"]], float)
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axis.errorbar(amounts, values[:, 0], yerr=spread, fmt="o", capsize=3)
        for point in curve["points"]:
            axis.annotate(f"  {point['version']}", (point["amount"], point["value"][0]))
        last, gain = slope(curve)
        line = np.array([amounts[0], 2 * amounts[-1]])
        axis.plot(line, last + gain * np.log2(line / amounts[-1]), "--", linewidth=1)
        axis.axhline(curve["bar"], color="C2", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xlabel(curve["axis"])
        axis.set_title(f"{curve['what']}\n{gain:+.1f} points with each doubling", fontsize=9)
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        print(f"{curve['what']}: {gain:+.1f} points with each doubling")
    figure.savefig(LOG / "scaling.png", dpi=110)


if __name__ == "__main__":
    main()
