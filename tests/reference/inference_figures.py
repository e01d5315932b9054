"""Fit planar and radial flows and couplings to the four energies, and couplings to the logistic regression; draw
docs/images/energies.png and docs/images/logistic.png, and fill the tables of docs/how-to/inference.md.

    PYTHONPATH=. python tests/reference/inference_figures.py

About 20 minutes on one CPU core; what runs/energies and runs/infer_logistic have already is not fitted again.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from glow.inference.energies import ENERGIES, Energy
from glow.inference.pictures import densities
from glow.inference.posterior import Grid, on_grid
from glow.training.checkpoints.models import load_flow
from pipelines import infer

PAGE = Path("docs/how-to/inference.md")
FAMILIES = {
    **{f"planar, K = {k}": ["infer_planar", "--flow.num_layers", str(k)] for k in (2, 8, 32)},
    **{f"radial, K = {k}": ["infer_planar", "--flow.kind", "radial", "--flow.num_layers", str(k)] for k in (2, 8, 32)},
    "8 couplings": ["infer_energy"],
}
SIDE, RESOLUTION = 5.0, 150


def fit(output, config, *options):
    """Run the stage, unless it was run; return the run directory and what posterior.json says."""
    found = sorted(output.glob("posterior/step-*/posterior.json"))
    if not found:
        report = infer.main(["--config", f"configs/{config}.yaml", "--output", str(output), *options])
        found = [report / "posterior.json"]
    return output, json.loads(found[-1].read_text())


def fit_energy(energy, family):
    """Fit one family to one energy."""
    config, *options = FAMILIES[family]
    name = f"{energy}-{family.replace(', K = ', '')}".replace(" ", "-")
    return fit(Path("runs/energies") / name, config, "--target.name", energy, *options)


def draw_energies(fits):
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
    figure.savefig("docs/images/energies.png", dpi=90)


def table_of_energies(fits):
    """Return a row for each energy."""
    lines = ["| KL(flow, target), nats | " + " | ".join(FAMILIES) + " |", "|---" * (1 + len(FAMILIES)) + "|"]
    for energy in ENERGIES:
        cells = [f"{fits[energy, family][1]['kl']['nats']:.3f}" for family in FAMILIES]
        lines.append(f"| {energy.upper()} | " + " | ".join(cells) + " |")
    return lines


def compare_logistic(described, reference):
    """Draw mean and standard deviation of each coefficient by flow and NUTS; return the largest differences."""
    mean, std = (np.array([line[key] for line in described["dimensions"]]) for key in ("mean", "std"))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes, place = figure.subplots(), np.arange(len(mean))
    axes.axhline(0, color="0.8", linewidth=0.8)
    style = {"fmt": "o", "markersize": 3, "linewidth": 1.5}
    axes.errorbar(place - 0.15, mean, std, label="flow", color="C0", **style)
    axes.errorbar(place + 0.15, reference["mean"], reference["std"], label="NUTS", color="0.2", **style)
    axes.set_xticks(place, reference["names"], rotation=90, fontsize=8)
    axes.set(ylabel="mean ± standard deviation", xlim=(-0.7, len(mean) - 0.3))
    axes.legend(loc="upper right")
    figure.savefig("docs/images/logistic.png", dpi=100)
    differences = np.abs(mean - reference["mean"]), np.abs(std / np.array(reference["std"]) - 1)
    importance = described["importance"]
    return [
        "| largest difference of a mean | of a standard deviation, relative | ELBO, nats | log evidence by importance "
        "sampling, nats | effective samples |",
        "|---|---|---|---|---|",
        f"| {differences[0].max():.3f} | {differences[1].max():.1%} | {told(described['elbo'])} | "
        f"{told(importance['log_normalizer'])} | {importance['effective_sample_fraction']:.0%} |",
    ]


def told(estimate):
    return f"{estimate['nats']:.3f} ± {estimate['standard_error']:.3f}"


def fill(name, lines):
    """Write a table into the page, between <!-- name --> and <!-- -->."""
    before, after = PAGE.read_text().split(f"<!-- {name} -->\n")
    table = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- {name} -->\n{table}\n<!-- -->{after.split('<!-- -->', 1)[1]}")


def main():
    fits = {(energy, family): fit_energy(energy, family) for family in reversed(FAMILIES) for energy in ENERGIES}
    draw_energies(fits)
    fill("energies", table_of_energies(fits))
    _, described = fit(Path("runs/infer_logistic"), "infer_logistic")
    reference = json.loads(Path(__file__).with_name("logistic.json").read_text())
    fill("logistic", compare_logistic(described, reference))


if __name__ == "__main__":
    main()
