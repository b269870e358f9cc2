"""The one wrapper around every command: settings from `key=value`, errors as one sentence and an exit code."""

import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel

from harness.config import validated
from harness.errors import ConfigError, HarnessError, InfraError, from_os_error, unknown_name
from harness.progress import say
from harness.records import StrictModel

Model = TypeVar("Model", bound=StrictModel)

AGAIN = 5.0
"""Seconds in which a second SIGTERM does not break off the tidying up: `timeout` sends two at once."""
UNREAD = 128 + signal.SIGPIPE
"""Exit code where nobody reads the output any more, as a shell gives it."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM came; it ends a command as Ctrl-C does."""


def main(command: Callable[[list[str]], int | None]) -> NoReturn:
    """Run `command` on the arguments and exit: 0 or what it returns, or the code of the error it raises.

    The user sees one sentence; with HARNESS_TRACEBACK=1 the whole chain follows. SIGTERM ends it as Ctrl-C does, so
    that temporary files go.
    """
    logging.captureWarnings(True)
    try:
        with _unwinding():
            code = command(sys.argv[1:]) or 0
    except HarnessError as error:
        code = _report(error)
    except OSError as error:
        unread = isinstance(error, BrokenPipeError) and _unread()
        code = UNREAD if unread else _report(from_os_error(error, error.filename or "the file system"))
    except MemoryError:
        code = _report(InfraError("the memory of this machine is used up; use fewer workers or a larger machine"))
    except KeyboardInterrupt as stop:
        _end_workers()
        say("stopped; the same command goes on from here")
        code = 143 if isinstance(stop, _Terminated) else 130
    unread = _unread()
    sys.stdout.flush()
    sys.exit(code or (UNREAD if unread else 0))


def _unread() -> bool:
    """Whether whoever reads the output is gone, as in `| head`; what is left to write then goes nowhere."""
    output = select.poll()
    output.register(1, 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return gone


@contextmanager
def _unwinding() -> Iterator[None]:
    """Raises _Terminated on SIGTERM meanwhile, where nothing else handles it."""
    # What torchrun starts is told by torchrun to end, and must not wait for the others then.
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        or "TORCHELASTIC_RUN_ID" in os.environ
    ):
        yield
        return
    here, last = os.getpid(), -AGAIN

    def stop(number: int, frame: object) -> None:
        nonlocal last
        if os.getpid() != here:  # a forked process, which ends as it always did
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif time.monotonic() - last > AGAIN:
            last = time.monotonic()
            raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_workers() -> None:
    """Terminate the processes that work for this one: its end would wait for what they have at hand."""
    import multiprocessing  # which most commands do without

    for worker in multiprocessing.active_children():
        worker.terminate()


def _report(error: HarnessError) -> int:
    say_error(error)
    if os.environ.get("HARNESS_TRACEBACK"):
        traceback.print_exception(error)
    return error.exit_code


def say_error(error: HarnessError) -> None:
    """The error as the user sees it: its notes (a participant's own traceback), then one sentence."""
    for note in getattr(error, "__notes__", []):
        sys.stderr.write(note.rstrip("\n") + "\n")
    sys.stderr.write(f"error: {error}\n")


def offer_help(argv: list[str], text: str | None) -> None:
    """Print `text` and end with 0 if `argv` asks for help."""
    if any(argument in ("-h", "--help") for argument in argv):
        sys.stdout.write((text or "").strip() + "\n")
        sys.exit(0)


def settings(argv: list[str], model: type[Model]) -> Model:
    """The `key=value` arguments as `model`; dots reach into nested models, values are YAML.

    `--help` prints the model's settings with their defaults. Raises ConfigError for anything that is not a setting.
    """
    offer_help(argv, _help(model))
    values: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"argument {argument!r} is not of the form setting=value")
        _check_known(key, model)
        place = values
        *folders, last = key.split(".")
        for folder in folders:
            place = place.setdefault(folder, {})
        if last in place:
            raise ConfigError(f"setting {key!r} is given twice")
        place[last] = parse_value(text)
    for name, field in model.model_fields.items():
        if field.is_required() and _nested(field.annotation):
            values.setdefault(name, {})  # so that the setting missing in the group is named
    return validated(model, values)


def parse_value(text: str) -> Any:
    """A command-line value as YAML reads it (numbers, true/false, null, lists); anything else is the text itself."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _nested(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _flat(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = _nested(field.annotation)
        if inner is None:
            flat[prefix + name] = field
        else:
            flat |= _flat(inner, f"{prefix}{name}.")
    return flat


def _check_known(key: str, model: type[BaseModel]) -> None:
    known = _flat(model)
    if key not in known:
        raise ConfigError(unknown_name("setting", key, known))


def _help(model: type[BaseModel]) -> str:
    lines = [(model.__doc__ or "").strip().split("\n")[0], "", "settings (key=value):"]
    for name, field in _flat(model).items():
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        lines.append(f"  {name:28} {field.description or ''} ({default})")
    return "\n".join(lines) + "\n"
