"""Without a compiler the package is not built, and there is nothing to test."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vertebra_kernels") else ["test_*.py"]
