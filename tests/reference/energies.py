"""Fit planar and radial flows and couplings to the four energies; draw docs/energies.png, and fill the table of
docs/inference.md.

    PYTHONPATH=. python tests/reference/energies.py

About 20 minutes on one CPU core; what runs/energies has already is not fitted again.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from glow.evaluation.posterior import Grid, densities, on_grid
from glow.targets import ENERGIES, Energy
from glow.training.checkpoint import load_flow
from pipelines import infer

PAGE, PICTURE, RUNS = Path("docs/inference.md"), Path("docs/energies.png"), Path("runs/energies")
FAMILIES = {
    **{f"planar, K = {k}": ["infer_planar", "--flow.num_layers", str(k)] for k in (2, 8, 32)},
    **{
        f"radial, K = {k}": ["infer_planar", "--flow.kind", "radial", "--flow.num_layers", str(k)] for k in (2, 8, 32)
    },
    "8 couplings": ["infer_energy"],
}
SIDE, RESOLUTION = 5.0, 150


def fit(energy, family):
    """Run the stage; return the run directory and what posterior.json says."""
    config, *options = FAMILIES[family]
    output = RUNS / f"{energy}-{family.replace(', K = ', '')}".replace(" ", "-")
    found = sorted(output.glob("posterior/step-*/posterior.json"))
    if not found:
        arguments = ["--config", f"configs/{config}.yaml", "--target.name", energy, "--output", str(output), *options]
        found = [infer.main(arguments) / "posterior.json"]
    return output, json.loads(found[-1].read_text())


def draw(fits):
    """Draw a row for each energy: the target, and what each family makes of it, on the scale of the target."""
    figure = Figure(figsize=(1.55 * (1 + len(FAMILIES)), 1.6 * len(ENERGIES)), layout="constrained")
    rows = figure.subplots(len(ENERGIES), 1 + len(FAMILIES))
    corner = np.full(2, SIDE)
    for row, energy in zip(rows, ENERGIES, strict=True):
        target = Energy(energy)
        grid = Grid(-corner, corner, on_grid(target, -corner, corner, RESOLUTION))
        shown = {"target": None} | {family: fits[energy, family] for family in FAMILIES}
        for axes, (title, fitted) in zip(row, shown.items(), strict=True):
            if fitted is None:
                value = top = np.exp(grid.log_density - grid.log_normalizer)
                axes.set_ylabel(energy.upper())
            else:
                value = densities(load_flow(fitted[0]), target, grid)[1]
                axes.set_xlabel(f"KL {fitted[1]['kl']['nats']:.3f}", fontsize=8)
            axes.imshow(value, origin="lower", vmin=0, vmax=top.max(), cmap="viridis")
            axes.set(xticks=[], yticks=[])
            if energy == "u1":
                axes.set_title(title, fontsize=9)
    figure.savefig(PICTURE, dpi=90)


def fill(fits):
    """Write the divergences into the page, between <!-- energies --> and <!-- -->."""
    lines = ["| KL(q, target), nats | " + " | ".join(FAMILIES) + " |", "|---" * (1 + len(FAMILIES)) + "|"]
    for energy in ENERGIES:
        cells = [f"{fits[energy, family][1]['kl']['nats']:.3f}" for family in FAMILIES]
        lines.append(f"| {energy.upper()} | " + " | ".join(cells) + " |")
    before, after = PAGE.read_text().split("<!-- energies -->\n")
    table = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- energies -->\n{table}\n<!-- -->{after.split('<!-- -->', 1)[1]}")


def main():
    fits = {(energy, family): fit(energy, family) for family in reversed(FAMILIES) for energy in ENERGIES}
    draw(fits)
    fill(fits)


if __name__ == "__main__":
    main()
