"""Every error a user can cause, and the exit code each one gives.

    HarnessError
    ├── ConfigError    2  a setting, scale, method or task that does not exist or does not fit
    ├── PluginError    3  a participant's module does not import or its function has the wrong signature
    ├── MethodError    4  a participant's function raised, or returned nonsense or nothing
    ├── ArtifactError  5  a file is missing, corrupt, unsorted, or names an unknown uid
    ├── StageError     6  a stage cannot go on (a non-finite loss, an incomplete input)
    └── InfraError     7  disk, memory, network, permissions: retryable, never held against a method

A message is one sentence that names the file or the setting and says what to do. The cause is chained
(`raise ... from error`) for developers. Findings of the verifier are values, not errors.
"""

import difflib
import errno
import re
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of all errors that reach a user as one sentence."""

    exit_code = 1


class ConfigError(HarnessError):
    """A setting is unknown, misspelt or has a value that does not fit."""

    exit_code = 2


class PluginError(HarnessError):
    """A participant's module does not import or its function cannot be called as a method."""

    exit_code = 3


class MethodError(HarnessError):
    """A participant's function raised or returned something that is not a subset."""

    exit_code = 4


class ArtifactError(HarnessError):
    """A file is missing, corrupt or does not hold what its name promises."""

    exit_code = 5


class StageError(HarnessError):
    """A stage cannot go on with the inputs it has."""

    exit_code = 6


class InfraError(HarnessError):
    """The machine failed, not the method: disk, memory, network, permissions."""

    exit_code = 7


def unknown_name(noun: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that does not exist: the nearest names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""
    return f"unknown {noun} {name!r}{hint}; known: {', '.join(names) or 'none'}"


def shortened(value: object, most: int = 60) -> str:
    """repr(value), cut where it is longer than `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


_INFRA_ERRNO = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the largest size allowed here",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the device reported an input/output error",
    errno.EMFILE: "too many open files",
    errno.ENOMEM: "the memory is used up",
}

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says, without an errno, where it could write a part of an array only."""


def from_os_error(error: OSError, path: object) -> HarnessError:
    """The HarnessError that an OSError on `path` means: InfraError if the machine failed, else ArtifactError."""
    reason = _INFRA_ERRNO.get(error.errno or 0)
    if reason is None and _SHORT_WRITE.fullmatch(str(error)):
        reason = _INFRA_ERRNO[errno.ENOSPC]
    if reason is not None:
        return InfraError(f"{path}: {reason}; make room or choose another folder, then run the same command again")
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{path}: no such file or folder")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return ArtifactError(f"{path}: a file stands where a folder is needed; choose another place")
    if isinstance(error, IsADirectoryError):
        return ArtifactError(f"{path}: a folder stands where a file is needed; name the file in it, or another")
    return ArtifactError(f"{path}: {error.strerror or error}")


def machines_fault(error: BaseException, where: object) -> InfraError | None:
    """The InfraError that an exception in a participant's code means; None where the machine is not to blame.

    `where` is named where the error names no file.
    """
    if isinstance(error, MemoryError):
        return InfraError(f"{where}: the memory is used up; use fewer workers or a larger machine")
    meant = from_os_error(error, error.filename or where) if isinstance(error, OSError) else None
    return meant if isinstance(meant, InfraError) else None
