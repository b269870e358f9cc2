"""What a verification says: values, collected, never raised."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.records import StrictModel

Severity = Literal["error", "warning", "skipped"]
"""error: the entry is invalid. warning: a person should look. skipped: a check that could not be made here."""
Level = Literal["claimed", "rescored", "retrained"]
LEVELS: tuple[Level, ...] = ("claimed", "rescored", "retrained")
Outcome = Literal["ok", "incomplete", "invalid", "broken"]


def visible(text: str) -> str:
    """`text` with every character that is not drawn written as an escape: terminals obey some, readers miss others."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


Shown = Annotated[str, BeforeValidator(visible)]


class Finding(StrictModel):
    """One thing that was found."""

    severity: Severity
    check: str
    """Name of the check, e.g. `ledger`."""
    where: Shown
    """File or field."""
    what: Shown
    """One sentence."""

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.what}"


class Verification(StrictModel):
    """The result of verifying one entry up to a level."""

    entry: str
    """Folder of the entry, relative to where entries were looked for."""
    digest: str | None
    """Digest of entry.json; None if it could not be read."""
    level: Level
    """The level that was asked for."""
    reached: Level | None
    """The highest level of which every check was made and none found an error."""
    outcome: Outcome
    """ok: level reached. incomplete: checks were skipped. invalid: the entry is wrong. broken: our machine failed."""
    checks: list[str]
    """Names of the checks that were made."""
    findings: list[Finding]
    evaluated: list[str] = Field(default=[])
    """Keys of the tasks on which the checkpoints were evaluated again."""
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that make an entry invalid."""
    return [finding for finding in findings if finding.severity == "error"]
