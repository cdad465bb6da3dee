"""The studio behind a real nginx: as nginx is by default, and as docs/deploy.md configures it.

A prefix that nginx keeps or takes off, a Host that it rewrites, https that it ends, addresses that it hands on.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from browser import SWITCHES, calm, chromium, served, watch
from made_server import Server, free_port
from made_studio import PASSWORD, SETUP_TOKEN, Made
from playwright.sync_api import expect, sync_playwright

from tutelage.records import UserError
from tutelage.studio import accounts
from tutelage.studio.address import Site, origin_of, public_site, trusted
from tutelage.studio.app import COOKIE, build
from tutelage.studio.project import Project
from tutelage.studio.store import Store, open_store

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "nginx.sh"
WHOLE, UNDER_PATH = re.findall(r"^```nginx\n(.*?)^```", (ROOT / "docs" / "deploy.md").read_text(), re.M | re.S)
HOST = "studio.example.org"

Nginx = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Nginx:
    """A function from server blocks to a context in which nginx serves them."""
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"no nginx: {installed.stderr.strip() or 'it cannot be installed'}")

    @contextmanager
    def serving(blocks: str) -> Iterator[None]:
        config = tmp_path_factory.mktemp("nginx") / "site.conf"
        config.write_text(blocks)
        with subprocess.Popen(
            [SCRIPT, "serve", config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin is not None and server.stdout is not None
            try:
                assert server.stdout.readline() == "ready\n"
                yield
            finally:
                server.stdin.close()

    return serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own for HOST, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "fullchain.pem", folder / "privkey.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([*words, *names, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    return made


def documented(port: int, studio: int, certificate: tuple[Path, Path], *, under_path: bool) -> str:
    """The blocks of docs/deploy.md, with nothing but ports and the certificate's place changed."""
    block = WHOLE
    if under_path:
        start, end = block.index("    location / {"), block.rindex("}")
        block = block[:start] + UNDER_PATH + block[end:]
    changes = {"listen 443": f"listen 127.0.0.1:{port}", "127.0.0.1:8400": f"127.0.0.1:{studio}"}
    changes |= {f"/etc/letsencrypt/live/{HOST}/{path.name}": str(path) for path in certificate}
    for old, new in changes.items():
        assert old in block
        block = block.replace(old, new)
    return block


# ---- every page, form and file, whatever the proxy does to the path --------------------------------------------


@dataclass
class Reached:
    """A studio behind nginx: where it is opened, and what stands before its addresses there."""

    home: str
    path: str
    store: Store
    made: Made


def bare(port: int, location: str, target: str) -> str:
    """nginx as it is by default: `proxy_pass` only, Host rewritten, nothing said about who asks."""
    return f"server {{ listen 127.0.0.1:{port}; location {location} {{ proxy_pass {target}; }} }}"


@pytest.fixture(params=["root", "path taken off", "path kept", "path, Host kept"])
def reached(request: pytest.FixtureRequest, project: Project, nginx: Nginx, tmp_path: Path) -> Iterator[Reached]:
    port, store = free_port(), open_store(f"sqlite:///{tmp_path / 'studio.db'}")
    path = "" if request.param == "root" else "/tools/label"
    site = public_site(f"http://127.0.0.1:{port}{path}/", "http://localhost:1")
    with served(build(project, store, site=site, setup=SETUP_TOKEN)) as (studio, _, _):
        taken_off = "/" if request.param == "path taken off" else ""
        block = bare(port, path + "/", studio + taken_off)
        if "Host kept" in request.param:
            block = block.replace("proxy_pass", "proxy_set_header Host $http_host; proxy_pass")
        with nginx(block):
            yield Reached(f"http://127.0.0.1:{port}{path}", path, store, Made(store))
    store.close()


def browse(at: Reached, role: str = "") -> httpx.Client:
    """A browser's stand-in; it sends Origin with forms, as all browsers do, and follows no redirect."""
    client = httpx.Client(headers={"Origin": origin_of(at.home)}, timeout=60)
    if role:
        token = accounts.open_session(at.store, at.made.account(role).id)
        client.cookies.set(COOKIE, token, domain="127.0.0.1", path=at.path or "/")
    return client


ADDRESS = re.compile(r'\b(href|src|action|formaction)="([^"]*)"')


def crawl(at: Reached, role: str) -> dict[str, int]:
    """Follow every link and redirect, and look where forms lead: {address: status}. All must be the studio's own."""
    client, waiting, seen = browse(at, role), [at.path + "/"], dict[str, int]()
    while waiting:
        if (address := waiting.pop()) in seen:
            continue
        answer = client.get(origin_of(at.home) + address)
        seen[address] = answer.status_code
        found = ADDRESS.findall(answer.text) if "html" in answer.headers.get("content-type", "") else []
        for kind, to in [*found, ("href", answer.headers.get("location", "#"))]:
            if not to.startswith(("#", "?")):
                assert to.startswith(at.path + "/"), f"{address} leads to {to}"
                waiting += [unescape(to).partition("#")[0]] if kind in ("href", "src") else []
    return seen


