"""Task folders: what is read, and each way in which they can be wrong."""

import errno
import hashlib
import io
import json
import os
import struct
import tarfile
import time
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from task_folders import FACES, add, npy, picture, small_suite, write_part, write_task

from harness import model as models
from harness.errors import ArtifactError
from harness.eval import data, digests, kinds
from harness.eval.pictures import BrokenPictureError, square
from harness.eval.source import TaskSource, load_job

WILDS = "wilds/fmow"


@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from(["RGB", "L", "P", "RGBA", "CMYK", "1", "LA"]),
    st.sampled_from([8, 32, 33]), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=150)
def test_pictures_are_open_clip_s_pixel_for_pixel(width, height, mode, size, rgb_first, seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "tiff" if mode in ("CMYK", "LA") else "png")
    import open_clip

    transform = open_clip.image_transform(size, is_train=False, mean=models.MEAN, std=models.STD)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    if min(width, height) * 90 < max(width, height):
        return
    expected = transform(opened.convert("RGB") if rgb_first else opened)
    ours = torch.from_numpy(square(buffer.getvalue(), size, rgb_first=rgb_first).copy()).permute(2, 0, 1)
    mean, std = torch.tensor(models.MEAN).view(3, 1, 1), torch.tensor(models.STD).view(3, 1, 1)
    assert torch.equal(ours.float().div_(255).sub_(mean).div_(std), expected)


@pytest.mark.parametrize("error", [KeyError("x"), struct.error("short"), EOFError(), zlib.error("bad")])
def test_whatever_pillow_raises_is_a_broken_picture(monkeypatch, error):
    def raises(self):
        raise error

    content = picture(np.random.default_rng(0))
    monkeypatch.setattr(Image.Image, "load", raises)
    with pytest.raises(BrokenPictureError, match=r".+"):
        square(content, 4, rgb_first=True)


def test_bytes_that_are_no_picture():
    for content in (b"", b"not a picture", picture(np.random.default_rng(0), extension="jpg")[:200]):
        with pytest.raises(BrokenPictureError):
            square(content, 32, rgb_first=True)


@pytest.fixture
def task():
    return small_suite([WILDS]).tasks[WILDS]


@pytest.fixture
def folder(tmp_path, task):
    return write_task(tmp_path, task)


def read(tmp_path, task):
    """What the task's data give a model whose embeddings are all the same, or the ArtifactError."""
    source = TaskSource.open(task, tmp_path)
    source.take([data.index_shard(path, source.parts[part]) for part, path in source.shards])
    scorer = kinds.scorer(task, [np.eye(len(one.classnames), 4, dtype=np.float32) for one in source.lists])
    for job in source.jobs(16, 5):
        chunk = load_job(job)
        if isinstance(chunk, ArtifactError):
            raise chunk
        scorer.add(job.part, chunk, np.ones((len(chunk), 4), dtype=np.float32))
    return scorer.finish(lambda texts: np.ones((len(texts), 4), dtype=np.float32))


def test_every_sample_is_read_once_in_order(tmp_path, task, folder):
    keys, columns = read(tmp_path, task)
    assert keys == [f"{i:05d}" for i in (*range(0, 24, 2), *range(1, 24, 2))]
    assert columns["target"].tolist() == [int(key) % 7 for key in keys]
    assert columns["metadata"].shape == (24, 3)
    assert columns["top"].shape == (24, 5)


def rewrite(path, change):
    """The tar again, each member through `change(name, content)` -> pairs."""
    members = []
    with tarfile.open(path) as tar:
        for member in tar:
            members += change(member.name, tar.extractfile(member).read())
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)


def only(key, extension, content):
    """A change of one member; content None drops it."""

    def change(name, old):
        if name != f"{key}.{extension}":
            return [(name, old)]
        return [] if content is None else [(name, content)]

    return change


def tar0(change):
    """A fault in the first tar."""
    return lambda folder: rewrite(folder / "test/0.tar", change)


