"""A folder that is made by one function: whole or not there at all, made once, by one command at a time."""

import shutil
from collections.abc import Callable
from pathlib import Path

from harness.errors import ArtifactError, ConfigError, from_os_error
from harness.pool.seal import patient_lock
from harness.progress import say
from harness.provenance import provenance
from harness.records import Json, Record, read_record, write_record

RECORD = "made.json"


def make_once(out: Path, settings: dict[str, Json], build: Callable[[Path], None]) -> None:
    """Make `out` by `build(temporary folder)` unless it is there, made with the same `settings`.

    The folder gets its name when all is in it, so a command that is killed leaves nothing under that name. A second
    command waits for the first. Raises ConfigError if `out` was made with other settings, ArtifactError if something
    else lies there, InfraError if the disk is full or the folder cannot be written.
    """
    if _is_made(out, settings):
        return
    workplace = out.parent / f".{out.name}.making"
    with patient_lock(str(workplace)):
        if _is_made(out, settings):
            return
        draft = workplace / "draft"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            build(draft)
            write_record(draft / RECORD, Record(kind="made", payload=settings, provenance=provenance()))
            draft.replace(out)
            shutil.rmtree(workplace, ignore_errors=True)
        except OSError as error:
            raise from_os_error(error, out) from error


def _is_made(out: Path, settings: dict[str, Json]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECORD).is_file():
        raise ArtifactError(f"{out}: holds something else; choose a folder that does not exist")
    made = read_record(out / RECORD, "made").payload
    if made != settings:
        raise ConfigError(f"{out}: was made with {made}, not with {settings}; choose another folder")
    say(f"{out}: already made")
    return True
