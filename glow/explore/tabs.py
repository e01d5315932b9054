"""The tabs of the page, in Gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from glow.editing.repairing import HALVES
from glow.explore.answers import PAINTED, Answers, open_upload
from glow.explore.runs import COLUMNS, reports, training_curve

ALL = "all classes"
CROP, SQUEEZE = "crop at the centre", "squeeze the whole image"
SAMPLE = "sample.png"  # what commands call a sample that is downloaded


@dataclass(frozen=True)
class Picked:
    """An image of a tab: its picture, and the number or file name that commands have for it."""

    picture: Any
    source: Any


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose ValueError becomes a sentence on the page."""

    def run(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return run


def answer(
    controls: Sequence[Any],
    function: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    images: Sequence[Any] = (),
) -> None:
    """Call a function whenever a control moves or an image changes; of many moves in a call, the last one counts."""
    for event in [*(control.input for control in controls), *(image.change for image in images)]:
        event(told(function), inputs, outputs, show_progress="hidden", trigger_mode="always_last", queue=False)


def picker(answers: Answers, name: str, number: int) -> Picked:
    """Return an image that is picked from the test images, or uploaded."""

    def upload(path: str | None, fit: str) -> Any:
        pixels = open_upload(path, answers.model.glow.image_shape, fit == SQUEEZE)
        return (gr.skip(), gr.skip()) if path is None else (pixels, path.replace("\\", "/").rpartition("/")[2])

    with gr.Column():
        pick = gr.Slider(0, len(answers.test) - 1, number, step=1, label=f"{name}: test image")
        with gr.Row():
            file = gr.UploadButton("or upload an image", type="filepath", file_types=["image"])
            fit = gr.Radio([CROP, SQUEEZE], value=CROP, show_label=False, container=False)
        image = picture(name, answers.picture(number), 200)
        source = gr.State(str(number))
        outputs = [image, source]
        pick.input(
            told(lambda value: (answers.picture(value), str(int(value)))),
            pick, outputs, show_progress="hidden", trigger_mode="always_last", queue=False,
        )  # fmt: skip
        file.upload(told(upload), [file, fit], outputs)
        fit.input(told(upload), [file, fit], outputs)
    return Picked(image, source)


def picture(label: str, value: Any = None, height: int | None = None) -> Any:
    """Return a place for a picture, which can be downloaded; Gradio's button that shares it elsewhere is left out."""
    buttons: Any = ["download", "fullscreen"]
    return gr.Image(value, label=label, interactive=False, height=height, format="png", buttons=buttons)


def code(label: str, text: str = "") -> Any:
    """Return a box of text with a button that copies it."""
    return gr.Textbox(text, label=label, buttons=["copy"])


def sample_tab(page: gr.Blocks, answers: Answers) -> Callable[[Sequence[Picked]], None]:
    """Samples, with a temperature for each level; return a function that sends a clicked one to the other tabs."""
    model = answers.model
    classes = list(model.classes or []) if model.glow.num_classes else []
    seed = gr.Slider(0, 1000, 0, step=1, label="seed")
    levels = range(1, len(model.glow.latent_shapes) + 1)
    heats = [gr.Slider(0, 1.5, 0.7, step=0.05, label=f"temperature, level {level}") for level in levels]
    label = gr.Dropdown([ALL, *classes], value=ALL, label="class", visible=bool(classes))
    shown = picture("samples: click one to send it to the other tabs")
    inputs, outputs = [seed, label, *heats], [shown, code("on the command line")]

    def draw(seed: float, label: str, *heats: float) -> Any:
        kind = None if label == ALL else label
        return answers.sample(seed, heats, kind), answers.sample_command(seed, heats, kind)

    answer(inputs, draw, inputs, outputs)
    page.load(told(draw), inputs, outputs)

    def send_to(others: Sequence[Picked]) -> None:
        def send(event: gr.SelectData, seed: float, label: str, *heats: float) -> Any:
            images = answers.samples(seed, heats, None if label == ALL else label)
            x, y = event.index
            found = answers.clicked(int(x), int(y), images)
            if found is None:
                return [gr.skip()] * (2 * len(others))
            gr.Info("This sample is now the image of the other tabs.", duration=4)
            return [found, SAMPLE] * len(others)

        shown.select(send, inputs, [part for other in others for part in (other.picture, other.source)])

    return send_to


def image_tab(answers: Answers) -> list[Picked]:
    """One image: its probability, what comes back from its latents, its nearest training images."""
    image = picker(answers, "image", 0)
    measure = gr.Button("Measure", variant="primary")
    text = gr.Textbox(label="probability", lines=3)
    shown = picture("decoded, and nearest training images")
    chart = picture("beside the test images", height=260)
    scores = gr.Dataframe(headers=["anomaly score", "this image", "less anomalous test images"], interactive=False)
    line = code("on the command line")

    def describe(pixels: np.ndarray | None, source: str) -> Any:
        sheet, histogram, rows, words = answers.describe(pixels)
        return sheet, histogram, rows, words, answers.edit_command("reconstruct", source)

    measure.click(told(describe), [image.picture, image.source], [shown, chart, scores, text, line])
    return [image]


def mix_tab(answers: Answers) -> list[Picked]:
    """Two images: a point between them, and levels of each."""
    with gr.Row():
        images = [picker(answers, "A", 0), picker(answers, "B", 1)]
    weight = gr.Slider(0, 1, 0.5, step=0.02, label="from A to B")
    path = gr.Radio(["spherical", "linear"], value="spherical", label="path")
    names = [str(level + 1) for level in range(len(answers.model.glow.latent_shapes))]
    controls = [weight, path, gr.CheckboxGroup(names, label="levels that are those of B")]
    outputs = [picture("mixed", height=220), gr.Textbox(label="probability"), code("in Python")]

    def mix(a: Any, b: Any, source_a: str, source_b: str, *values: Any) -> Any:
        return *answers.mix(a, b, *values), answers.mix_code([source_a, source_b], *values)

    pictures = [image.picture for image in images]
    answer(controls, mix, [*pictures, *(image.source for image in images), *controls], outputs, pictures)
    return images[:1]


def attributes_tab(answers: Answers) -> list[Picked]:
    """One image, moved along the direction of an attribute."""
    if answers.directions is None:
        gr.Markdown("Nobody has looked for directions yet. This command finds those of the classes; then start again.")
        code("on the command line", answers.attributes_command())
        return []
    names = [attribute.name for attribute in answers.directions.attributes]
    image = picker(answers, "image", 0)
    name = gr.Dropdown(names, value=names[0], label="attribute")
    method = gr.Radio(["mean", "logistic"], value="mean", label="direction")
    strength = gr.Slider(-2, 2, 0, step=0.05, label="strength")
    outputs = [picture("moved", height=220), gr.Textbox(label="probability"), code("on the command line")]
    controls = [name, method, strength]

    def move(pixels: Any, source: str, name: str, method: str, strength: float) -> Any:
        options = ["--attribute", name, "--method", method, "--strengths", f"{strength:g}"]
        command = answers.edit_command("apply", source, *options)
        return *answers.attribute(pixels, name, method, strength), command

    answer(controls, move, [image.picture, image.source, *controls], outputs, [image.picture])
    return [image]


def repair_tab(answers: Answers) -> list[Picked]:
    """One image with pixels missing: the likeliest completion, and draws."""
    image = picker(answers, "image", 0)
    area = gr.Radio([*HALVES, PAINTED], value="bottom", label="missing")
    brush = gr.Brush(default_size=24, colors=["#ffffff"], color_mode="fixed")
    canvas = gr.ImageMask(
        answers.picture(0), label="paint here", type="numpy", brush=brush, visible=False, layers=False, transforms=[]
    )
    draws = gr.Slider(20, 400, 100, step=20, label="draws: more take longer, and are nearer to the truth")
    seed = gr.Slider(0, 1000, 0, step=1, label="seed")
    start = gr.Button("Repair", variant="primary")
    shown, text = picture("repaired"), gr.Textbox(label="how well the chains mixed")
    mask = picture("mask: white is missing", height=220)
    line = code("on the command line")

    def repair(pixels: Any, source: str, area: str, drawn: Any, draws: float, seed: float) -> Any:
        layers = (drawn or {}).get("layers") or []
        painted = np.maximum.reduce([layer[..., 3] for layer in layers]) if layers else None
        options = ["--mask", "mask.png" if area == PAINTED else area]
        options += ["--num_draws", str(int(draws)), "--seed", str(int(seed))]
        return *answers.repair(pixels, area, painted, draws, seed), answers.edit_command("inpaint", source, *options)

    area.input(lambda value: gr.update(visible=value == PAINTED), area, canvas)
    image.picture.change(lambda pixels: pixels, image.picture, canvas)
    inputs = [image.picture, image.source, area, canvas, draws, seed]
    start.click(told(repair), inputs, [shown, mask, text, line], concurrency_limit=4, concurrency_id="repair")
    return [image]


def training_tab(answers: Answers) -> None:
    """Curves of the training, and the results of its evaluations."""
    curve, rows = training_curve(answers.folder), reports(answers.folder)
    if curve is None:
        gr.Markdown("There are no metrics here: this model is a folder of weights, without its training.")
    else:
        picture("bits/dim over the training", curve)
    if rows:
        gr.Dataframe(rows, headers=COLUMNS, interactive=False, label="evaluations")
    else:
        gr.Markdown("There is no evaluation yet. This command makes one:")
    code("on the command line", answers.evaluate_command())
