"""Runs of Python that are killed in the middle of their work."""

import subprocess
import sys

from waiting import LONG

_CODE = """
import signal, sys, time
{imports}
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
began = time.process_time()
{work}
print(time.process_time() - began, file=sys.stderr)
"""


def run(imports: str, work: str, *, kill_after: float = 0.0) -> tuple[str, float] | None:
    """What `work` printed and the seconds of CPU it took; None if it was killed after so many of them.

    Time of the CPU and not of the clock, counted after the imports: neither the load nor the speed of the machine
    shifts the moment out of the work. The signal has no handler, and ends the process where it stands, as SIGKILL does.
    """
    code = _CODE.format(imports=imports, work=work)
    done = subprocess.run([sys.executable, "-c", code, str(kill_after)], capture_output=True, text=True, timeout=LONG)
    if done.returncode < 0:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout, float(done.stderr.split()[-1])
