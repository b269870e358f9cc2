"""The JSON schema of entry.json: `python -m leaderboard.schema` writes entry-vN.json beside this file."""

import json
from pathlib import Path
from typing import Any

from harness.entry_schema import ENTRY_FORMAT, EntryPayload
from harness.records import Record

PATH = Path(__file__).parent / f"entry-v{ENTRY_FORMAT}.json"


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of entry.json in the present format."""
    payload = EntryPayload.model_json_schema(ref_template="#/$defs/{model}")
    record = Record.model_json_schema()
    record["properties"]["kind"] = {"const": "entry"}
    record["properties"]["inputs"]["additionalProperties"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    record["$defs"] = payload.pop("$defs")
    record["properties"]["payload"] = payload
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **record, "title": "Leaderboard entry"}


def text() -> str:
    """The content of the published file."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"
