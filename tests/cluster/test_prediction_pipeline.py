"""What becomes of actors that fail: what is said of it, and that a run ends."""

import subprocess
import sys

import pytest
from installed import needs

from vertebra.cluster.prediction_pipeline import cause_of

needs("ray")

CREATION = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::MapWorker(Map(X)).__init__()\x1b[39m "
    '(pid=3494, ip=10.0.0.2, actor_id=15, repr=MapWorker(Map(X)))\n  File "a.py", line 6, in __init__\n'
    '    raise ImportError("…")\n          ^^^^\nImportError: no module named foo\nsecond line'
)
CALL = (
    '\x1b[36mray::MapWorker(Map(X)).submit()\x1b[39m (pid=3592, ip=10.0.0.2, actor_id=ac)\n  File "a.py", line 9\n'
    "         ^^^\nValueError: bad thing\nline two\n\n"
    "The above exception was the direct cause of the following exception:\n\n"
    "\x1b[36mray::MapWorker(Map(X)).submit()\x1b[39m (pid=3592, ip=10.0.0.2)\n"
    "ray.exceptions.UserCodeException: UDF failed to process a data block.\n"
    "To change retry attempts, configure `ray.data.DataContext`."
)
NODE = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: MapWorker\n\tip: 10.0.0.2\n"
    "The actor died because its node has died."
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CREATION, "node 10.0.0.2: ImportError: no module named foo"),
        (CALL, "node 10.0.0.2: ValueError: bad thing"),
        (NODE, "node 10.0.0.2: The actor died because its node has died"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_one_line_that_names_the_node(text, said):
    assert cause_of(RuntimeError(text)) == said


DEADLY = """
import os, sys
from dataclasses import dataclass
from pathlib import Path

from vertebra.cache import fingerprint
from vertebra.cluster.node_model import NodeModel
from vertebra.cluster.parts import PartFormat
from vertebra.cluster.prediction_actor import PredictionTask
from vertebra.cluster.prediction_pipeline import made_parts
from vertebra.cluster.ray_connection import connected, ray_output_silenced
from vertebra.sources import Record
from vertebra.storage import Location

model, target, photo = sys.argv[1:]

@dataclass
class Chunk:
    part: int
    name = "photos/ 193 to 256"

    def read(self, threads=8):
        if self.part == 3:
            os._exit(11)  # as a decoder in C may end
        yield Record(photo, Path(photo).read_bytes())

class Parts:
    def chunk(self, part):
        return Chunk(part)

target = Location(target)
(target / "_vertebra" / "token").write(os.urandom(8).hex().encode())
token = (target / "_vertebra" / "token").read_bytes()
task = PredictionTask(
    NodeModel(model, fingerprint(Path(model)), "onnxruntime", 16, 1, False, None, os.getcwd()),
    target, PartFormat(".jsonl", 2, False, False), tune=False, token=token, parts=Parts(),
)
with ray_output_silenced(), connected("local"):
    for row in made_parts(task, None, range(8)):
        print(row["part"], row["rows"], row["failure"], file=sys.stderr)
"""


@pytest.mark.slow
def test_a_photo_that_ends_the_process_ends_not_the_run(tmp_path, tiny_model, tiny_photos):
    script = tmp_path / "deadly.py"
    script.write_text(DEADLY)
    arguments = [tiny_model, tmp_path / "x.jsonl", tiny_photos / "red" / "00.png"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = sorted(done.stderr.splitlines())
    assert len(rows) == 8
    assert rows[3].startswith("part-000003.jsonl 0 photos/ 193 to 256: 3 processes have died of these photos")
    assert all(row.endswith("1 ") for row in rows if row != rows[3])
