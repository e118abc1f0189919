"""What every test may rely on."""

import os

# Set before torch is imported: the suite runs in several processes, and each of them taking all cores is slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
