import hashlib
import io
import json
import string
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_folders import picture, sample, uid_of, write_tar

from harness import tars, uid
from harness.errors import ArtifactError
from harness.ranges import Copier, Reader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def keys(path: Path, samples: tars.Samples) -> list[str]:
    with Reader(path) as reader:
        return [tars.key_of(reader, entry) for entry in samples]


@pytest.mark.parametrize("format", FORMATS)
def test_index_agrees_with_tarfile(tmp_path: Path, format: str) -> None:
    written = [sample(n, shard=2) for n in range(5)]
    path = write_tar(tmp_path / "a.tar", written, format=FORMATS[format])
    samples, faults = tars.index_tar(path)
    assert faults == []
    assert uid.to_hex(samples["uid"]) == [uid_of((2, n)) for n in range(5)]
    with tarfile.open(path) as tar, Reader(path) as reader:
        by_name = {member.name: member for member in tar}
        for entry, members in zip(samples, written, strict=True):
            for field, name in zip(("image", "json", "text"), members, strict=True):
                assert (entry[field], entry[f"{field}_size"]) == (by_name[name].offset_data, by_name[name].size)
            image, text = tars.read_sample(reader, entry)
            assert [image, text.encode()] == [content for name, content in members.items() if not name.endswith("json")]
            assert tars.read_json(reader, entry) == next(c for n, c in members.items() if n.endswith("json"))
    assert samples["start"][0] == 0
    assert (samples["start"][1:] == samples["end"][:-1]).all()


@pytest.mark.parametrize("format", ["pax", "gnu"])
def test_long_and_foreign_names(tmp_path: Path, format: str) -> None:
    prefix = "ordner/" + "ü" * 60 + "/" + "k" * 120 + "/"
    members = [{prefix + name: content for name, content in sample(n).items()} for n in range(3)]
    path = write_tar(tmp_path / "a.tar", members, format=FORMATS[format])
    samples, faults = tars.index_tar(path)
    assert faults == []
    assert keys(path, samples) == [f"{prefix}00000000{n}" for n in range(3)]
    # The long name's own header belongs to the sample, so its bytes can be copied as they are.
    assert samples["start"][0] == 0
    assert (samples["start"][1:] == samples["end"][:-1]).all()


def test_ustar_prefix(tmp_path: Path) -> None:
    folder = "d" * 120 + "/"
    path = write_tar(tmp_path / "a.tar", [{folder + n: c for n, c in sample(0).items()}])
    assert keys(path, tars.index_tar(path)[0]) == [folder + "000000000"]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("extension", ["jpg", "txt", "json"])
