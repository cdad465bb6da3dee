"""The studio's address as browsers see it, and the proxies that may say who is asking.

A proxy can end https, rewrite the Host header and put the studio under a path of its own host. Only `--public-url`
says so reliably: links, cookies and the origin check follow it. Without it the studio takes itself to be at the root
of whatever host it is reached under.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from jinja2.ext import Extension
from starlette.datastructures import Headers

from tutelage.records import UserError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Site:
    """Where the studio is reached. origin and path: of `--public-url`, empty without one; listens: its own address."""

    origin: str = ""
    path: str = ""
    listens: str = "http://localhost:8400"

    @property
    def url(self) -> str:
        """What people type: no slash at its end."""
        return (self.origin or self.listens) + self.path

    @property
    def cookie_path(self) -> str:
        """The part of the host that the studio's cookies are for."""
        return self.path or "/"

    def own(self, path: str) -> str:
        """A requested path as the routes know it. Proxies may hand the public path on or take it off; both are fine."""
        if self.path and (path == self.path or path.startswith(self.path + "/")):
            return path[len(self.path) :] or "/"
        return path

    def location(self, target: str) -> str:
        """Where a redirect leads: always to a page of the studio, never to a host that the request named."""
        parts = urlsplit(target)
        if not (parts.netloc or target.startswith("/")):
            return target
        return self.path + parts._replace(scheme="", netloc="").geturl()

    def https(self, request: Request) -> bool:
        """Whether the browser speaks https. X-Forwarded-Proto may be made up: it can only make cookies stricter."""
        said = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
        return "https" in (request.url.scheme, said) or self.origin.startswith("https:")

    @property
    def whole_host(self) -> bool:
        """Whether the studio has a host's https to itself, and may say that the host speaks nothing else."""
        return self.origin.startswith("https:") and not self.path and urlsplit(self.origin).port is None

    def link(self, request: Request, path: str) -> str:
        """An address to hand to somebody else.

        Without a public address it is the origin of the page the request came from, which `Guard` has checked: never
        the Host header alone, which a proxy rewrites and a sender can make up.
        """
        origin = self.origin or origin_of(request.headers.get("origin", "")) or self.listens
        return f"{origin}{self.path}{path}"

    def ours(self, headers: Headers) -> bool:
        """Whether a request that changes something was made by one of our pages, or by no browser at all."""
        fetched = headers.get("sec-fetch-site")
        if fetched is not None:
            return fetched in ("same-origin", "none")
        page = headers.get("origin", headers.get("referer"))  # browsers that send no Origin send a Referer
        if page is None:
            return True
        host = headers.get("host", "")
        if self.origin and origin_of(page) == self.origin:
            return True
        try:
            return urlsplit(page).netloc == host != urlsplit(self.origin).netloc
        except ValueError:  # brackets that do not close, say
            return False


def public_site(url: str, listens: str) -> Site:
    """`--public-url`, read. Raises UserError when it is no address that a browser could be given."""
    if not url:
        return Site(listens=listens)
    wrong = UserError(f"--public-url is {url!r}; give the address people open, as in https://studio.example.org/label")
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise wrong from None
    origin, path = origin_of(url.strip()), parts.path.rstrip("/")
    if not origin or "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", path) or {".", ".."} & set(path.split("/")):
        raise UserError(f"--public-url has the path {path!r}; letters, digits, '-', '_', '.', '~' and '/' can be in it")
    return Site(origin, path, listens)


def origin_of(url: str) -> str:
    """Scheme, host and port as browsers write them in Origin; "" for what has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except (ValueError, UnicodeError):
        return ""
    if parts.scheme not in PORTS or not re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", host):
        return ""
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != PORTS[parts.scheme] else "")


def trusted(proxies: Iterable[str]) -> list[str]:
    """`--trusted-proxies` as networks, each also as IPv6 writes IPv4. Raises UserError for what is no address."""
    found = []
    for word in (part for given in proxies for part in given.replace(",", " ").split()):
        try:
            network = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise UserError(
                f"--trusted-proxies: {word!r} is no address; give those the proxy connects from, as in 127.0.0.1 "
                "or 172.16.0.0/12"
            ) from None
        found.append(str(network))
        if network.version == 4:  # what a socket that takes both kinds reports
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found


class Rooted(Extension):
    """Templates write addresses from the studio's root; this puts the public path before them.

    Done where templates are read, so that no link can be forgotten. What is not written out in the template, as
    `href="{{ target }}"`, says `{{ base }}` itself.
    """

    _address = re.compile(r'(\b(?:href|src|action|formaction)=")/(?!/)')

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """A template's source with `{{ base }}` before each address."""
        return self._address.sub(r"\1{{ base }}/", source)
