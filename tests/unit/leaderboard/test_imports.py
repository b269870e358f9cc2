"""The leaderboard runs where torch is not installed."""

import subprocess
import sys

from waiting import LONG


def test_verifying_and_building_import_no_torch() -> None:
    modules = "leaderboard.verify, leaderboard.site, leaderboard.board, leaderboard.__main__"
    heavy = "{'torch', 'open_clip', 'hydra'}"
    check = f"import sys, {modules}\nsys.exit(repr({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
