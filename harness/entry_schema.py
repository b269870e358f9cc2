"""What an entry of the leaderboard says: the models of entry.json's payload, and how it is read.

harness.entry writes entries, leaderboard/ verifies and shows them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from harness.errors import ArtifactError
from harness.records import Json, Record, StrictModel, first_problem, read_record

ENTRY_FORMAT = 1
"""Version of the payload; older ones are brought up to it by `migrate`."""


def _plain(text: str) -> str:
    if any((ord(c) < 32 or 127 <= ord(c) < 160) and c not in "\n\t" for c in text) or any(c in _BIDI for c in text):
        raise ValueError("holds control characters")
    return text


def _one_line(text: str) -> str:
    if not any(c.isalnum() and c not in _BLANK for c in text) or any(c in "\n\t\u2028\u2029" for c in text):
        raise ValueError("is not one line with a letter or digit in it")
    return text


def _named(method: dict[str, Json]) -> dict[str, Json]:
    known = {"name": str, "target": str | None, "seed": int, "params": dict}
    if "name" not in method or not all(isinstance(method[key], known[key]) for key in method if key in known):
        raise ValueError("is not a name with parameters")
    return method


def _http(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s\"'<>\\]+", url):
        raise ValueError("is not a link that starts with http:// or https://")
    return url


# Characters that reorder the text around them could make one name look like another.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BLANK = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters by name that are drawn as nothing."""
Line = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(_plain), AfterValidator(_one_line)]
Text = Annotated[str, Field(max_length=4000), AfterValidator(_plain)]
Link = Annotated[str, Field(max_length=500), AfterValidator(_http)]
AggregateName = Literal["imagenet", "shifts", "vtab", "retrieval", "average"]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./@-]{0,99}$")]
SOURCE_NAME = r"^(pool|byod-[1-9][0-9]{0,3})$"
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class About(StrictModel):
    """What the participants say about their entry."""

    name: Line
    """Name of the method on the board."""
    authors: list[Line] = Field(default=[], max_length=100)
    link: Link | None = None
    description: Text = ""
    track: Literal["filtering", "byod"] = "filtering"
    external_data: list[Line] = Field(default=[], max_length=100)
    """Data outside the pool that the selection used."""
    external_models: list[Line] = Field(default=[], max_length=100)
    """Models the selection used, the pool's own similarity scores included."""


class Source(StrictModel):
    """One of the sealed pools that a byod entry trains on."""

    name: Annotated[str, Field(pattern=SOURCE_NAME)]
    """pool, or byod-1 and so on in the order of the run's setting."""
    digest: Digest
    """Digest of its pool.json, which stands in the entry as pool/NAME/pool.json."""
    samples: Count
    weight: Annotated[int, Field(ge=1, lt=1 << 53)]
    """How often each of its pairs stands in the subset; of the pool: each that was chosen."""


class PoolSummary(StrictModel):
    digest: Digest
    """Digest of pool.json; in the byod track that is the union of `sources`."""
    samples: Count
    left_out: Count = 0
    """Samples on disk that could not be read."""
    listed: Count | None = None
    """Uids of the pool's full list; None if the list was not at hand when packing."""
    listed_uids: Digest | None = None
    """Digest of that list, sorted: what realised.npy has one bit for."""
    sources: list[Source] = Field(default=[], max_length=1000)
    """Empty where the pool is the only one."""


class SubsetSummary(StrictModel):
    uids: Digest
    """Digest of the sorted uids, as every record of the run names the subset."""
    size: Count
    distinct: Count
    max_count: Count
    mean_repeats: Annotated[float, Field(ge=0)]
    """Samples seen in training, divided by the size."""


class SeedSummary(StrictModel):
    seed: Count
    samples_seen: Count
    checkpoint: Digest
    """sha256 of the final checkpoint's file."""
    ledger: Digest


class TaskScore(StrictModel):
    key: Name
    metric: Name | None
    """Main metric; None for a task that is reported and not scored."""
    score: Fraction | None
    """Mean over seeds."""
    low: Fraction | None = None
    high: Fraction | None = None
    """95 % interval over the task's samples, mean over seeds."""
    seeds: list[Fraction | None]
    samples: Count


class Aggregate(StrictModel):
    mean: Fraction | None
    """None if one of its tasks is missing."""
    std: Annotated[float, Field(ge=0, le=1)] | None
    """Standard deviation between seeds (n - 1); None for one seed."""
    seeds: list[Fraction | None]


class Elsewhere(StrictModel):
    """A file named in `inputs` that does not stand in the folder."""

    bytes: Count
    url: Link | None = None


class EntryPayload(StrictModel):
    """The payload of entry.json."""

    format: int = ENTRY_FORMAT
    about: About
    scale: Annotated[str, Field(pattern="^[a-z0-9_]{1,40}$")]
    suite: Annotated[str, Field(pattern="^[a-z0-9_]{1,40}$")]
    unofficial: list[Name]
    """Locked settings that were changed; an entry with any is never ranked."""
    method: Annotated[dict[str, Json], AfterValidator(_named)] | None
    """Name, target, seed and parameters of the selection; None for a ready uid file."""
    pool: PoolSummary
    subset: SubsetSummary
    runs: list[SeedSummary] = Field(min_length=1, max_length=100)
    tasks: list[TaskScore] = Field(max_length=1000)
    missing: list[Name]
    """Tasks of the suite without a result; an entry with any is incomplete and never ranked."""
    aggregates: dict[AggregateName, Aggregate]
    elsewhere: dict[str, Elsewhere] = Field(default_factory=dict)

    @property
    def ranked(self) -> bool:
        """True for an entry that takes part in the ranking: official and complete."""
        return not self.unofficial and not self.missing and self.aggregates["average"].mean is not None


@dataclass(frozen=True)
class Entry:
    """An entry as entry.json tells it; nothing else in its folder is checked."""

    folder: Path
    record: Record
    """As it stands in the file: its digest is the entry's."""
    payload: EntryPayload
    """In the present format."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The entry in `folder`, read as if a stranger had written it.

        Raises ArtifactError if entry.json is missing, not valid, or of a newer format.
        """
        path = folder / "entry.json"
        record = read_record(path, "entry")
        try:
            return cls(folder, record, EntryPayload.model_validate(migrate(record.payload), strict=True))
        except ValidationError as error:
            raise ArtifactError(f"{path}: not a valid entry: {first_problem(error)}") from error


def load_entry(folder: str | Path) -> Entry:
    """The entry in `folder`; ArtifactError if entry.json is missing, not valid, or of a newer format."""
    return Entry.load(Path(folder))


def migrate(payload: dict[str, Json]) -> dict[str, Json]:
    """`payload` in the present format; ArtifactError for a format that this harness does not know."""
    version = payload.get("format", ENTRY_FORMAT)
    if type(version) is not int or not 1 <= version <= ENTRY_FORMAT:
        raise ArtifactError(f"entry format {version!r} is not known, this harness reads 1 to {ENTRY_FORMAT}; update it")
    return payload