def test_a_member_of_terabytes_is_not_read(tmp_path: Path, extension: str) -> None:
    """A sparse file: it states a terabyte and takes a few kilobytes."""
    path = tmp_path / "a.tar"
    members = {name.rpartition(".")[2]: (name, content) for name, content in sample(0).items()}
    size = 1 << 40
    with open(path, "wb") as file:
        for kind, (name, content) in members.items():
            if kind == extension:
                file.write(header(name, size))
                file.seek(size, 1)
            else:
                file.write(header(name, len(content)) + content + bytes(-len(content) % 512))
        file.write(tars.END)
    samples, faults = tars.index_tar(path)
    assert len(samples) == 0
    assert [(fault.name, fault.reason) for fault in faults] == [("000000000", tars.TOO_LARGE)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_giant_header_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(header("name", 1 << 40, kind))
        file.seek(1 << 40, 1)
        file.write(tars.END)
    assert tars.index_tar(path)[1] == [tars.Fault("", "", "tar header is garbage")]


@pytest.mark.parametrize("size", ["²", "9" * 5000])
def test_sizes_that_are_none(tmp_path: Path, size: str) -> None:
    record = f" size={size}\n".encode()
    content = next(f"{n}".encode() + record for n in range(10_000) if len(f"{n}") + len(record) == n)
    blocks = [header("pax", len(content), tarfile.XHDTYPE), content, bytes(-len(content) % 512), header("k.txt", 0)]
    (tmp_path / "a.tar").write_bytes(b"".join([*blocks, tars.END]))
    assert tars.index_tar(tmp_path / "a.tar")[1] == [tars.Fault("k", "", "no image")]


def test_many_pax_records_take_time_in_their_number_alone() -> None:
    content = b"6 a=b\n" * 170_000
    assert tars._pax(content + bytes(512)) == {"a": "b"}


def test_size_in_pax_header_and_base_256(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    name, content = "k.jpg", b"x" * 700
    pax = tarfile.TarInfo(name)
    pax.size, pax.pax_headers = len(content), {"size": str(len(content))}
    gnu = tarfile.TarInfo("k.txt").tobuf(tarfile.GNU_FORMAT)
    large = tarfile.TarInfo.create_pax_global_header({"comment": "ours"})
    header = bytearray(gnu)
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    blocks = [
        large,
        pax.tobuf(tarfile.PAX_FORMAT),
        content + bytes(324),
        bytes(header),
        b"hello" + bytes(507),
        tars.END,
    ]
    path.write_bytes(b"".join(blocks))
    with Reader(path) as reader:
        found = [(m.name, m.size) for m in tars.members(reader)]
    assert found == [(name, 700), ("k.txt", 5)]


def test_other_members_folders_and_links_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("000")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in {**sample(0), "000000000.npy": b"numbers", "README": b"hello"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("000000001.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "000000000.jpg"
        tar.addfile(link)
    samples, faults = tars.index_tar(path)
    assert len(samples) == 1
    assert faults == [("README", "", "no image")]


@pytest.mark.parametrize("extension", tars.IMAGE_EXTENSIONS)
def test_extensions(tmp_path: Path, extension: str) -> None:
    image = picture(1, format={"jpg": "JPEG"}.get(extension, extension.upper()))
    path = write_tar(tmp_path / "a.tar", [sample(0, image=image, extension=extension.upper())])
    samples, faults = tars.index_tar(path)
    assert (len(samples), faults) == (1, [])


def without(number: int, extension: str) -> dict[str, bytes]:
    return {name: content for name, content in sample(number).items() if not name.endswith(extension)}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (without(1, "jpg"), "no image"),
        (without(1, "txt"), "no txt"),
        (without(1, "json"), "no json"),
        ({**sample(1), "000000001.png": b"x"}, "more than one image, txt or json"),
        ({**sample(1), "000000001.json": b"{}"}, "json without a uid"),
        ({**sample(1), "000000001.json": b'{"uid": "ABC"}'}, "json without a uid"),
        ({**sample(1), "000000001.json": b'{"uid": "' + b"0" * 32}, "json without a uid"),
        ({**sample(1), "000000001.jpg": b""}, "image of zero bytes"),
        ({**sample(1), "000000001.txt": b"\xff\xfe"}, "txt is not UTF-8"),
    ],
)
def test_incomplete_samples_are_listed(tmp_path: Path, bad: dict[str, bytes], reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", [sample(0), bad, sample(2)])
    samples, faults = tars.index_tar(path)
    assert [(fault.name, fault.reason) for fault in faults] == [("000000001", reason)]
    assert keys(path, samples) == ["000000000", "000000002"]


def test_uid_of_the_json_and_not_of_what_stands_in_it(tmp_path: Path) -> None:
    trap = f'"uid": "{uid_of("caption")}"'
    nested = sample(0, exif={"uid": uid_of("nested")}, caption=trap)
    path = write_tar(tmp_path / "a.tar", [nested])
    assert uid.to_hex(tars.index_tar(path)[0]["uid"]) == [uid_of((0, 0))]


def test_exif_of_megabytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [sample(0, exif=json.dumps({"uid": "x" * (3 << 20)})), sample(1)])
    samples, faults = tars.index_tar(path)
    assert faults == []
    assert samples["json_size"][0] > 3 << 20
    with Reader(path) as reader:
        assert tars.read_sample(reader, samples[0])[1] == "caption 0 of shard 0 é"


def cut(path: Path, size: int) -> Path:
    with open(path, "r+b") as file:
        file.truncate(size)
    return path


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [sample(n) for n in range(3)])
    full, _ = tars.index_tar(whole)
    content = whole.read_bytes()
    for size in [0, 1, 511, 512, 700, *range(513, int(full["end"][-1]) + 1, 397), int(full["end"][-1])]:
        path = tmp_path / "cut.tar"
        path.write_bytes(content[:size])
        samples, faults = tars.index_tar(path)
        assert faults, size
        assert faults[-1][:2] == ("", "")
        assert faults[-1].reason in (
            "tar is cut short",
            "tar has no end mark: it was cut short or is still being written",
        )
        # A member is whole when its content is: only padding may be missing.
        whole_text = full["text"] + full["text_size"] <= size
        assert len(samples) == whole_text.sum()
        assert (samples == full[: len(samples)]).all()


def test_garbage_in_the_middle(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [sample(n) for n in range(3)])
    full, _ = tars.index_tar(path)
    content = bytearray(path.read_bytes())
    content[int(full["start"][2]) + 3] ^= 0x20
    path.write_bytes(content)
    samples, faults = tars.index_tar(path)
    assert (samples == full[:2]).all()
    assert faults == [("", "", "tar header is garbage")]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("case", ["zeros from here on", "a hole", "a hole of one block", "two tars in one"])
def test_zeros_before_the_end(tmp_path: Path, case: str, padded: bool) -> None:
    """What a copy that lost blocks looks like; `padded` as programs write a tar, else with nothing but its end mark."""
    path = write_tar(tmp_path / "a.tar", [sample(n) for n in range(20)])
    full, _ = tars.index_tar(path)
    size = path.stat().st_size if padded else int(full["end"][-1]) + len(tars.END)
    content = bytearray(path.read_bytes()[:size])
    start = int(full["start"][4])
    stop = {"zeros from here on": size, "a hole": int(full["start"][15]), "a hole of one block": start + 512}
    content[start : stop.get(case, start)] = bytes(stop.get(case, start) - start)
    path.write_bytes(content * 2 if case == "two tars in one" else content)
    samples, faults = tars.index_tar(path)
    assert (samples == full[: len(samples)]).all()
    assert len(samples) == (20 if case == "two tars in one" else 4)
    assert faults == [("", "", "tar goes on behind its end mark")]


@pytest.mark.parametrize("samples", range(20))
def test_an_end_of_any_length_that_programs_write(tmp_path: Path, samples: int) -> None:
    path = write_tar(tmp_path / "a.tar", [{f"{n}.txt": b"x"} for n in range(samples)])
    with Reader(path) as reader:
        assert len(list(tars.members(reader))) == samples
    end = 1024 * samples
    for size in (end + 512, end + 1024):
        cut(path, size)
        with Reader(path) as reader:
            assert len(list(tars.members(reader))) == samples


def test_not_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    samples, faults = tars.index_tar(path)
    assert len(samples) == 0
    assert faults == [("", "", "tar header is garbage")]


def test_missing_and_changed_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.tar: no such file"):
        tars.index_tar(tmp_path / "none.tar")
    path = write_tar(tmp_path / "a.tar", [sample(0)])
    entry = tars.index_tar(path)[0][0]
    cut(path, 600)
    with Reader(path) as reader, pytest.raises(ArtifactError, match=r"a\.tar: ends before byte .* since it was sealed"):
        tars.read_sample(reader, entry)


def test_url(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [sample(n) for n in range(3)])
    here, _ = tars.index_tar(path)
    there, faults = tars.index_tar(f"local://{path}")
    assert faults == []
    assert (here == there).all()
    with Reader(f"local://{path}") as far, Reader(path) as near:
        assert tars.read_sample(far, there[1]) == tars.read_sample(near, here[1])
        assert far.remote


NAMES = st.text(string.ascii_lowercase + "äß_- /", min_size=1, max_size=150).filter(
    lambda name: not name.startswith("/") and "//" not in name and not name.endswith("/")
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=1, max_size=5, unique=True),
    sizes=st.lists(st.sampled_from([1, 511, 512, 513, 5000]), min_size=5, max_size=5),
    format=st.sampled_from(["pax", "gnu"]),
)
def test_any_tar_reads_as_tarfile_reads_it(tmp_path: Path, names: list[str], sizes: list[int], format: str) -> None:
    content = [{f"{name}.jpg": b"j" * size, f"{name}.txt": b"t"} for name, size in zip(names, sizes, strict=False)]
    path = write_tar(tmp_path / "a.tar", content, format=FORMATS[format])
    with tarfile.open(path) as tar, Reader(path) as reader:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
        assert [(m.name, m.content, m.size) for m in tars.members(reader)] == expected


