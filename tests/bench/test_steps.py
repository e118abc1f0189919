"""bench/steps.py: a run of one subject."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared" / "data" / "caltech101"


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"needs the photos of Caltech-101 in {PHOTOS}")
def test_a_run_leaves_no_file_in_the_working_directory(tmp_path):
    command = [sys.executable, ROOT / "bench" / "steps.py", "--one", "vertebra", "mobilenet_v2", "2", "0", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout.splitlines()[-1])) >= 2
    assert not list(tmp_path.iterdir())