def of4(extension, content):
    """A fault in one member of sample 00004."""
    return tar0(only("00004", extension, content))


def without(prefix):
    return lambda name, content: [] if name.startswith(prefix) else [(name, content)]


def twice(name, content):
    return [(name, content)] + ([(name.replace("00022", "99"), content)] if name.startswith("00022") else [])


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}]), allow_pickle=True)
    return buffer.getvalue()


def header(old, new):
    """The npy member of three numbers with another header."""
    whole = npy(np.array([1, 2, 3]))
    assert old.ljust(len(new)) in whole
    return whole.replace(old.ljust(len(new)), new)


def latin(name, content):
    return [(name.replace("00004", "\udce9"), content)]


def templates(text):
    return lambda folder: (folder / TEMPLATES).write_text(text)


TEMPLATES = "zeroshot_classification_templates.txt"
FAULTS = {
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "download_tasks"),
    "no nshards": (lambda f: (f / "test/nshards.txt").unlink(), "nshards.txt"),
    "nshards is no number": (lambda f: (f / "test/nshards.txt").write_text("two"), "nshards.txt"),
    "nshards is too long to count to": (lambda f: (f / "test/nshards.txt").write_text("9" * 15), "nshards.txt"),
    "a tar is missing": (lambda f: (f / "test/1.tar").unlink(), "1.tar"),
    "nshards too small": (lambda f: (f / "test/nshards.txt").write_text("1"), "1 more tars"),
    "cut inside a member": (lambda f: cut(f / "test/0.tar", 3000), "0.tar.*cut short"),
    "cut between members": (lambda f: cut(f / "test/0.tar", None), "0.tar.*end mark"),
    "garbage in the middle": (lambda f: garble(f / "test/0.tar"), "0.tar.*garbage"),
    "a sample too few": (tar0(without("00002")), "23 samples.*24"),
    "a sample too many": (tar0(twice), "25 samples.*24|stands twice"),
    "a key in two tars": (tar0(lambda n, c: [(n.replace("00002", "00001"), c)]), "00001"),
    "class list too short": (lambda f: (f / "classnames.txt").write_text("a\nb\n"), "2 lines.*7 classes"),
    "no class list": (lambda f: (f / "classnames.txt").unlink(), "classnames.txt"),
    "no templates": (lambda f: (f / TEMPLATES).write_text(""), "empty"),
    "template without a name": (templates("{c}\na photo of a {}.\n"), TEMPLATES + ".*'a photo of a {}.'"),
    "template with another name": (templates("a {d}"), TEMPLATES),
    "template with an attribute": (templates("a {c.upper}"), TEMPLATES),
    "template with a brace": (templates("a {c"), TEMPLATES),
    "a name that is not UTF-8": (tar0(latin), "0.tar.*udce9.*UTF-8"),
    "label out of range": (of4("cls", b"7"), "00004.*label is 7"),
    "label below zero": (of4("cls", b"-1"), "00004.*label is -1"),
    "label is no number": (of4("cls", b"cat"), "00004"),
    "label of twenty digits": (of4("cls", b"9" * 20), "00004"),
    "no label": (of4("cls", None), "00004.*no cls"),
    "no metadata": (of4("npy", None), "00004.*no npy"),
    "metadata out of range": (of4("npy", npy(np.array([6, 14, 4]))), "00004.*region is 6"),
    "metadata too short": (of4("npy", npy(np.array([1, 2]))), "length"),
    "metadata of floats": (of4("npy", npy(np.ones(3))), "00004.*integers"),
    "metadata is a pickle": (of4("npy", pickled()), "00004"),
    "metadata is empty": (of4("npy", b""), "00004"),
    "metadata is a zip": (of4("npy", b"PK\x03\x04" + bytes(60)), "00004"),
    "metadata that claim terabytes": (of4("npy", header(b"(3,), }", b"(1000000000000,), }")), "00004.*cut short"),
    "metadata with a torn header": (of4("npy", header(b"False", b"Fal(e")), "00004.*header"),
    "metadata is cut short": (of4("npy", npy(np.array([1, 2, 3]))[:-4]), "00004"),
    "no picture": (tar0(without("00004.png")), "00004.*image"),
    "broken picture": (of4("png", b"x" * 90), "00004"),
}


