"""Texts like those that evaluation wants: given, offered by the pool, or the class names of zero-shot tasks."""

import importlib.util
import json
from pathlib import Path

from harness import ArtifactError, Pool, SelectionContext
from harness.files import open_file


def target_texts(pool: Pool, ctx: SelectionContext, given: str | None) -> list[str]:
    """The lines of the file `given`, else the texts that the pool offers, else classes in prompt templates.

    The last are the English class names and templates that clip_benchmark carries (RULES.md allows them).
    """
    if given is not None:
        with open_file(given) as file:
            try:
                texts = file.read().decode().splitlines()
            except UnicodeDecodeError as error:
                raise ArtifactError(f"{given}: not a text file in UTF-8, one text a line: {error}") from error
        if not any(text.strip() for text in texts):
            raise ArtifactError(f"{given}: holds no text; give one a line")
        ctx.remark(f"target: {len(texts)} lines of a given file")
        return [str(text) for text in texts]
    try:
        texts = pool.target_texts()
        ctx.remark(f"target: {len(texts)} texts that the pool offers")
    except ArtifactError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        texts = class_prompts()
        ctx.remark(f"target: {len(texts)} prompts of clip_benchmark's English class names and templates")
    return texts


def class_prompts() -> list[str]:
    """Every class name in every template of its set, for the sets that clip_benchmark has both of."""
    spec = importlib.util.find_spec("clip_benchmark")
    folder = Path(str(spec.origin if spec else "")).parent / "datasets"
    names, templates = (
        json.loads((folder / f"en_{what}.json").read_text(encoding="utf-8"))
        for what in ("classnames", "zeroshot_classification_templates")
    )
    return [
        template.format(c=name)
        for task in names
        for template in templates.get(task, [])
        for name in names[task]
        if isinstance(name, str)
    ]
