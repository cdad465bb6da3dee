"""What stands before every request: headers, the origin of writes. `limits` is about size and number.

Requests that change something must come from our own pages: browsers say so in Sec-Fetch-Site, older ones in Origin
(datasette's way: no tokens in forms, nothing to expire in an open tab). The content policy allows our own files only.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.studio.address import Site

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
HSTS = "max-age=2592000"
"""For a month browsers speak https alone, with this host; not with its subdomains, which may be others'."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what may not come in; add headers to what goes out."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["path"] = self.site.own(scope["path"])  # raw_path stays: nothing reads it
        refused = None
        if scope["method"] not in SAFE and not self.site.ours(headers):
            refused = JSONResponse({"problem": "this request came from another site"}, 403)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                if self.site.whole_host:
                    out.setdefault("Strict-Transport-Security", HSTS)
                if "location" in out:
                    out["location"] = self.site.location(out["location"])
                # Modules import each other by plain names: browsers must ask whether they changed.
                static = scope["path"].startswith("/static/")
                out.setdefault("Cache-Control", "no-cache" if static else "no-store")
            await send(message)

        if refused is not None:
            await refused(scope, receive, answer)
            return
        await self.app(scope, receive, answer)


def loopback(name: str) -> bool:
    """Whether an address or a host's name is this machine's own, reachable by nobody else."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