def cut(path, size):
    content = path.read_bytes()
    path.write_bytes(content[: len(content.rstrip(b"\0")) // 512 * 512 + 512 if size is None else size])


def garble(path):
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[4].offset
    content[offset : offset + 512] = b"\xff" * 512
    path.write_bytes(bytes(content))


def test_other_files_in_the_folder_are_no_fault(tmp_path, task, folder):
    for name in (".DS_Store", "README.md", "test/._0.tar", "test/notes.txt"):
        (folder / name).write_text("of somebody else")
    assert len(read(tmp_path, task)[0]) == 24


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_data_is_one_sentence_with_the_file(name, tmp_path, task, folder):
    change, said = FAULTS[name]
    change(folder)
    with pytest.raises(ArtifactError, match=said) as caught:
        read(tmp_path, task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "document", [b"[]", b"{}", b'{"captions": []}', b'{"captions": [3]}', b"{", b'{"captions": "a"}', b"[" * 100_000]
)
def test_captions_must_be_captions(tmp_path, document):
    task = small_suite(["retrieval/flickr_1k_test_image_text_retrieval"], samples=4).tasks.popitem()[1]
    folder = write_task(tmp_path, task)
    rewrite(folder / "test/0.tar", only("00002", "json", document))
    with pytest.raises(ArtifactError, match="00002"):
        read_pairs(tmp_path, task)


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.EIO, "bad"), "input/output"), (PermissionError(errno.EACCES, "no"), "denied"), (MemoryError(), "")],
)
def test_a_tar_that_cannot_be_read_ends_its_task_alone(tmp_path, task, folder, monkeypatch, error, said):
    def raises(*_):
        raise error

    source = TaskSource.open(task, tmp_path)
    part, (_, path) = source.parts[0], source.shards[0]
    source.take([data.index_shard(path, part) for _, path in source.shards])
    with monkeypatch.context() as patch:
        patch.setattr(digests, "sha256", raises)
        with pytest.raises(ArtifactError, match=rf"0\.tar.*{said}"):
            data.index_shard(path, part)
    monkeypatch.setattr(os, "pread", raises)
    with pytest.raises(ArtifactError, match=rf"0\.tar.*{said}"):
        data.index_shard(path, part)
    found = load_job(next(source.jobs(16, 5)))
    assert isinstance(found, ArtifactError) and "0.tar" in str(found) and said in str(found)


def read_pairs(tmp_path, task):
    source = TaskSource.open(task, tmp_path)
    source.take([data.index_shard(path, source.parts[part]) for part, path in source.shards])
    scorer = kinds.scorer(task, [])
    rng = np.random.default_rng(0)
    for job in source.jobs(8, 50):
        chunk = load_job(job)
        if isinstance(chunk, ArtifactError):
            raise chunk
        scorer.add(job.part, chunk, None if chunk.images is None else rng.normal(size=(len(chunk), 6)))
    return scorer.finish(lambda texts: rng.normal(size=(len(texts), 6)))


def test_winogavil_instances_share_pictures(tmp_path):
    task = small_suite(["misc/winogavil"]).tasks.popitem()[1]
    folder = write_task(tmp_path, task)
    keys, columns = read_pairs(tmp_path, task)
    assert len(keys) == 24
    assert ((columns["chosen"] >= 0).sum(1) == (columns["associated"] >= 0).sum(1)).all()
    rewrite(folder / "images/0.tar", lambda n, c: [] if n == "00000.jpg" else [(n, c)])
    with pytest.raises(ArtifactError, match="candidate '00000'"):
        read_pairs(tmp_path, task)
    odd = json.dumps({"cue": "cat", "candidates": [["a"], "b"], "associations": [["a"]]}).encode()
    rewrite(folder / "test/0.tar", lambda n, c: [(n, odd)])
    with pytest.raises(ArtifactError, match="is no instance"):
        read_pairs(tmp_path, task)
    for shard in range(2):
        rewrite(folder / f"images/{shard}.tar", lambda n, c: [])
    with pytest.raises(ArtifactError, match="images: its tars hold no sample"):
        read_pairs(tmp_path, task)


