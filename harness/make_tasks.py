"""Make the 40 stand-in task sets of scale tiny: `python -m harness.make_tasks out=DIR seed=0 [workers=N]`."""

from pydantic import Field

from harness import cli
from harness.records import StrictModel


class Settings(StrictModel):
    """Make the stand-in task sets of scale tiny, in the layout of the real ones."""

    out: str = Field(description="folder to make")
    seed: int = Field(default=0, ge=0, description="0: the sets that score scale tiny")
    workers: int | None = Field(default=None, ge=1, description="processes; null: one per core")


def command(argv: list[str]) -> None:
    settings = cli.settings(argv, Settings)
    from harness.tiny.tasks import make_tasks

    make_tasks(settings.out, seed=settings.seed, workers=settings.workers)


if __name__ == "__main__":
    cli.main(command)
