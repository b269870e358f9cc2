"""Methods made of other methods: `method=intersect method.of='[clip_score, {name: basic_filter}]'`."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from harness.errors import ConfigError
from harness.pool.view import Pool
from harness.selection import plugins
from harness.selection.context import SelectionContext
from harness.selection.plugins import BoundPart
from harness.selection.run import call, checked
from harness.subset import Subset


def bound(part: str | dict[str, Any]) -> BoundPart:
    """A part with all of its parameters; ConfigError for what does not exist or does not fit."""
    given = BoundPart({"name": part} if isinstance(part, str) else part)
    if not isinstance(given.get("name"), str):
        raise ConfigError(f"setting method.of: {part!r} is neither a method's name nor {{name: …, parameter: …}}")
    config = given.config
    place = {"name": config.name} | ({"target": config.target} if config.target else {})
    return BoundPart(place | plugins.bind(plugins.resolve(config), config.params))


Part = Annotated[str | dict[str, Any], AfterValidator(bound)]
"""A method's name, or a mapping of its name (and target) and parameters; bound before any work starts."""
Parts = Annotated[list[Part], Field(min_length=2)]


def subsets(of: Parts, pool: Pool, ctx: SelectionContext) -> list[Subset]:
    """What each part chooses."""
    found = []
    for number, part in enumerate(of):
        config = bound(part).config
        method = plugins.resolve(config)
        # Parts of one name would find each other's files in one scratch folder.
        scratch = ctx.scratch / f"part-{number}"
        scratch.mkdir(exist_ok=True)
        answer = call(method, pool, replace(ctx, scratch=scratch), config.params)
        found.append(checked(answer, pool=pool, name=method.name))
    return found
