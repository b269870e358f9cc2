"""From run directories to a leaderboard entry: `python -m harness.entry pack RUN_DIR [RUN_DIR …] --out DIR`.

An entry is one uid file trained with one or more seeds. Its folder:

    entry.json                     record of kind "entry": what people read, and the digest of everything below
    subset.json  pool.json         what was chosen, from which sealed pool
    realised.npy                   one bit a uid of the pool's sorted uid list: was it on disk?
    bootstrap.npy                  aggregates under resampled test samples, for ranks with intervals
    data-card.md                   how the data were chosen, by people for people
    seed-N/config.json  seed-N/train/{train,ledger}.json  seed-N/eval/{evaluation,TASK}.json
    uids.npy  seed-N/eval/predictions/TASK.parquet        in the folder at tiny, elsewhere by URL above it
    seed-N/train/checkpoint.safetensors                   always elsewhere

`entry.json` is written last. Its `inputs` name every other file: records by record digest, the rest by sha256.
"""

import argparse
import os
import re
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from harness import cli, files, uid
from harness.config import load_scale
from harness.errors import ArtifactError, ConfigError
from harness.provenance import provenance
from harness.records import Json, Record, StrictModel, first_problem, read_json, read_record, write_record

ENTRY_FORMAT = 1
AGGREGATES = ("imagenet", "shifts", "vtab", "retrieval", "average")
MAX_TEXT = 20_000
IN_FOLDER_SCALES = ("tiny",)
"""Scales whose uid files and predictions are small enough to stand in the entry's folder."""

Score = float | None
