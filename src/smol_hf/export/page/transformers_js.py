"""Files of transformers.js and of its ONNX runtime: downloaded from the npm registry once, or copied from a folder."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import get_session

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.data.sources.files import HTTPError
from smol_hf.support.cache_folders import making
from smol_hf.support.formatting import one_line

REGISTRY = "https://registry.npmjs.org"  # unless the environment variable of npm names another one
TIMEOUT = 60.0  # seconds without an answer
WASM = "ort-wasm-simd-threaded"
INSTALL = "install it with npm elsewhere and give --transformers-js node_modules"


@dataclass(frozen=True)
class Package:
    """A package of npm.

    Args:
        integrity: SHA-512 of its archive in base64, as npm publishes it.
        files: that the page needs, by path in the package.
    """

    name: str
    version: str
    integrity: str
    licence: str
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        """Return the URL of its archive."""
        registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
        return f"{registry.rstrip('/')}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


PACKAGES = (
    Package(
        "@huggingface/transformers",
        "4.3.1",
        "5+voSeUCFK6PCKlY15dPhNOKq3/zOTxDN7oC+Wy9dFb1QZ0TSQomZRRy7URRK8YRuUoE9fGMQTTPC5d/pWBJhA==",
        "Apache-2.0",
        ("dist/transformers.min.js",),
    ),
    Package(  # the version that the package above names
        "onnxruntime-web",
        "1.31.0-dev.20260914-8d85527a0",
        "Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
        "MIT",
        tuple(f"dist/{WASM}{kind}{end}" for kind in (".asyncify", "") for end in (".mjs", ".wasm")),
    ),
)
VERSIONS = " and ".join(f"{each.name} {each.version}" for each in PACKAGES)


def engine_files(folder: str | Path | None) -> list[Path]:
    """Return the files of transformers.js.

    Args:
        folder: `node_modules`, or a folder with the files themselves. None: download them once into the cache.

    Raises:
        ConversionError: for a missing file, and for a download that fails or has another hash.
    """
    if folder is not None:
        return [find(Path(folder).expanduser(), package, name) for package in PACKAGES for name in package.files]
    return [path for package in PACKAGES for path in cached(package)]


def find(folder: Path, package: Package, name: str) -> Path:
    for path in (folder / package.name / name, folder / name, folder / Path(name).name):
        if path.is_file():
            return path
    raise ConversionError(
        f"--transformers-js {folder}: {Path(name).name} of {package.name} is missing there: give the folder "
        f"node_modules of an installation of {PACKAGES[0].name} {PACKAGES[0].version}"
    )


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smol_hf" / "npm"


def cached(package: Package) -> list[Path]:
    """Download a package, unless it is in the cache, and return its files."""
    key = f"{package.name.replace('/', '+')}-{package.version}"
    folder = cache_folder()
    with making(folder, key) as unfinished:
        if unfinished is not None:
            extract(package, download(package), unfinished)
    return [folder / key / Path(name).name for name in package.files]


def download(package: Package) -> bytes:
    """Return the archive of a package. Raise ConversionError for one that cannot be downloaded or has another hash."""
    try:
        answer = get_session().get(package.url, follow_redirects=True, timeout=TIMEOUT)
        answer.raise_for_status()
    except (HTTPError, OSError) as error:
        raise ConversionError(f"{package.url} cannot be downloaded ({one_line(error)}): {INSTALL}") from error
    found = base64.b64encode(hashlib.sha512(answer.content).digest()).decode()
    if found != package.integrity:
        raise ConversionError(
            f"{package.url} has the hash sha512-{found[:12]}… instead of sha512-{package.integrity[:12]}…: {INSTALL}"
        )
    return answer.content


def extract(package: Package, archive: bytes, folder: Path) -> None:
    """Write the files of a package, which its archive has in the folder `package`."""
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for name in package.files:
            member = members.extractfile(f"package/{name}")
            assert member is not None, name  # a file of the archive whose hash is known
            with member, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(member, target)
