"""Files that are fetched once, by digest."""

import hashlib
from pathlib import Path

import pytest

from harness import assets
from harness.errors import ConfigError, InfraError


def test_assets_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (tmp_path / "file.bin").write_bytes(b"content")
    url = (tmp_path / "file.bin").as_uri()
    right = assets.Asset(url, hashlib.sha256(b"content").hexdigest())
    missing = assets.Asset((tmp_path / "none.bin").as_uri(), "3" * 64)
    monkeypatch.setattr(assets, "ASSETS", {"right": right, "wrong": assets.Asset(url, "2" * 64), "missing": missing})
    fetch = assets.fetch.__wrapped__
    assert fetch("right").read_bytes() == b"content"
    (tmp_path / "file.bin").unlink()
    assert fetch("right").read_bytes() == b"content"
    (tmp_path / "file.bin").write_bytes(b"content")
    with pytest.raises(InfraError, match="sha256"):
        fetch("wrong")
    assert fetch("missing") is None
    assert len(list((tmp_path / "cache" / "assets").iterdir())) == 1
    with pytest.raises(ConfigError, match="did you mean 'right'"):
        assets.place("rigth")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("wrong") is None
