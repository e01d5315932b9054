"""The model card of an exported model: README.md, whose head the Hugging Face Hub reads."""

from __future__ import annotations

from typing import Any

import yaml

from glow.config import FlowConfig, ModelConfig
from glow.training.checkpoints.exported import Export, Measured

SAMPLES = "samples.png"
LIMITS = """\
- The model knows its training data alone. Images of another size, depth or kind do not fit it, or get numbers that
  mean little.
- A high likelihood does not show that an image is like the training data: simple images are often more likely.
- Samples may be close to training images. Who publishes weights publishes something of the data.
"""


def card_text(export: Export, num_parameters: int, address: str | None, has_samples: bool) -> str:
    """Return the card.

    Args:
        export: What config.json says.
        num_parameters: Of the model.
        address: Of the model on the Hub, if it is known.
        has_samples: Whether the folder has a grid of samples.
    """
    name = address.rpartition("/")[2] if address else export.run.output
    parts = [f"---\n{yaml.safe_dump(_head(export, name), sort_keys=False)}---\n", f"# {name}\n"]
    parts.append(f"{_purpose(export)} Trained by glow {export.version}.\n")
    if has_samples:
        parts.append(f"![Samples]({SAMPLES})\n")
    parts += [_results(export.measured), _loading(export, address or "hf://USER/NAME")]
    parts += [_table("Model", _model_rows(export, num_parameters)), _table("Training", _training_rows(export))]
    named = f"{export.license}." if export.license else "None was named: ask the author before you use the model."
    return "\n".join([*parts, f"## Limits\n\n{LIMITS}", f"## License\n\n{named}\n"])


def _head(export: Export, name: str) -> dict[str, Any]:
    is_of_images = not export.run.is_of_vectors
    head: dict[str, Any] = {"license": export.license} if export.license else {}
    head |= {"library_name": "glow-flows", "tags": ["glow", "normalizing-flow", "density-estimation"]}
    if not is_of_images:
        return head
    task = "unconditional-image-generation"
    head["pipeline_tag"] = task
    if export.measured:
        results = [
            {
                "task": {"type": task},
                "dataset": {"name": result.data, "type": result.data, "split": result.split},
                "metrics": [{"type": "bits_per_dim", "name": "bits/dim", "value": result.bits_per_dim}],
            }
            for result in export.measured
        ]
        head["model-index"] = [{"name": name, "results": results}]
    return head


def _purpose(export: Export) -> str:
    if export.run.is_of_vectors:
        return f"A normalising flow of vectors of {export.run.flow.num_dims} dimensions."
    config = export.run.model
    shape = " x ".join(map(str, config.image_shape or ()))
    classes = f", {config.num_classes} classes" if config.class_conditional else ""
    return f"A Glow, an exact density model, of images {shape} of {config.num_bits} bits{classes}."


def _results(measured: list[Measured]) -> str:
    if not measured:
        return "## Results\n\nNo bits/dim was measured for this card.\n"
    lines = ["| data | split | images | bits/dim | bound | sha256 of the split |", "|---|---|---|---|---|---|"]
    for result in measured:
        error = "" if result.standard_error is None else f" ± {result.standard_error:.3f}"
        bound = f"{result.bound}, {result.num_noise_samples} draw{'s' * (result.num_noise_samples != 1)}"
        lines.append(
            f"| {result.data} | {result.split} | {result.num_images:,} | {result.bits_per_dim:.3f}{error} | {bound} "
            f"| `{result.data_sha256[:16]}` |"
        )
    note = "± is the standard error over the images. The bits/dim is an upper bound of the true one."
    return "\n".join(["## Results\n", *lines, "", f"{note}\n"])


def _loading(export: Export, address: str) -> str:
    weights = "" if export.weights == "ema" else ', weights="raw"'
    use = (
        "model.sample(1000)" if export.run.is_of_vectors else "model.sample(16, temperature=0.7)  # uint8 [N, C, H, W]"
    )
    lines = ["import glow", f'model = glow.load("{address}"{weights})  # or the path of this folder', f"x = {use}"]
    return "\n".join(["## Load\n", "```python", *lines, "```\n", "Install it by `pip install glow-flows`.\n"])


def _model_rows(export: Export, num_parameters: int) -> dict[str, object]:
    config: ModelConfig | FlowConfig = export.run.flow if export.run.is_of_vectors else export.run.model
    names = ["kind", "num_layers"] if isinstance(config, FlowConfig) else ["num_levels", "num_steps_per_level"]
    names += ["hidden_channels"] + (["coupling", "permutation", "network"] if isinstance(config, ModelConfig) else [])
    rows = {name: getattr(config, name) for name in names}
    if isinstance(config, ModelConfig):
        rows["num_steps_per_level"] = config.steps_text
    return {**rows, "parameters": f"{num_parameters:,}", "weights": f"{export.weights}, float32"}


def _training_rows(export: Export) -> dict[str, object]:
    run, optimizer = export.run, export.run.optimizer
    precision = run.train.mixed_precision or "no"
    return {
        "data": run.target.source or run.vectors.name or run.data.path,
        "steps": f"{export.state.step:,} of {run.train.batch_size} examples",
        "optimiser": f"{optimizer.name}, lr {optimizer.lr:g}, {optimizer.schedule}, decay {optimizer.weight_decay:g}",
        "precision of the networks": "float32" if precision == "no" else precision,
    }


def _table(title: str, rows: dict[str, object]) -> str:
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *(f"| {key} | {rows[key]} |" for key in rows), ""])
