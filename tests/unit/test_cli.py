"""key=value settings, and errors as one sentence with the exit code of their kind."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import running, until

import harness
from harness import cli
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError, MethodError, PluginError, StageError
from harness.records import StrictModel


class _Pool(StrictModel):
    path: str = "here"


class _Settings(StrictModel):
    """What a tool takes."""

    out: str
    samples: int = 5
    fast: bool = False
    pool: _Pool = _Pool()


def test_settings_are_typed_and_nested() -> None:
    got = cli.settings(["out=a=b", "samples=7", "fast=true", "pool.path=x"], _Settings)
    assert (got.out, got.samples, got.fast, got.pool.path) == ("a=b", 7, True, "x")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["out=a", "sampels=3"], "did you mean 'samples'"),
        (["out=a", "pool.pth=3"], "did you mean 'pool.path'"),
        (["out=a", "samples=many"], "samples"),
        (["samples=3"], "setting out: required, but not given"),
        (["out"], "setting=value"),
        (["out=a", "out=b"], "twice"),
    ],
)
def test_wrong_settings(argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        cli.settings(argv, _Settings)


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.settings(["--help"], _Settings)
    assert caught.value.code == 0
    assert "pool.path" in capsys.readouterr().out


def _commands() -> list[str]:
    """Modules that are commands for people; a worker is started by its parent."""
    root = Path(harness.__file__).parents[1]
    files = [path for room in ("harness", "leaderboard") for path in (root / room).rglob("*.py")]
    commands = [path.relative_to(root) for path in files if "cli.main(command)" in path.read_text()]
    return sorted({".".join(path.with_suffix("").parts) for path in commands} - {"harness.train.worker"})


@pytest.mark.parametrize("module", _commands())
def test_every_command_has_help(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(module).command(["--help"])
    assert not caught.value.code
    assert len(capsys.readouterr().out.splitlines()) > 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, 2),
        (PluginError, 3),
        (MethodError, 4),
        (ArtifactError, 5),
        (StageError, 6),
        (InfraError, 7),
        (MemoryError, 7),
        (PermissionError, 5),
        (KeyboardInterrupt, 130),
    ],
)
def test_exit_codes(error: type[BaseException], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: list[str]) -> None:
        raise error("the sentence")

    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == code
    if issubclass(error, HarnessError):
        assert capsys.readouterr().err == "error: the sentence\n"


LONG = """
import sys
from harness import cli

def command(argv):
    if argv[1] == "fails":
        raise cli.ConfigError("the sentence")
    if argv[1] == "elsewhere":
        raise BrokenPipeError("a socket")
    sys.stdout.write("x" * int(argv[0]))

cli.main(command)
"""


@pytest.mark.parametrize(
    ("size", "how", "read", "code", "told"),
    [(10, "", False, cli.UNREAD, ""), (1 << 20, "", False, cli.UNREAD, ""), (10, "", True, 0, ""),
     (10, "fails", False, 2, "error: the sentence\n"),
     (10, "elsewhere", True, 5, "error: the file system: a socket\n")],
)  # fmt: skip
def test_a_reader_that_leaves_early_is_no_error(size: int, how: str, read: bool, code: int, told: str) -> None:
    command = [sys.executable, "-c", LONG, str(size), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        if not read:
            process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (told, code)


STOPPED = """
import os, signal, sys, time
from harness import cli
from harness.files import atomic_path

def command(argv):
    with atomic_path(argv[0]) as path:
        path.write_text("half")
        try:
            if argv[1] == "forked":
                told, tell = os.pipe()
                if not (child := os.fork()):
                    os.write(tell, b"x")
                    time.sleep(60)
                os.read(told, 1)  # Python forgets a signal that comes while it forks
                os.kill(child, signal.SIGTERM)
                return os.WTERMSIG(os.waitpid(child, 0)[1])
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            if argv[1] == "twice":
                os.kill(os.getpid(), signal.SIGTERM)

if sys.argv[2] == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
cli.main(command)
"""


@pytest.mark.parametrize(
    ("how", "code", "left"),
    [("once", 143, 0), ("twice", 143, 0), ("ignored", 0, 1), ("forked", signal.SIGTERM, 1),
     ("under torchrun", -signal.SIGTERM, 1)],
)  # fmt: skip
def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path, how: str, code: int, left: int) -> None:
    environment = os.environ | ({"TORCHELASTIC_RUN_ID": "1"} if how == "under torchrun" else {})
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "out"), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, len(list(tmp_path.iterdir()))) == (code, left), done.stderr
    assert ("stopped" in done.stderr) == (code == 143) and "Traceback" not in done.stderr


WORKING = """
import os, sys, time
from pathlib import Path
from harness import cli, executor

def slow(place):
    Path(place).write_text(str(os.getpid()))
    time.sleep(0 if place.endswith("0") else 600)

def command(argv):
    for _ in executor.LocalExecutor(2).stream(slow, [f"{argv[0]}/{n}" for n in range(4)], name="slow"):
        time.sleep(600)  # at work on a result while the others go on

cli.main(command)
"""


def test_sigterm_ends_the_workers_whatever_they_have_at_hand(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKING, str(tmp_path)], stderr=subprocess.PIPE) as working:
        until(lambda: all((tmp_path / str(n)).exists() for n in (0, 1, 2)) or working.poll() is not None)
        working.terminate()
        said = working.communicate()[1].decode()
    assert working.returncode == 143 and "Traceback" not in said, said
    until(lambda: not any(running(int(path.read_text())) for path in tmp_path.iterdir()))
    assert not (tmp_path / "3").exists()


def test_a_handler_of_sigterm_stays_and_none_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    def handle(number: int, frame: object) -> None: ...

    for before in (signal.SIG_DFL, handle):
        old = signal.signal(signal.SIGTERM, before)
        try:
            with pytest.raises(SystemExit):
                cli.main(
                    lambda argv, before=before: int((signal.getsignal(signal.SIGTERM) is before) != (before is handle))
                )
            assert signal.getsignal(signal.SIGTERM) is before
        finally:
            signal.signal(signal.SIGTERM, old)


def test_a_file_in_the_place_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(SystemExit) as caught:
            cli.main(lambda argv, place=place: place.mkdir(parents=True, exist_ok=True))
        assert caught.value.code == 5
        assert f"{place}: a file stands where a folder is needed" in capsys.readouterr().err


def test_full_disk_is_the_machines_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: list[str]) -> None:
        raise OSError(28, "No space left on device", "/data/x")

    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == 7
    assert "/data/x: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["harness.run", "harness.methods", "harness.tasks"])
def test_listing_commands_do_not_import_torch(module: str) -> None:
    argument = ["--help"] if module == "harness.run" else []
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[module, *argument]!r}\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
