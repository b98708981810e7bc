"""The numerical tests under the kernels of other processors: `make test-processors`.

PyTorch and MKL choose their kernels by what the processor offers, and the number of threads decides how a sum is split.
So a product of matrices rounds differently elsewhere, or with another number of rows; only the very same operation
on the same machine gives the same bits. These settings make one machine round as others do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests/rwkv6", "tests/gate", "tests/metrics")
SETTINGS = {
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
    "MKL_CBWR": ("COMPATIBLE", "AVX2"),
    "OMP_NUM_THREADS": ("1", "2"),
}


def main(arguments: list[str]) -> int:
    """Run pytest once for each combination of the settings; returns 1 where any run failed.

    Args:
        arguments: pytest's; default: the folders with numerical tests.
    """
    failed = 0
    for values in product(*SETTINGS.values()):
        environment = dict(zip(SETTINGS, values, strict=True))
        environment["MKL_NUM_THREADS"] = environment["OMP_NUM_THREADS"]
        command = [sys.executable, "-m", "pytest", "--no-header", *(arguments or FOLDERS)]
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        failed |= done.returncode
        print(f"{' '.join(map('='.join, zip(SETTINGS, values, strict=True)))}: {time.monotonic() - began:.0f} s")
        lines = (done.stdout or done.stderr).strip().splitlines()
        print("\n".join([*(line for line in lines if line.startswith(("FAILED", "ERROR"))), *lines[-1:]]), flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
