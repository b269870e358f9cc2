"""`python -m harness.run scale=tiny method=clip_score …`: a selection function in, a leaderboard entry out.

Arguments are hydra overrides; `-m` sweeps over comma-separated values, `dry_run=true` prints the plan.
"""

import os
import sys
from types import ModuleType
from typing import Any

from harness import cli
from harness.compose import check_override, from_hydra, hydra_sentence, method_options, usage
from harness.errors import ConfigError, HarnessError
from harness.files import data_dir


def command(argv: list[str]) -> None:
    """Compose the configuration (one, or one a sweep job) and run the contest round on each."""
    cli.offer_help(argv, usage(__doc__ or ""))
    import hydra
    from hydra.errors import HydraException

    methods = method_options()
    # A participant's module lies where the command is typed.
    sys.path.insert(0, os.getcwd())
    # hydra would print errors itself and exit with 1; this hands them to cli.main.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = any(a in ("-m", "--multirun") for a in argv)
    sys.argv[1:] = [a if a.startswith("-") else check_override(a, methods=methods) for a in argv]

    failed: list[HarnessError] = []
    here = os.getpid()

    def job(values: Any) -> None:
        from harness.stages import run_config

        # An error is kept rather than raised: hydra would print it in its own words, and end a sweep at once.
        try:
            run_config(from_hydra(values))
        except HarnessError as error:
            if os.getpid() != here:  # a launcher runs the job elsewhere (SLURM), and hydra carries the error back
                cli.say_error(error)
                raise
            failed.append(error)
            if sweep:
                cli.say_error(error)

    entry = hydra.main(version_base="1.3", config_path=str(data_dir("configs").absolute()), config_name="config")
    try:
        entry(job)()
    except HydraException as error:
        raise ConfigError(hydra_sentence(error)) from error
    if failed and sweep:
        raise type(failed[0])(f"{len(failed)} of the sweep's runs failed; the first said: {failed[0]}") from failed[0]
    if failed:
        raise failed[0]


class _CallableModule(ModuleType):
    """Whoever imports this module by name still finds the function in `harness.run`."""

    def __call__(self, *overrides: str) -> Any:
        from harness.stages import run

        return run(*overrides)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    cli.main(command)
