"""Published files that baselines need: fetched once, checked against a pinned sha256, kept in the user's cache."""

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import ConfigError, InfraError, unknown_name
from harness.files import atomic_path, cache_dir
from harness.progress import Progress, say

_RELEASE = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"
_CHUNK = 1 << 20
TIMEOUT = 10.0
"""Seconds without an answer after which a source counts as out of reach."""


@dataclass(frozen=True)
class Asset:
    """A file of others at a fixed address."""

    url: str
    sha256: str


ASSETS = {
    "lid.176.bin": Asset(
        "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin",
        "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
    ),
    **{
        f"in1k_clip_vit_l14_{part}": Asset(f"{_RELEASE}/in1k_clip_vit_l14_{part}.pt", sha256)
        for part, sha256 in enumerate(
            (
                "304990fd492f40ba90072b80af78d6e8edcab9d042476ef513e03441cf53743b",
                "72f008e6aa3bfb54174fa322963215337f843fc90fd642a9dccc815dd9e7ee76",
                "83c3cc6503b8a50a22cac7023ca6cd61b130ab9725db2a7519f1bec5cabf5493",
                "83faa289f847799ddcd438e5b74df1cb5973c345674896d10ba31ea48bc63804",
                "067a45f4a140a93371876510a2fd9198a89ac1d194ae4063a51b45a6da69cadf",
            )
        )
    },
    **{
        f"{scale}_centroids": Asset(f"{_RELEASE}/{scale}_centroids_l14.pt", sha256)
        for scale, sha256 in {
            "small": "23c66a05e49ad77283c1e2b33355c7eb088ac332a944c97ff85d5dfd48a5b251",
            "medium": "028b1721b1d0f139c565b6b0ac99f8a1756f4bae89c36b0ec6d1c6ea9b6f112d",
            "large": "04eeab1069d3540c246cf7ce69323147351a474017fc472e4c50a018ca32240b",
            "xlarge": "3f62e5f8ae3a715ce84e422846fcfce1536d184455ea234790c4a6465c4c6726",
        }.items()
    },
}


def place(name: str) -> Path:
    """Where the asset `name` lies in the cache once it is there; a file with this name has the pinned content."""
    if name not in ASSETS:
        raise ConfigError(unknown_name("asset", name, ASSETS))
    return cache_dir() / "assets" / f"{ASSETS[name].sha256[:16]}-{os.path.basename(ASSETS[name].url)}"


@cache
def fetch(name: str) -> Path | None:
    """The asset `name` in the cache, fetched if need be; None where its source is out of reach.

    With HF_HUB_OFFLINE=1 nothing is fetched. Raises InfraError if what was fetched has another sha256.
    """
    path = place(name)
    if path.exists():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return None
    try:
        _download(name, path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        say(f"{name}: {ASSETS[name].url} is out of reach ({error}); going on without it")
        return None
    return path


def _download(name: str, path: Path) -> None:
    asset = ASSETS[name]
    state = hashlib.sha256()
    with urllib.request.urlopen(asset.url, timeout=TIMEOUT) as source, atomic_path(path) as temporary:
        total = int(source.headers.get("Content-Length") or 0)
        with open(temporary, "wb") as file, Progress(name, total=total, unit="bytes") as bar:
            while chunk := source.read(_CHUNK):
                state.update(chunk)
                file.write(chunk)
                bar.advance(len(chunk))
        if state.hexdigest() != asset.sha256:
            raise InfraError(
                f"{asset.url}: sha256 {state.hexdigest()[:16]}…, expected {asset.sha256[:16]}…; "
                "the download was cut or the file has changed, so run the same command again"
            )
