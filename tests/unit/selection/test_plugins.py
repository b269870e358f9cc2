import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness import methods
from harness.config import MethodConfig
from harness.errors import ConfigError, PluginError
from harness.selection import plugins, source

GOOD = """
from typing import Literal
import numpy as np

def select(pool, /, *, ctx, keep: float = 0.3, arch: Literal["b32", "l14"] = "l14", need: int):
    '''Keep some.

    More words.
    '''
    return pool.uids()

def free(pool, ctx, **anything):
    return pool.uids()
"""


@pytest.fixture
def module(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module with `select` and `free`."""
    monkeypatch.syspath_prepend(str(run_in))
    (run_in / "my_filter_of_test.py").write_text(GOOD)
    yield "my_filter_of_test"  # type: ignore[misc]
    sys.modules.pop("my_filter_of_test", None)


def custom(target: str) -> plugins.Method:
    return plugins.resolve(MethodConfig(name="custom", target=target))


def test_parameters_are_bound_with_their_defaults(module: str) -> None:
    method = custom(f"{module}:select")
    assert plugins.bind(method, {"need": 3}) == {"keep": 0.3, "arch": "l14", "need": 3}
    assert plugins.bind(method, {"need": "3", "keep": 1}) == {"keep": 1.0, "arch": "l14", "need": 3}
    assert plugins.bind(custom(f"{module}:free"), {"a": 1}) == {"a": 1}


RECORDED = """
from pathlib import Path
import numpy as np

class Shape:
    pass

def select(pool, /, *, ctx, langs: tuple[str, ...] = ("en", "de"), near=(1, 2), texts: Path = Path("a.txt"),
           words: set[str] = {"b", "c", "a"}, share=np.float32(0.5), weights={1: 2}):
    return pool.uids()

def strange(pool, /, *, ctx, shape=Shape(), most=float("inf")):
    return pool.uids()
"""


def test_parameters_are_recorded_as_json_and_bound_from_it(module: str, run_in: Path) -> None:
    (run_in / "my_filter_of_test.py").write_text(RECORDED)
    config, method = plugins.bound(MethodConfig(name="custom", target=f"{module}:select"))
    assert config.params == {
        "langs": ["en", "de"], "near": [1, 2], "texts": "a.txt", "words": ["a", "b", "c"], "share": 0.5,
        "weights": {"1": 2},
    }  # fmt: skip
    assert plugins.bound(config)[0] == config
    arguments = plugins.bind(method, config.params)
    assert arguments == {
        "langs": ("en", "de"), "near": (1, 2), "texts": Path("a.txt"), "words": {"a", "b", "c"}, "share": 0.5,
        "weights": {1: 2},
    }  # fmt: skip
    assert type(arguments["share"]).__name__ == "float32"
    assert plugins.bind(method, {"near": [3]})["near"] == [3]


@pytest.mark.parametrize(("params", "said"), [({}, "parameter shape=.*cannot be recorded"),
                                              ({"shape": 1}, "parameter most=inf: cannot be recorded")])  # fmt: skip
def test_a_parameter_that_no_record_holds_is_named(
    module: str, run_in: Path, params: dict[str, object], said: str
) -> None:
    (run_in / "my_filter_of_test.py").write_text(RECORDED)
    with pytest.raises(ConfigError, match=said):
        plugins.bound(MethodConfig(name="custom", target=f"{module}:strange", params=params))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"kep": 0.2, "need": 1}, r"has no parameter 'kep' \(did you mean 'keep'\?\)"),
        ({}, "needs parameter 'need': give method.need=VALUE"),
        ({"need": 1, "keep": "much"}, "parameter keep='much'"),
        ({"need": 1, "arch": "h14"}, "parameter arch='h14': Input should be 'b32' or 'l14'"),
    ],
)
def test_parameters_that_do_not_fit_are_named(module: str, params: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plugins.bind(custom(f"{module}:select"), params)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "nowhere_at_all:select",
            r"nowhere_at_all does not import: ModuleNotFoundError: .*; run the command in the module's folder",
        ),
        ("my_filter_of_test:selekt", r"has no function 'selekt' \(did you mean 'select'\?\)"),
        ("my_filter_of_test:np", r"has no function 'np'$"),
    ],
)
def test_what_is_no_method_is_named(module: str, target: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        custom(target)


@pytest.mark.parametrize("target", ["my_filter", "my_filter:", ":select", ""])
def test_targets_have_a_form(target: str) -> None:
    with pytest.raises(ConfigError, match=r"package\.module:function"):
        custom(target)


@pytest.mark.parametrize(("name", "target"), [("clip_score", "my_filter:select"), ("custom", None)])
def test_a_custom_method_has_a_target_and_no_other_has(name: str, target: str | None) -> None:
    with pytest.raises(ConfigError, match=r"setting method\.target: (only method=custom has a|method=custom needs )"):
        plugins.resolve(MethodConfig(name=name, target=target))


def test_a_file_is_no_module() -> None:
    with pytest.raises(ConfigError, match=r"'my_filter\.py' is the name of a file; write my_filter:select"):
        custom("my_filter.py:select")


@pytest.mark.parametrize("name", ["./my_filter", "../m/my_filter", ".my_filter", "m/my_filter", "m..my_filter", "m."])
def test_a_path_is_no_module(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.target: '{re.escape(name)}' is not the name of a module"):
        custom(f"{name}:select")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def select(): ...", "takes no pool"),
        ("def select(*, pool, ctx): ...", "takes no pool"),
        ("def select(pool): ...", "takes no argument `ctx`"),
        ("def select(pool, other, /, *, ctx): ...", "'other' cannot be given by name"),
        ("def select(pool, *rest, ctx): ...", "'rest' cannot be given by name"),
        ("def select(pool, /, *, ctx, seed: int): ...", "call argument 'seed' something else or draw from ctx.rng"),
        ("def select(pool, /, *, ctx, name='x'): ...", "method.name is a setting of the selection itself"),
        ("def select(pool, /, *, ctx, target=None): ...", "would not reach the function; call argument 'target'"),
        ("select = 3", "has no function 'select'"),
        ("import nothing_like_it", "does not import: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("1 / 0", "does not import: ZeroDivisionError"),
        ("def select(pool:", "does not import: SyntaxError"),
        ("raise SystemExit(3)", "does not import: SystemExit"),
    ],
)
def test_modules_that_cannot_be_used(run_in: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    name = f"bad_{abs(hash(code))}"
    (run_in / f"{name}.py").write_text(code)
    with pytest.raises(PluginError, match=said):
        custom(f"{name}:select")
    sys.modules.pop(name, None)


def test_a_broken_import_keeps_its_traceback(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    (run_in / "broken_import.py").write_text("def deep():\n    1 / 0\n\ndeep()\n")
    with pytest.raises(PluginError) as caught:
        custom("broken_import:select")
    assert "in deep" in caught.value.__notes__[0]


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'clip_score'"):
        plugins.resolve(MethodConfig(name="clip_scor"))


def test_the_source_is_part_of_a_methods_identity(module: str, run_in: Path) -> None:
    before = custom(f"{module}:select").source_digest
    assert custom(f"{module}:select").source_digest == before
    (run_in / f"{module}.py").write_text(GOOD + "\n# changed\n")
    assert custom(f"{module}:select").source_digest != before


def test_the_identity_covers_what_a_method_imports_from_its_package_and_nothing_else(
    run_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    package = run_in / "pack_of_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from ._shared import helper\n" + GOOD)
    (package / "_shared.py").write_text("import pack_of_methods._deep\n\ndef helper(): ...\n")
    (package / "_deep.py").write_text("")
    (package / "second.py").write_text(GOOD)
    digests = [custom("pack_of_methods.first:select").source_digest]
    for name in ("second.py", "_deep.py", "_shared.py", "__init__.py"):
        with (package / name).open("a") as file:
            file.write("# changed\n")
        digests.append(custom("pack_of_methods.first:select").source_digest)
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 4


def test_the_identity_covers_what_lies_beside_a_method_but_nothing_installed(
    run_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    (run_in / "mine_of_test.py").write_text("import numpy, json, harness\nfrom beside_of_test import helper\n" + GOOD)
    (run_in / "beside_of_test.py").write_text("from folder_of_test import deep\n\ndef helper(): ...\n")
    (run_in / "folder_of_test").mkdir()
    (run_in / "folder_of_test" / "deep.py").write_text("")
    (run_in / "stranger_of_test.py").write_text("")
    assert sorted(source.read("mine_of_test")) == ["beside_of_test", "folder_of_test.deep", "mine_of_test"]
    digests = [custom("mine_of_test:select").source_digest]
    for name in ("stranger_of_test.py", "folder_of_test/deep.py", "beside_of_test.py"):
        with (run_in / name).open("a") as file:
            file.write("# changed\n")
        digests.append(custom("mine_of_test:select").source_digest)
    assert digests[0] == digests[1] and len(set(digests[1:])) == 3


def test_what_runs_is_the_source_that_is_recorded(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    method, helper = run_in / "edited_of_test.py", run_in / "edited_helper_of_test.py"
    method.write_text("from edited_helper_of_test import more\n\ndef select(pool, /, *, ctx): return 1 + more()\n")
    helper.write_text("def more(): return 0\n")

    def answer() -> tuple[int, str]:
        found = custom("edited_of_test:select")
        return found.function(None, ctx=None), found.source_digest

    importlib.import_module("edited_of_test")  # as in a notebook, where the function was tried out
    helper.write_text("def more(): return 10\n")
    found = [answer(), answer()]
    helper.write_text("def more(): return 200\n")
    found.append(answer())
    method.write_text("def select(pool, /, *, ctx): return 3000\n")
    found.append(answer())
    assert [number for number, _ in found] == [11, 11, 201, 3000]
    assert found[0] == found[1] and len({digest for _, digest in found}) == 3
    module = sys.modules["edited_of_test"]
    assert answer() == found[-1] and sys.modules["edited_of_test"] is module


def test_a_method_of_the_command_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.target: .* write it into a module of its own"):
        custom("__main__:select")


def test_the_identity_of_a_combination_covers_its_parts(module: str, run_in: Path) -> None:
    both = plugins.resolve(MethodConfig(name="union"))

    def digest() -> str:
        parts = {"of": ["no_filter", {"name": "custom", "target": f"{module}:select", "need": 1}]}
        return plugins.source_digest(both, plugins.bind(both, parts))

    before = digest()
    assert before != both.source_digest
    (run_in / f"{module}.py").write_text(GOOD + "\n# changed\n")
    assert digest() != before


class _Entry:
    name, dist = "x", None

    def __init__(self, value: str) -> None:
        self.value = value


def test_two_packages_with_one_name_are_refused(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    for package in ("one_pack", "two_pack"):
        (run_in / package).mkdir()
        (run_in / package / "__init__.py").touch()
        (run_in / package / "same_name.py").write_text("raise RuntimeError('listing must not import this')")
        (run_in / package / "_private.py").touch()
    found = [_Entry("one_pack")]
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: found)
    assert plugins.names() == ["same_name"]
    found.append(_Entry("two_pack"))
    with pytest.raises(ConfigError, match=r"'same_name' is offered twice, by one_pack\.same_name and by two_pack"):
        plugins.names()
    found[:] = [_Entry("three_pack")]
    with pytest.raises(PluginError, match="no package 'three_pack'"):
        plugins.names()


def test_listing_imports_neither_torch_nor_methods() -> None:
    code = textwrap.dedent(
        """
        import sys
        from harness import methods
        methods.command([])
        wrong = {"torch", "open_clip", "hydra", "baselines.clip_score", "faiss", "polars"} & set(sys.modules)
        assert not wrong, wrong
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clip_score\n" in done.stdout and "parameters: arch='l14', fraction=None, threshold=None" in done.stdout


LISTED = """
def select(pool, /, *, ctx, columns=[{"name": "clip_l14_similarity_score", "weight": 2}], more: list[dict] = []):
    return pool.uids()
"""


def test_a_mapping_with_a_name_is_no_method_where_none_is_meant(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run_in))
    (run_in / "listed_of_test.py").write_text(LISTED)
    method = custom("listed_of_test:select")
    params = plugins.bind(method, {"columns": [{"name": "b"}]})
    assert plugins.source_digest(method, params) == method.source_digest


def test_a_method_of_ones_own_is_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ([], ["custom"]):
        methods.command(asked)
        told = capsys.readouterr().out
        assert told.endswith("custom\n    Your own function: method=custom method.target=package.module:function\n")
    with pytest.raises(ConfigError, match="did you mean 'custom'"):
        methods.command(["custon"])
