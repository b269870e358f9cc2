"""torchrun, whose processes say themselves how they ended: without the traceback and the table that it adds.

`python -m harness.train.torchrun` takes torchrun's arguments; its exit code is 0 if all processes ended well.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(argv: list[str]) -> int:
    """Run the processes; 1 if one failed, 128 and the signal's number if told to stop."""
    try:
        run(parse_args(argv))  # type: ignore[no-untyped-call]
    except ChildFailedError:
        return 1
    except SignalException as told:
        return 128 + told.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