def test_every_address_on_every_page_leads_to_the_studio(reached: Reached) -> None:
    reached.made.filled(count=3)
    reached.made.answer(reached.made.crowd(1)[0])
    seen = crawl(reached, "labeler") | crawl(reached, "admin")
    assert {address: code for address, code in seen.items() if code not in (200, 303)} == {}
    for part in ("/prompts", "/batches", "/people", "/screening", "/values", "/loop", "/playground", "/account"):
        assert seen[reached.path + part] == 200
    assert any("/static/style.css" in address for address in seen)


def test_somebody_sets_up_invites_joins_and_works(reached: Reached) -> None:
    def post(client: httpx.Client, path: str, **data: str) -> httpx.Response:
        answer = client.post(reached.home + path, data=data)
        if "location" in answer.headers:
            assert answer.headers["location"].startswith(reached.path + "/")
        for cookie in answer.headers.get_list("set-cookie"):
            assert f"Path={reached.path or '/'};" in cookie and "Secure" not in cookie  # http, so far as anybody knows
        return answer

    boss = browse(reached)
    assert boss.get(reached.home + "/").headers["location"] == reached.path + "/setup"
    assert post(boss, f"/setup?token={SETUP_TOKEN}", name="boss", password=PASSWORD).status_code == 303
    assert boss.get(reached.home + "/loop").status_code == 200
    invited = post(boss, "/people/invite", role="labeler", team="")
    link = re.search(r'value="(http[^"]+)"', invited.text)
    assert link and link[1].startswith(reached.home + "/join/")
    labeler = browse(reached)
    joined = labeler.post(link[1], data={"name": "Lee", "password": PASSWORD})
    assert joined.headers["location"] == reached.path + "/"
    assert "Your desk" in labeler.get(reached.home + "/").text
    assert labeler.get(reached.home + "/guidelines/").headers["location"] == reached.path + "/guidelines"
    assert post(labeler, "/account/password", present=PASSWORD, password="another good one").status_code == 303
    preview = labeler.post(reached.home + "/api/preview", json={"text": "*x*"})
    assert preview.status_code == 200 and "<em>" in preview.json()["html"]
    assert post(labeler, "/logout").headers["location"] == reached.path + "/login"
    assert labeler.get(reached.home + "/").headers["location"] == reached.path + "/login"
    assert post(labeler, "/login", name="Lee", password="another good one").status_code == 303


@pytest.mark.attack("forms of other sites, through a proxy")
def test_other_sites_are_still_refused(reached: Reached) -> None:
    client = browse(reached, "labeler")
    del client.headers["Origin"]
    others = [{"Origin": to} for to in ("http://evil.example", "http://127.0.0.1:1", "null", "")]
    for headers in (*others, {"Referer": "http://evil.example/x"}, {"Sec-Fetch-Site": "same-site"}):
        refused = client.post(reached.home + "/next/compare", headers=headers)
        assert refused.status_code == 403 and "another site" in refused.text, headers
    assert client.post(reached.home + "/next/compare", headers={"Referer": reached.home + "/"}).status_code == 303


# ---- as the documentation says ---------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ["", "/label"])
def test_the_documented_configuration_in_a_browser(
    project: Project, nginx: Nginx, certificate: tuple[Path, Path], path: str
) -> None:
    port, studio, url = free_port(), free_port(), f"https://{HOST}{path}"
    server = Server(project.folder, "", studio, more=("--public-url", url, "--trusted-proxies", "127.0.0.1"))
    switches = [*SWITCHES, f"--host-resolver-rules=MAP {HOST} 127.0.0.1:{port}"]
    try:
        with (
            nginx(documented(port, studio, certificate, under_path=bool(path))),
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=chromium(), args=switches, timeout=120_000) as browser,
        ):
            admin, labeler = (browser.new_context(ignore_https_errors=True).new_page() for _ in range(2))
            for one in (admin, labeler):
                watch(one, (f"https://{HOST}{path}/", "data:"))
            assert server.setup.startswith(url + "/setup?token=")
            admin.goto(server.setup)
            admin.get_by_label("Your name").fill("Ada")
            admin.get_by_label("Password").fill(PASSWORD)
            admin.get_by_role("button", name="Begin").click()
            expect(admin.locator(".next-sentence")).to_be_visible()
            cookies = {c["name"]: c for c in admin.context.cookies()}
            assert {(c["secure"], c["httpOnly"], c["path"]) for c in cookies.values()} == {(True, True, path or "/")}
            made = open_store(f"sqlite:///{project.folder / 'studio.db'}")
            Made(made).filled(count=2)
            made.close()
            admin.goto(url + "/people")
            admin.get_by_role("button", name="Make a link").click()
            link = admin.locator("input[readonly]").input_value()
            assert link.startswith(url + "/join/")
            labeler.goto(link)
            labeler.get_by_label("Your name").fill("Lee")
            labeler.get_by_label("Password").fill(PASSWORD)
            labeler.get_by_role("button", name="Join").click()
            labeler.get_by_role("button", name="Rank the next ones").click()
            expect(labeler.locator("#status")).not_to_have_text("opening…")  # scripts run, and reach the studio
            assert urlsplit(labeler.url).path.startswith(path + "/task/")
            for one in (admin, labeler):
                calm(one)
    finally:
        server.kill()


