"""`python -m harness.run scale=tiny method=clip_score …`: a selection function in, a leaderboard entry out.

Arguments are hydra overrides; `-m` sweeps over comma-separated values, `dry_run=true` prints the plan.
"""

import os
import sys
from typing import Any

from harness import cli
from harness.config import check_override, data_dir, from_hydra, hydra_sentence, register_methods
from harness.errors import ConfigError, HarnessError
from harness.selection import plugins


def command(argv: list[str]) -> None:
    """Compose the configuration (one, or one a sweep job) and run the contest round on each."""
    import hydra
    from hydra.errors import HydraException

    methods = plugins.names()
    register_methods(methods)
    # A participant's module lies where the command is typed.
    sys.path.insert(0, os.getcwd())
    # hydra would print errors itself and exit with 1; this hands them to cli.main.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = any(a in ("-m", "--multirun") for a in argv)
    sys.argv[1:] = [a if a.startswith("-") else check_override(a, methods=methods) for a in argv]

    def job(values: Any) -> None:
        from harness.stages import run_config

        try:
            run_config(from_hydra(values))
        except HarnessError as error:
            if sweep:  # the other jobs go on, so this one speaks now
                cli.say_error(error)
            raise

    entry = hydra.main(version_base="1.3", config_path=str(data_dir("configs").absolute()), config_name="config")
    try:
        entry(job)()
    except HydraException as error:
        raise ConfigError(hydra_sentence(error)) from error


if __name__ == "__main__":
    cli.main(command)
