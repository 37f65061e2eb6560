"""Who may use the guidance page.

On a loopback address the page serves the person at this computer. Another web page could make that
person's browser send requests here. Therefore the `Host` header must name this computer (against
DNS rebinding), and a request that changes something must come from the page itself (against
cross-site requests). On any other address the page also requires a token.
"""

import hmac
import ipaddress
from html import escape
from urllib.parse import urlsplit

from flask import Flask, Response, redirect, request

from util.pages.plot_page import beside

COOKIE = "guidance_token"
LARGEST_REQUEST = 4_000_000  # bytes; a selection of many lassos has some hundred thousand
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def protect(server: Flask, host: str, token: str | None) -> None:
    """Refuse requests from anyone but the user of the page.

    Args:
        server: of the page.
        host: address that it listens on.
        token: required before anything is shown; None only on a loopback address.
    """
    if token is None and not is_loopback(host):
        raise ValueError(f"other computers can reach {host}: a token is required")
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    known_hosts = {*LOCAL_NAMES, host} if is_loopback(host) else None

    @server.before_request
    def check() -> Response | None:
        if known_hosts is not None and _name(request.host) not in known_hosts:
            return Response("This page serves its own computer only.", 403)
        if not _own_origin():
            return Response("This request comes from another page.", 403)
        if token is None or request.path == "/token":
            return None
        if _equal(request.args.get("token"), token):
            return _let_in(token)
        if _equal(request.cookies.get(COOKIE), token):
            return None
        return _ask("Enter the token that is shown in the terminal of the page.")

    @server.post("/token")
    def enter() -> Response:
        if token is None or _equal(request.form.get("token"), token):
            return _let_in(token)
        return _ask("Wrong token. The terminal of the page shows it.")


def _name(host: str) -> str:
    """Host of an address: 127.0.0.1 of `127.0.0.1:8050`, ::1 of `[::1]:8050`; "" if invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _own_origin() -> bool:
    """Whether a request only reads, or comes from a page of this server."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return True
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _equal(given: str | None, token: str) -> bool:
    """Whether a token is right, in constant time so that the delay reveals nothing."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _let_in(token: str | None) -> Response:
    answer = redirect("/", 303)  # takes the token out of the address bar
    if token is not None:
        answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
    return answer


def _ask(message: str) -> Response:
    page = beside(__file__, "login.html").replace("{message}", escape(message))
    return Response(page, 401, mimetype="text/html")


def add_headers(server: Flask, script_hashes: list[str]) -> None:
    """Forbid the page to load from other servers, and other pages to frame it.

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