@pytest.mark.attack("escaping the limits with a made-up X-Forwarded-For")
@pytest.mark.parametrize("proxy", ["127.0.0.1", "127.0.0.9"], ids=["on this machine", "in a container"])
def test_people_behind_a_trusted_proxy_are_told_apart(
    project: Project, nginx: Nginx, certificate: tuple[Path, Path], proxy: str
) -> None:
    port, studio, url = free_port(), free_port(), f"https://{HOST}"
    store = open_store(f"sqlite:///{project.folder / 'studio.db'}")
    Made(store).account("admin", name="boss")
    store.close()
    block = documented(port, studio, certificate, under_path=False)
    block = block.replace("proxy_pass", f"proxy_bind {proxy}; proxy_pass")  # where the proxy's requests come from
    server = Server(project.folder, "", studio, more=("--public-url", url, "--trusted-proxies", proxy))
    trust = ssl.create_default_context(cafile=str(certificate[0]))

    def log_in(address: str, name: str, password: str, **headers: str) -> int:
        transport = httpx.HTTPTransport(verify=trust, local_address=address)
        with httpx.Client(transport=transport, timeout=60) as client:
            to = httpx.URL(f"https://127.0.0.1:{port}/login")
            said = {"Host": HOST, "Origin": url} | headers
            data = {"name": name, "password": password}
            return client.post(to, data=data, headers=said, extensions={"sni_hostname": HOST}).status_code

    try:
        with nginx(block):
            spoofed = [log_in("127.0.0.2", "boss", "wrong", **{"X-Forwarded-For": f"9.9.9.{n}"}) for n in range(12)]
            assert spoofed == [401] * 10 + [429] * 2, "who asks is who nginx says, whatever they say themselves"
            assert log_in("127.0.0.3", "boss", PASSWORD) == 303
            assert log_in("127.0.0.2", "boss", PASSWORD) == 429
            assert log_in("127.0.0.3", "boss", PASSWORD, Origin=f"http://{HOST}") == 403, "not even our name over http"
    finally:
        server.kill()


# ---- the two options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://studio.example.org", "https://studio.example.org", ""),
        ("https://Studio.Example.org:443/", "https://studio.example.org", ""),
        ("http://10.0.0.7:8080/label/", "http://10.0.0.7:8080", "/label"),
        ("https://[2001:DB8::1]/a/b-c_d.e~f", "https://[2001:db8::1]", "/a/b-c_d.e~f"),
        ("https://büro.example", "https://xn--bro-hoa.example", ""),
    ],
)
def test_a_public_address_is_read(url: str, origin: str, path: str) -> None:
    site = public_site(url, "http://localhost:8400")
    assert (site.origin, site.path, site.url) == (origin, path, origin + path)


@pytest.mark.parametrize(
    "url",
    [
        "studio.example.org",
        "ftp://studio.example.org",
        "https://",
        "https://u:p@studio.example.org",
        "https://studio.example.org/?a=b",
        "https://studio.example.org/#a",
        "https://studio.example.org:99999",
        "https://[evil",
        'https://studio.example.org/"><b>',
        "https://studio.example.org/a/../b",
        "https://studio.example.org//a",
        "https://a b",
    ],
)
def test_addresses_that_are_none_are_told(url: str) -> None:
    with pytest.raises(UserError, match="--public-url"):
        public_site(url, "")


def test_trusted_proxies_are_networks() -> None:
    assert trusted(["127.0.0.1,::1", "172.16.0.1/12"]) == [
        "127.0.0.1/32",
        "::ffff:127.0.0.1/128",
        "::1/128",
        "172.16.0.0/12",
        "::ffff:172.16.0.0/108",
    ]
    for word in ("*", "proxy", "127.0.0.1:80", "1.2.3.4/99"):
        with pytest.raises(UserError, match="--trusted-proxies"):
            trusted([word])


@pytest.mark.parametrize(
    ("asked", "own"),
    [("/label", "/"), ("/label/", "/"), ("/label/people", "/people"), ("/people", "/people"), ("/labels", "/labels")],
)
def test_a_path_is_taken_off_once_if_it_is_there(asked: str, own: str) -> None:
    assert Site("https://x", "/label").own(asked) == own


@pytest.mark.attack("redirects to a host that the request named")
@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("/people", "/label/people"),
        ("/values#models", "/label/values#models"),
        ("http://evil.example/people?a=b", "/label/people?a=b"),
        ("//evil.example/people", "/label/people"),
        ("?start=3", "?start=3"),
    ],
)
def test_redirects_stay_in_the_studio(to: str, shown: str) -> None:
    assert Site("https://x", "/label").location(to) == shown
