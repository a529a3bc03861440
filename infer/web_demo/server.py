"""Serve the page of the web demo, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime.extras import require_extra

if TYPE_CHECKING:
    import gradio

BASE64, CONTROLS_BYTES = 4 / 3, 100_000  # a request is an image in base64, and what the controls say


def run(cfg: CFG) -> None:
    """Serve the page at `--host` and `--port` until it is interrupted."""
    require_extra("demo", "gradio", needed_by="the web demo")
    page = serve(cfg)
    print(f"the page is at http://{cfg.infer.host}:{cfg.infer.port} until Ctrl-C", flush=True)
    page.block_thread()


def serve(cfg: CFG) -> gradio.Blocks:
    """Load the model and begin to serve the page; raise UserError if its address cannot be had."""
    from starlette.middleware import Middleware

    from pix2seq.infer.web_demo.guard import Guard
    from pix2seq.infer.web_demo.page import CSS, THEME, Page
    from pix2seq.infer.web_demo.session import Models

    page = Page(Models(cfg), cfg.infer, cfg.tasks).build()
    page.queue(max_size=cfg.infer.queue_size, api_open=False)
    max_bytes = int(cfg.infer.max_megabytes * 1e6 * BASE64) + CONTROLS_BYTES
    try:
        page.launch(
            server_name=cfg.infer.host,
            server_port=cfg.infer.port,
            app_kwargs={"middleware": [Middleware(Guard, max_bytes=max_bytes)]},
            state_session_capacity=cfg.infer.max_sessions,
            prevent_thread_lock=True,
            css=CSS,
            theme=THEME,
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
        )
    except OSError:
        place = f"{cfg.infer.host}:{cfg.infer.port}"
        raise UserError(f"the page cannot be served at {place}, which may be taken; choose another --port") from None
    return page
