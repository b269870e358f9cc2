"""What the hub's library fails with becomes one sentence with an exit code."""

import errno
import types
from typing import Any

import pytest
from huggingface_hub import errors

from harness import hub


class ReadError(Exception):
    """Of the library beneath the hub's."""


def answer(status: int) -> errors.HfHubHTTPError:
    response: Any = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return errors.HfHubHTTPError("Server error\nFor more information\n\noops", response=response)


def unlocated(cause: Exception) -> Exception:
    """As hf_hub_download says that it found neither the file nor a copy of it."""
    error = errors.LocalEntryNotFoundError("not in the cache,\ncheck your connection")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(503), "a/b: the hub answered 503; run the same command again"),
        (answer(401), "a/b: the hub answered 401; set HF_TOKEN"),
        (unlocated(answer(500)), "a/b: the hub answered 500"),
        (errors.OfflineModeIsEnabled("offline"), "a/b: HF_HUB_OFFLINE is set; unset it"),
        (unlocated(errors.OfflineModeIsEnabled("offline")), "a/b: HF_HUB_OFFLINE is set; unset it"),
        (ReadError("peer closed\nthe connection"), "a/b: the transfer failed (ReadError); run the same"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "a/b: the transfer failed (ConnectionResetError)"),
        (OSError(errno.ENOSPC, "full"), "a/b: the disk is full; make room"),
    ],
)
def test_each_failure_is_one_sentence(error: Exception, says: str) -> None:
    failed = hub.failure(error, "a/b")
    assert str(failed).startswith(says)
    assert "\n" not in str(failed)
    assert failed.exit_code == 7
    assert isinstance(failed, hub.BusyError) == ("answered 50" in says)