def test_the_class_lists_of_faces_are_checked(tmp_path):
    task = small_suite(["fairness/fairface"]).tasks.popitem()[1]
    folder = write_task(tmp_path, task)
    assert len(read(tmp_path, task)[0]) == task.samples
    place = folder / "classnames.txt"
    whole = place.read_text().splitlines()
    for objective, fewest in kinds.faces.FEWEST.items():
        lost = [f"{objective}:{objective} {i}" for i in range(fewest - 1, FACES[objective])]
        place.write_text("\n".join(line for line in whole if line not in lost))
        with pytest.raises(ArtifactError, match=rf"wds_fairface_test: .*{fewest - 1} lines of '{objective}:'"):
            read(tmp_path, task)


def test_words_keep_blank_lines_and_templates_take_c(tmp_path, task):
    folder = write_task(tmp_path, task)
    (folder / "classnames.txt").write_text("cat\n\n  dog \n3\n4\n5\n6\n")
    words = data.read_words(folder, task)
    assert words.classnames[:3] == ("cat", "", "dog")
    assert words.prompts()[2][0] == "a photo of a dog."
    (folder / TEMPLATES).write_text("{{{c}}} or no name\nplain\n")
    assert data.read_words(folder, task).prompts()[2] == ["{dog} or no name", "plain"]


def test_objectives_split_at_the_first_colon():
    words = data.Words(classnames=("race:a:b", "age:3"), templates=("race:{c}", "age:of {c}"))
    assert words.of_objective("race").prompts() == [["a:b"]]
    with pytest.raises(ArtifactError, match="toxic"):
        words.of_objective("toxic")


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    """A memory of digests of its own, asked so late that all files are settled."""
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "time_ns", lambda: time.time_ns() + 60 * 10**9)
    return monkeypatch


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, remembering):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = digests.sha256(path)
    with remembering.context() as patch:
        patch.setattr(digests, "sha256_file", lambda path: pytest.fail("hashed again"))
        assert digests.sha256(path) == first
    path.write_bytes(b"two!")
    assert digests.sha256(path) == hashlib.sha256(b"two!").hexdigest()


def test_another_file_of_equal_size_and_time_in_its_place_is_hashed(tmp_path, remembering):
    """As `cp -p` of another checkpoint onto the file leaves it: the same inode, size and time of content."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = path.stat()
    digests.sha256(path)
    path.write_bytes(b"two")
    while (after := path.stat()).st_mtime_ns != before.st_mtime_ns or after.st_ctime_ns == before.st_ctime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # again until the clock has gone on
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert digests.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_file_hashed_just_after_it_changed_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    state = digests._state(path)
    monkeypatch.setattr(digests, "_state", lambda path: state)  # the clock is too coarse to tell the second change
    monkeypatch.setattr(digests, "time_ns", lambda: max(state[-2:]) + digests.SETTLED_NS)  # the last such moment
    digests.sha256(path)
    path.write_bytes(b"two")
    assert digests.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_members_of_one_key_must_be_adjacent(tmp_path):
    write_part(tmp_path / "test", [{"jpg": b"a", "cls": b"1"}, {"jpg": b"b", "cls": b"1"}], 1)
    rewrite(tmp_path / "test/0.tar", lambda n, c: [(n, c)])
    with tarfile.open(tmp_path / "test/0.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "a.cls"):
            add(tar, name, b"1")
    with pytest.raises(ArtifactError, match="'a' stands twice"):
        data.index_shard(tmp_path / "test/0.tar", data.Part(folder="test", needs=("image", "cls")))
