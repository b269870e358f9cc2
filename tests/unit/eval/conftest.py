"""The helpers beside these tests are importable; one evaluation serves several files."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Data, two checkpoints and one finished evaluation; tests leave them as they are."""
    from evaluated import KEYS, MODEL, evaluate
    from task_folders import small_suite, write_task

    from harness import model as models

    base = tmp_path_factory.mktemp("evaluation")
    small = small_suite(KEYS)
    for task in small.tasks.values():
        write_task(base / "data", task)
    for seed in (0, 1):
        models.save_safetensors(base / f"{seed}.safetensors", models.create(MODEL, seed=seed).state_dict())
    evaluate(base, small, base / "out")
    return base, small
