"""Lists of concepts."""

from pathlib import Path

import pytest

from baselines import _concepts, _wordnet
from harness import ArtifactError


def test_lists_of_concepts(tmp_path: Path) -> None:
    shown, every = _wordnet.nouns(shown=True), _wordnet.nouns(shown=False)
    assert {"dog", "teapot", "great_white_shark"} < set(shown) < set(every)
    # First synsets that no picture of ImageNet-21k shows, and a word that is no noun.
    assert {"democracy", "idea"} < set(every) - set(shown) and "beautiful" not in every
    (tmp_path / "list.txt").write_text("Dog\n\n hot dog \n")
    assert _concepts.phrases(str(tmp_path / "list.txt")).spelled == [b"dog", b"hot dog"]
    (tmp_path / "empty.txt").write_text("\n--\n")
    with pytest.raises(ArtifactError, match=r"empty\.txt.*no concept"):
        _concepts.phrases(str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"bytes\.txt.*UTF-8"):
        _concepts.phrases(str(tmp_path / "bytes.txt"))
    with pytest.raises(ArtifactError, match=r"none\.txt.*imagenet21k, wordnet"):
        _concepts.phrases(str(tmp_path / "none.txt"))


def test_a_list_that_was_changed_is_read_again(tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("apple\n")
    first = _concepts.phrases(str(names))
    assert _concepts.phrases(str(names)) is first
    names.write_text("cherry\nplum\n")
    assert _concepts.phrases(str(names)).spelled == [b"cherry", b"plum"]
