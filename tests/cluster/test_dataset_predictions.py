"""`vertebra.predict_dataset`: a Ray dataset of one's own."""

import os
import subprocess
import sys

import pytest
from installed import needs

pyarrow = pytest.importorskip("pyarrow")
needs("ray")

from vertebra.cluster.dataset_predictions import photo_or_path_column, require_columns  # noqa: E402
from vertebra.errors import UsageError  # noqa: E402
from vertebra.runtime.formats import JsonLines  # noqa: E402

BYTES, TEXT = pyarrow.binary(), pyarrow.string()


@pytest.mark.parametrize(
    ("fields", "column", "found"),
    [
        ({"id": pyarrow.int64(), "bytes": BYTES}, None, ("bytes", False)),
        ({"image": pyarrow.struct({"bytes": BYTES, "path": TEXT})}, None, ("image", False)),
        ({"path": TEXT, "label": TEXT}, None, ("path", True)),
        ({"path": TEXT, "photo": BYTES}, None, ("photo", False)),
        ({"path": TEXT, "photo": BYTES}, "path", ("path", True)),
        ({"x": TEXT}, "x", ("x", True)),
        ({"a": BYTES, "b": BYTES}, "b", ("b", False)),
        ({"md5": BYTES, "image": BYTES}, None, ("image", False)),
        ({"jpg": BYTES, "x": pyarrow.struct({"bytes": BYTES, "path": TEXT})}, None, ("x", False)),
    ],
)
def test_the_column_of_photos(fields, column, found):
    assert photo_or_path_column(pyarrow.schema(fields), column) == found


@pytest.mark.parametrize(
    ("fields", "column", "said"),
    [
        ({"a": BYTES, "b": BYTES}, None, "2 columns of photos: 'a', 'b'. Say which: column='a' or column='b'"),
        ({"id": pyarrow.int64()}, None, "no column of image bytes or paths; it has 'id'"),
        ({"path": TEXT}, "photo", "no column 'photo'; it has 'path'"),
        ({"id": pyarrow.int64()}, "id", "no column of image bytes or paths"),
    ],
)
def test_a_column_that_is_not_clear(fields, column, said):
    with pytest.raises(UsageError, match=said):
        photo_or_path_column(pyarrow.schema(fields), column)


def test_a_column_that_the_results_have_is_refused():
    form = JsonLines(2, False, False)
    require_columns(pyarrow.schema({"path": TEXT, "class_3": TEXT}), None, form)
    with pytest.raises(UsageError, match="a column 'probability_2' already"):
        require_columns(pyarrow.schema({"path": TEXT, "probability_2": pyarrow.float32()}), None, form)


CODE = """
import logging, sys
import ray, ray.data, vertebra
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _node_ip_address="127.0.0.1",
         log_to_driver=False, logging_level=logging.ERROR)
model, photo = sys.argv[1:]
content = open(photo, "rb").read()
rows = [{"id": 0, "bytes": content}, {"id": 1, "bytes": b"text"}, {"id": 2, "bytes": b""}]
found = vertebra.predict_dataset(ray.data.from_items(rows), model, top=2, embed=True, concurrency=1)
first, second, third = sorted(found.take_all(), key=lambda row: row["id"])
assert list(first) == ["id", "bytes", "class_1", "index_1", "probability_1", "class_2", "index_2", "probability_2",
                       "error", "embedding"], list(first)
alone = vertebra.load(model).predict(content, top=2)
assert first["class_1"] == alone.label and abs(first["probability_1"] - alone.probability) < 1e-4
assert first["bytes"] == content and first["error"] is None and len(first["embedding"]) > 8
assert second["class_1"] is None and "text file" in second["error"], second
assert "no bytes" in third["error"], third
paths = vertebra.predict_dataset(ray.data.from_items([{"path": photo}, {"path": photo + "x"}]), model, concurrency=1)
first, second = sorted(paths.take_all(), key=lambda row: row["path"])
assert first["class_1"] == alone.label and "no such file" in second["error"]
try:
    vertebra.predict_dataset(ray.data.from_items([{"path": photo, "error": ""}]), model, concurrency=1).take_all()
except Exception as error:
    assert "has a column 'error' already" in str(error), error
else:
    raise AssertionError("a column that is there already is replaced")
print("whole")
"""


@pytest.mark.slow
def test_rows_keep_their_columns_and_get_classes(tiny_export, tiny_photos):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tiny_export), str(tiny_photos / "red" / "00.png")],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("whole\n")
