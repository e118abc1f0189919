"""`vertebra.predict_dataset`: a Ray dataset with photos → the same rows with their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from vertebra.cache import checksum, fingerprint
from vertebra.errors import UsageError, VertebraError, require_positive_int
from vertebra.loading import exported_file
from vertebra.model_argument import resolve_model
from vertebra.sources.path_columns import name_column
from vertebra.sources.photo_column import photo_column, text_columns
from vertebra.storage import Location

from .node_model import NodeModel
from .prediction_pipeline import TASKS_IN_FLIGHT
from .ray_connection import ray_module
from .worker_deaths import DeadlyWorkError, attempted, died_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from vertebra.runtime.formats import JsonLines
    from vertebra.runtime.photo import Photo
    from vertebra.runtime.predictor import Predictor

READERS = 8  # threads that read photos by their paths
BATCH = 64  # rows of a call
_END = 4_096  # bytes at either end of a photo
# Of a thread. A half, so that what reads the dataset finds room, and actors of a node that has died do on the others.
CPUS_PER_THREAD = 0.5


def predict_dataset(
    dataset: Dataset,
    model: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "DEFAULT",
    column: str | None = None,
    top: int = 5,
    embed: bool = False,
    threads: int = 1,
    concurrency: int | None = None,
    engine: str = "auto",
    fast_jpeg: bool = False,
    bits: int | None = None,
) -> Dataset:
    """Classify the photos of a Ray dataset; lazy, as Ray Data is.

    The result has the dataset's columns, and `class_1`, `index_1`, `probability_1`, …, `error`; a row whose photo
    cannot be read has null in the others, and the reason in `error`. Torch is not needed on the nodes.

    Args:
        dataset: with a column of image bytes, or of structs with a field `bytes`, or else of paths or URIs.
        model: as `vertebra.load` takes it, or `s3://bucket/model.onnx`; the nodes are sent the exported file.
        weights: as `vertebra.load` takes them.
        column: of the photos or their paths; None: the one of bytes, found by type and name, else the one named `path`.
        top: number of classes, best first.
        embed: add the column `embedding`: the input of the classifier layer.
        threads: of each actor.
        concurrency: number of actors; None: one for each `threads` CPUs of the cluster.
        engine: as `vertebra.load` takes it; "auto" is measured once on each node.
        fast_jpeg: decode large JPEGs coarsely: faster, with slightly other results.
        bits: that 16-bit photos use; None: what the model's card says.

    Raises:
        UsageError: an argument is not allowed.
        MissingExtraError: Ray is not installed, or torch where the model has to be exported.
        VertebraError: the model cannot be used.
    """
    from vertebra.runtime.formats import JsonLines
    from vertebra.runtime.predictor import Predictor

    ray = ray_module()
    import pyarrow
    from ray import data

    require_positive_int("top", top)
    require_positive_int("threads", threads)
    if concurrency is not None:
        require_positive_int("concurrency", concurrency)
    if not isinstance(dataset, data.Dataset):
        raise UsageError(f"dataset is a {type(dataset).__name__}; it must be a ray.data.Dataset.")
    path = exported_file(resolve_model(os.fspath(model), "predict"), weights)
    card = Predictor(path, engine=engine, bits=bits).card
    on_nodes = NodeModel(
        path=str(path.absolute()),
        sha256=fingerprint(path),
        engine=engine,
        threads=threads,
        scaled=fast_jpeg,
        bits=bits,
    )
    top = top if card.classes is None else min(top, len(card.classes))
    form = JsonLines(top, embed, card.threshold is not None)
    known = dataset.schema(fetch_if_missing=False)  # else the actors look, whose errors come with Ray's traceback
    if known is not None and isinstance(known.base_schema, pyarrow.Schema):
        require_columns(known.base_schema, column, form)
    actors = concurrency or max(1, int(ray.cluster_resources().get("CPU", 1.0) // threads))
    return dataset.map_batches(
        DatasetActor,
        fn_constructor_args=(on_nodes, ray.put(path.read_bytes()), column, form, os.urandom(8).hex()),
        batch_size=BATCH,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT),
        num_cpus=CPUS_PER_THREAD * threads,  # what reads the dataset needs some, or all wait for ever
    )


class DatasetActor:
    """Holds the model; each call adds the result columns to a batch."""

    def __init__(self, model: NodeModel, content: Any, column: str | None, form: JsonLines, token: str) -> None:
        self._predictor: Predictor = model.load(content)
        self._predictor.runner(model.batch, tune=True)  # once a node: others wait for it
        self._column = column
        self._format = form
        self._token = token  # of this dataset

    def __call__(self, batch: Any) -> Any:
        """An Arrow table → the table with the result columns."""
        from vertebra.runtime.formats import to_row
        from vertebra.runtime.parquet_format import result_table
        from vertebra.runtime.photo import Photo
        from vertebra.runtime.prediction import Prediction

        form = self._format
        place, is_path = require_columns(batch.schema, self._column, form)
        try:
            with attempted(f"{self._token}-{_identity(batch, place)}", f"{batch.num_rows:,} rows") as attempt:
                attempt.decode_alone(
                    (photo.path, partial(self._decode, photo)) for photo in _photos(batch, place, is_path)
                )
                photos = (
                    Photo(photo.path, died_of(photo.path)) if photo.path in attempt.deadly else photo
                    for photo in _photos(batch, place, is_path)
                )
                results = self._predictor.predict_many(photos, top=form.top, embed=form.embed)
                found = result_table(map(to_row, results), form)
        except DeadlyWorkError as error:
            found = result_table([to_row(Prediction("", error=str(error)))] * batch.num_rows, form)
        found = found.drop_columns(["path"])
        for name in found.column_names:
            batch = batch.append_column(found.schema.field(name), found.column(name))
        return batch

    def _decode(self, photo: Photo) -> None:
        self._predictor.preprocess(photo.open(), photo.path)


def _identity(batch: Any, place: str) -> str:
    """Return what tells a batch from the others: a checksum of its paths, or of lengths and ends of its photos."""
    values = (value.as_py() for value in batch.column(place))
    contents = ((value.get("bytes") if isinstance(value, dict) else value) or b"" for value in values)
    ends = (text if isinstance(text, str) else b"%d " % len(text) + text[:_END] + text[-_END:] for text in contents)
    return checksum(*ends).hex()


def require_columns(schema: Any, column: str | None, form: JsonLines) -> tuple[str, bool]:
    """Return `photo_or_path_column`; a `UsageError` if the results have a column that an Arrow schema has already."""
    from vertebra.runtime.parquet_format import result_table

    found = photo_or_path_column(schema, column)
    for name in result_table([], form).drop_columns(["path"]).column_names:
        if name in schema.names:
            raise UsageError(f"the dataset has a column {name!r} already. Rename it: rename_columns({{{name!r}: …}}).")
    return found


def _photos(batch: Any, place: str, is_path: bool) -> Iterator[Photo]:
    """Yield the photos of an Arrow table's rows, from a column of bytes or of paths."""
    from vertebra.runtime.photo import Photo

    if is_path:
        paths = [value.as_py() for value in batch.column(place)]
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(_read, paths)
        return
    for number, value in enumerate(batch.column(place)):
        content = value.as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        name = f"row {number + 1} of its batch"
        yield Photo(name, content=content) if content else Photo(name, error=f"{name} has no bytes in {place!r}.")


def _read(path: str | None) -> Photo:
    from vertebra.runtime.photo import Photo

    if not path:
        return Photo("", error="the row has no path.")
    try:
        return Photo(path, content=Location(path).read_bytes())
    except VertebraError as error:
        return Photo(path, error=str(error))


def photo_or_path_column(schema: Any, column: str | None) -> tuple[str, bool]:
    """Return the column of the photos in an Arrow schema, and whether it has paths.

    Raises:
        UsageError: there is none, or several.
    """
    there = f"it has {', '.join(map(repr, schema.names))}"
    if column is not None and column not in schema.names:
        raise UsageError(f"the dataset has no column {column!r}; {there}.")
    photo = photo_column(schema, "the dataset", column, option=lambda name: f"column={name!r}")
    if photo is not None:
        return photo, False
    texts = text_columns(schema)
    path = name_column(texts) if column is None else column if column in texts else None
    if path is None:
        raise UsageError(f"the dataset has no column of image bytes or paths; {there}. Say which: column=…")
    return path, True
