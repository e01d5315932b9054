"""The page itself, in Gradio."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from glow.explore.answers import Answers, open_upload

ALL = "all classes"
# The browser asks no other host, whatever the assets of Gradio name.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def build_page(answers: Answers) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="glow", analytics_enabled=False) as page:
        gr.Markdown("# glow")
        with gr.Tab("Sample"):
            sample_tab(page, answers)
        with gr.Tab("Your image"):
            image_tab(answers)
        with gr.Tab("Mix"):
            mix_tab(answers)
        with gr.Tab("Attributes"):
            attributes_tab(answers)
    return page


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
        event(told(function), inputs, outputs, show_progress="hidden", trigger_mode="always_last")


def picker(answers: Answers, name: str, number: int) -> Any:
    """Return an image that is picked from the test images, or uploaded."""
    with gr.Column():
        pick = gr.Slider(0, len(answers.test) - 1, number, step=1, label=f"{name}: test image")
        file = gr.File(label="or a file of your own", type="filepath", height=90)
        image = picture(name, answers.picture(number), 200)
        pick.input(told(answers.picture), pick, image, show_progress="hidden")
        file.upload(told(open_upload), file, image)
    return image


def picture(label: str, value: Any = None, height: int | None = None) -> Any:
    """Return a place for a picture, which can be downloaded; Gradio's button that shares it elsewhere is left out."""
    buttons: Any = ["download", "fullscreen"]
    return gr.Image(value, label=label, interactive=False, height=height, format="png", buttons=buttons)


def command(text: str) -> Any:
    """Return a command with a button that copies it."""
    return gr.Textbox(text, label="on the command line", buttons=["copy"])


def sample_tab(page: gr.Blocks, answers: Answers) -> None:
    """Samples, with a temperature for each level."""
    model = answers.model
    classes = list(model.classes or []) if model.glow.num_classes else []
    seed = gr.Slider(0, 1000, 0, step=1, label="seed")
    levels = range(1, len(model.glow.latent_shapes) + 1)
    heats = [gr.Slider(0, 1.5, 0.7, step=0.05, label=f"temperature, level {level}") for level in levels]
    label = gr.Dropdown([ALL, *classes], value=ALL, label="class", visible=bool(classes))

    def draw(seed: float, label: str, *heats: float) -> Any:
        kind = None if label == ALL else label
        return answers.sample(seed, heats, kind), answers.sample_command(seed, heats, kind)

    shown = picture("samples")
    inputs, outputs = [seed, label, *heats], [shown, command("")]
    answer(inputs, draw, inputs, outputs)
    page.load(told(draw), inputs, outputs)


def image_tab(answers: Answers) -> None:
    """One image: its probability, what comes back from its latents, its nearest training images."""
    image = picker(answers, "image", 0)
    measure = gr.Button("Measure")
    shown = picture("decoded, and nearest training images")
    measure.click(told(answers.describe), image, [shown, gr.Textbox(label="probability", lines=3)])
    command(shlex.join(["glow", "edit", "--checkpoint", answers.run, "--what", "reconstruct", "--images", "0"]))


def mix_tab(answers: Answers) -> None:
    """Two images: a point between them, and levels of each."""
    with gr.Row():
        images = [picker(answers, "A", 0), picker(answers, "B", 1)]
    weight = gr.Slider(0, 1, 0.5, step=0.02, label="from A to B")
    path = gr.Radio(["spherical", "linear"], value="spherical", label="path")
    names = [str(level + 1) for level in range(len(answers.model.glow.latent_shapes))]
    controls = [weight, path, gr.CheckboxGroup(names, label="levels that are those of B")]
    shown = picture("mixed", height=220)
    answer(controls, answers.mix, [*images, *controls], [shown, gr.Textbox(label="probability")], images)
    command(shlex.join(["glow", "edit", "--checkpoint", answers.run, "--what", "interpolate", "--images", "0", "1"]))


def attributes_tab(answers: Answers) -> None:
    """One image, moved along the direction of an attribute."""
    names = [attribute.name for attribute in answers.directions.attributes] if answers.directions else []
    image, first = picker(answers, "image", 0), names[0] if names else None
    name = gr.Dropdown(names, value=first, label="attribute")
    method = gr.Radio(["mean", "logistic"], value="mean", label="direction")
    strength = gr.Slider(-2, 2, 0, step=0.05, label="strength")
    shown = picture("moved", height=220)
    controls = [name, method, strength]
    answer(controls, answers.attribute, [image, *controls], [shown, gr.Textbox(label="probability")], [image])
    options = ["--what", "apply", "--images", "0", "--attribute", first] if first else ["--what", "attributes"]
    command(shlex.join(["glow", "edit", "--checkpoint", answers.run, *options]))


class OwnHostOnly:
    """Middleware that adds a content security policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and add the header to its answer."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def serve(page: Any, host: str, port: int, login: tuple[str, str] | None, *, is_waiting: bool = True) -> str:
    """Serve the page; return its address once it is there, or, while ``is_waiting``, when it is stopped."""
    fonts = ["system-ui", "sans-serif"]
    _, address, _ = page.queue(default_concurrency_limit=2).launch(
        server_name=host,
        server_port=port or None,
        auth=login,
        share=False,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size="32mb",
        prevent_thread_lock=True,
        theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
        app_kwargs={"middleware": [Middleware(OwnHostOnly)]},
    )
    print(address, flush=True)  # noqa: T201
    if is_waiting:
        page.block_thread()
    return address
