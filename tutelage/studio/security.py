"""What stands before every request: headers, the origin of writes. `limits` is about size and number.

Requests that change something must come from our own pages: browsers say so in Sec-Fetch-Site, older ones in Origin
(datasette's way: no tokens in forms, nothing to expire in an open tab). The content policy allows our own files only.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD", "OPTIONS")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
"""For a run's report.html, which carries its style within itself and has no script."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what may not come in; add headers to what goes out."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = None
        if scope["method"] not in SAFE and not from_us(headers):
            refused = JSONResponse({"problem": "this request came from another site"}, 403)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                # Modules import each other by plain names: browsers must ask whether they changed.
                static = scope["path"].startswith("/static/")
                out.setdefault("Cache-Control", "no-cache" if static else "no-store")
            await send(message)

        if refused is not None:
            await refused(scope, receive, answer)
            return
        await self.app(scope, receive, answer)


def from_us(headers: Headers) -> bool:
    """Whether a request that changes something was made by one of our pages, or by no browser at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # brackets that do not close, say
        return False


def on_this_machine(address: str, host: str) -> bool:
    """Whether a request came from this machine and was meant for it.

    address: where it came from; host: the name it was sent to. A site elsewhere can have its own name lead to
    127.0.0.1 in the visitor's browser, and would then pass for one of our pages: but not under our name.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return loopback(address) and loopback(name)


def loopback(name: str) -> bool:
    """Whether an address or a host's name is this machine's own, reachable by nobody else."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
