"""The page itself, in Gradio."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from glow.explore import tabs
from glow.explore.answers import Answers

# The browser asks no other host, whatever the assets of Gradio name.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def build_page(answers: Answers) -> gr.Blocks:
    """Return the page."""
    others = []
    with gr.Blocks(title="glow", analytics_enabled=False) as page:
        gr.Markdown("# glow")
        with gr.Tab("Sample"):
            send_to = tabs.sample_tab(page, answers)
        with gr.Tab("Your image"):
            others += tabs.image_tab(answers)
        with gr.Tab("Mix"):
            others += tabs.mix_tab(answers)
        with gr.Tab("Attributes"):
            others += tabs.attributes_tab(answers)
        with gr.Tab("Repair"):
            others += tabs.repair_tab(answers)
        with gr.Tab("Training"):
            tabs.training_tab(answers)
        send_to(others)
    return page


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
