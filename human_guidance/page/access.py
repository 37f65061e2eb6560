"""Who may use the guidance page.

On a loopback address the page is for the person at this computer. A web page elsewhere could still
make that person's browser send requests here, so the `Host` header must be this computer's (against
DNS rebinding) and a request that changes something must come from the page itself (against
cross-site requests). On any other address a token is asked for as well.
"""

import hmac
import ipaddress
from html import escape
from urllib.parse import urlsplit

from flask import Flask, Response, redirect, request

from util.pages.plot_page import beside

COOKIE = "guidance_token"
LARGEST_REQUEST = 4_000_000  # bytes; a selection of many lassos takes some hundred thousand
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this computer only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def protect(server: Flask, host: str, token: str | None) -> None:
    """Refuse requests that do not come from whom the page is for.

    Args:
        server: of the page.
        host: address that it listens on.
        token: asked for before anything is shown; None asks for none, on loopback only.
    """
    if token is None and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other computers: a token is needed")
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    known_hosts = {*LOCAL_NAMES, host} if is_loopback(host) else None

    @server.before_request
    def check() -> Response | None:
        if known_hosts is not None and _name(request.host) not in known_hosts:
            return Response("This page is for this computer only.", 403)
        if not _own_origin():
            return Response("This request comes from another page.", 403)
        if token is None or request.path == "/token":
            return None
        if _equal(request.args.get("token"), token):
            return _let_in(token)
        if _equal(request.cookies.get(COOKIE), token):
            return None
        return _ask("Enter the token that the terminal shows, where the page was started.")

    @server.post("/token")
    def enter() -> Response:
        if token is None or _equal(request.form.get("token"), token):
            return _let_in(token)
        return _ask("This is not the token; the terminal shows it, where the page was started.")


def _name(host: str) -> str:
    """`127.0.0.1` of `127.0.0.1:8050`, `::1` of `[::1]:8050`; "" of what is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _own_origin() -> bool:
    """Whether a request that may change something comes from a page of this server."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return True
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _equal(given: str | None, token: str) -> bool:
    """Compared in constant time, so that the answer's delay tells nothing."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _let_in(token: str | None) -> Response:
    answer = redirect("/", 303)  # so that the token leaves the address bar
    if token is not None:
        answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
    return answer


def _ask(message: str) -> Response:
    page = beside(__file__, "login.html").replace("{message}", escape(message))
    return Response(page, 401, mimetype="text/html")


def add_headers(server: Flask, script_hashes: list[str]) -> None:
    """Let the page load nothing from elsewhere, and no other page frame it.

    Args:
        server: of the page.
        script_hashes: of Dash's own scripts within the page (`Dash.csp_hashes`).
    """
    policy = "; ".join(
        [
            "default-src 'self'",
            # plotly.js compiles the drawing commands of its points
            f"script-src 'self' 'unsafe-eval' {' '.join(script_hashes)}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "frame-ancestors 'none'",
            "form-action 'self'",
        ]
    )

    @server.after_request
    def secure(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer
