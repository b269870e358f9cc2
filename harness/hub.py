"""What the hub's library fails with, as errors of ours."""

from harness.errors import HarnessError, InfraError, from_os_error

BUSY = (408, 429, 500, 502, 503, 504)
"""Answers of a hub that has too much to do."""


class BusyError(InfraError):
    """The hub may answer a little later."""


def failure(error: Exception, what: str) -> HarnessError:
    """The one sentence that an exception of huggingface_hub means; `what` begins it and names the data set or file."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return InfraError(f"{what}: HF_HUB_OFFLINE is set; unset it to download")
    # What keeps the hub from saying where a file lies is the cause of an error about the cache.
    reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(reason, errors.OfflineModeIsEnabled):
        return failure(reason, what)
    if isinstance(reason, errors.HfHubHTTPError) and reason.response is not None:
        status = reason.response.status_code
        if status in (401, 403):
            return InfraError(
                f"{what}: the hub answered {status}; set HF_TOKEN to a token that may read it, or unset it"
            )
        return (BusyError if status in BUSY else InfraError)(
            f"{what}: the hub answered {status}; run the same command again"
        )
    if isinstance(reason, OSError) and reason.errno and not isinstance(reason, ConnectionError):
        return from_os_error(reason, what)
    return InfraError(f"{what}: the transfer failed ({type(reason).__name__}); run the same command again")
