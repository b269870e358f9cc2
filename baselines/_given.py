"""Files in which a user gives what training runs have told."""

import json
from typing import TypeVar

from harness import ArtifactError
from harness.config import validated
from harness.files import open_file
from harness.records import StrictModel

Model = TypeVar("Model", bound=StrictModel)


def read(model: type[Model], path: str) -> Model:
    """The JSON file `path` as `model`; ArtifactError if it is no JSON file, ConfigError for what does not fit in it."""
    with open_file(path) as file:
        try:
            values = json.load(file)
        except ValueError as error:
            raise ArtifactError(f"{path}: not a JSON file: {error}") from error
    return validated(model, values, prefix=f"of {path}, ")