def test_copied_ranges_are_a_tar_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [sample(n) for n in range(6)], format=tarfile.PAX_FORMAT)
    samples, _ = tars.index_tar(path)
    chosen = samples[[0, 1, 3, 5]]
    ranges = tars.merge_ranges(chosen)
    assert len(ranges) == 3
    with open(tmp_path / "b.tar", "wb", buffering=0) as file, Reader(path) as reader:
        copier = Copier(file.fileno())
        copier.copy(reader, ranges)
        copier.append(tars.END)
    copied, faults = tars.index_tar(tmp_path / "b.tar")
    assert faults == []
    assert (copied["uid"] == chosen["uid"]).all()
    assert copier.written == (tmp_path / "b.tar").stat().st_size
    assert tars.merge_ranges(samples[:0]).shape == (0, 2)


def test_uids_made_from_content(tmp_path: Path) -> None:
    """Pairs without json, and pairs whose own uids are not wanted: equal content gives equal uids."""
    bare = {name: content for name, content in sample(0).items() if not name.endswith(".json")}
    path = write_tar(tmp_path / "a.tar", [bare, sample(1), {**sample(2), "000000002.txt": b"another"}])
    samples, faults = tars.index_tar(path, uids="content")
    assert faults == []
    picture_digest = hashlib.sha256(sample(0)["000000000.jpg"]).digest()
    expected = hashlib.sha256(picture_digest + "caption 0 of shard 0 é".encode()).hexdigest()[:32]
    names = uid.to_hex(samples["uid"])
    assert names[0] == expected
    assert names[1] != uid_of((0, 1))
    assert (
        names[2] != uid.to_hex(tars.index_tar(write_tar(tmp_path / "b.tar", [sample(2)]), uids="content")[0]["uid"])[0]
    )
    assert samples["json_size"].tolist()[0] == 0
    with tars.Reader(path) as reader:
        assert tars.read_sample(reader, samples[0]) == (sample(0)["000000000.jpg"], "caption 0 of shard 0 é")


def test_uids_made_from_content_need_a_picture_and_a_caption(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [{"1.jpg": b""}, {"2.jpg": b"x", "2.txt": b"\xff"}, {"3.jpg": b"x"}])
    samples, faults = tars.index_tar(path, uids="content")
    assert [fault.reason for fault in faults] == ["no txt", "txt is not UTF-8", "no txt"]
    assert len(samples) == 0
