"""A short soak; `make soak` runs the long one."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "soak" / "soak.py"


def test_a_short_soak_with_kills_loses_nothing_and_leaves_nothing_behind():
    """What it checks and audits is the program's; it fails where anything was lost or left."""
    sizes = ["--operations", "50", "--kills", "4", "--calm", "10"]
    soak = subprocess.run([sys.executable, PROGRAM, *sizes], capture_output=True, text=True, timeout=600)
    assert soak.returncode == 0, f"{soak.stdout}\n{soak.stderr}"
    assert "left behind: nothing" in soak.stdout
