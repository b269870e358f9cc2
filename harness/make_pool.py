"""Make a generated pool: `python -m harness.make_pool out=DIR samples=65536 seed=0 [workers=N] [faults=FILE]`."""

from pydantic import Field

from harness import cli
from harness.records import StrictModel


class Settings(StrictModel):
    """Make a pool of generated pictures and captions in CommonPool's layout, as scale tiny has it."""

    out: str = Field(description="folder to make")
    samples: int = Field(default=65_536, gt=0, description="image-text pairs")
    seed: int = Field(default=0, ge=0, description="another seed, another pool")
    workers: int | None = Field(default=None, ge=1, description="processes; null: one per core")
    faults: str | None = Field(default=None, description="file outside the pool that gets each sample's fault")


def command(argv: list[str]) -> None:
    settings = cli.settings(argv, Settings)
    from harness.tiny.pool import make_pool

    make_pool(
        settings.out, samples=settings.samples, seed=settings.seed, workers=settings.workers, faults=settings.faults
    )


if __name__ == "__main__":
    cli.main(command)
