"""A page to guide a latent space in the browser: select cells, anchor them, fine-tune, compare.

    python human_guidance/guidance_app.py --run results/0007-MyCells-VAE

opens a page on http://127.0.0.1:8050. Every change of the feedback is saved at once, in
expert_feedback.csv in the run folder; fine-tuning writes a new run folder. The page loads nothing
from the internet. It serves this computer only; with another --host it asks for the token that the
terminal shows.
"""

import logging
import secrets
import socket
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from dash import Dash
from dash.html import Div
from werkzeug.serving import BaseWSGIServer, make_server

from human_guidance.page.access import add_headers, is_loopback, protect
from human_guidance.page.callbacks import connect
from human_guidance.page.feedback import FeedbackList
from human_guidance.page.layout import LASSO, page
from human_guidance.page.run import GuidedRun, open_run
from human_guidance.page.space import first_space
from human_guidance.page.state import PageState
from human_guidance.page.training import FineTuning
from util.errors import UserError
from util.runs import find_finished_run
from util.settings import parse_options, run_script

ASSETS = Path(__file__).with_name("page") / "assets"


@dataclass(frozen=True)
class Settings:
    """Which run to guide, and the address of the page."""

    run: str = "last"
    """Finished run: its folder, its number in `results`, or `last` for the newest one."""
    feedback: str | None = None
    """CSV of the feedback; None takes expert_feedback.csv in the run folder."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 admits other computers, with a token; the connection is not
    encrypted, so use it in a trusted network or through an SSH tunnel."""
    port: int = 8050
    """Port to listen on; 0 takes a free one."""
    open_browser: bool = True
    """Open the page in this computer's browser."""
    device: str = "auto"
    """Device that decodes images: auto, cpu, cuda, mps."""
    results: str = "results"
    """Folder of the numbered run folders."""


SETTINGS = Settings()


def main(settings: Settings) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: there is no such finished run, its feedback is damaged, or the port is taken.
    """
    run = open_run(find_finished_run(settings.run, Path(settings.results)), settings.device)
    feedback = Path(settings.feedback) if settings.feedback else run.folder / "expert_feedback.csv"
    token = None if is_loopback(settings.host) else secrets.token_urlsafe(16)
    server = serve(make_app(run, feedback, settings.host, token), settings.host, settings.port)
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{server.port}/"
    if token:
        print(f"token: {token}")
        print(f"other computers: http://{socket.gethostname()}:{server.port}/")
    print(f"feedback: {feedback}")
    print(f"page: {address}   (Ctrl-C ends it)", flush=True)
    if settings.open_browser:
        webbrowser.open(f"{address}?token={token}" if token else address)
    server.serve_forever()


def make_app(run: GuidedRun, feedback: Path, host: str, token: str | None) -> Dash:
    """The page as a Dash app.

    Args:
        run: the run to guide.
        feedback: CSV of the feedback.
        host: address to listen on.
        token: required from every browser; None only on a loopback address.

    Raises:
        UserError: the CSV is damaged.
    """
    listed = FeedbackList(feedback, run.ids, run.latent_dim)
    listed.read()  # refuse a damaged list before the browser opens
    state = PageState(run, listed, FineTuning(run.folder))
    app = Dash(
        __name__,
        assets_folder=str(ASSETS),
        title=f"Guide {run.folder.name}",
        update_title=None,
        serve_locally=True,
        enable_mcp=False,
        on_error=state.explain,
    )
    protect(app.server, host, token)
    Thread(target=lambda: state.differences, daemon=True).start()  # ready for the first selection

    def layout() -> Div:
        space = first_space(state)
        return page(run, space.figure(LASSO), space.signature())

    app.layout = layout
    connect(app, state)
    add_headers(app.server, app.csp_hashes())
    return app


def serve(app: Dash, host: str, port: int) -> BaseWSGIServer:
    """A listening server; it answers once `serve_forever` is called.

    Raises:
        UserError: the address cannot be listened on.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it logs every request
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return make_server(host, port, app.server, threaded=True)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({error}): is the page open already? "
            "Choose another --port"
        ) from error


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
