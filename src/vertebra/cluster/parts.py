"""One chunk's results as one file, with the columns and the escaping of a results file that one machine writes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

from vertebra.runtime.formats import Csv, JsonLines, to_row
from vertebra.runtime.parquet_format import write_parquet
from vertebra.runtime.prediction import Prediction

SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class PartFormat:
    """What the parts of a run look like."""

    suffix: str
    top: int
    embed: bool
    unsure: bool

    def name(self, number: int) -> str:
        """The name of a part, the same for the same chunk: `part-000007.parquet`."""
        return f"part-{number:06}{self.suffix}"

    def encode(self, results: Iterable[Prediction]) -> tuple[bytes, int, int]:
        """Return the content of a part, its rows, and those of them with an error."""
        format = (Csv if self.suffix == ".csv" else JsonLines)(self.top, self.embed, self.unsure)
        rows = errors = 0
        file = io.BytesIO()

        def counted() -> Iterable[Prediction]:
            nonlocal rows, errors
            for result in results:
                rows += 1
                errors += result.error is not None
                yield result

        if self.suffix == ".parquet":
            write_parquet(file, map(to_row, counted()), format)
        else:
            file.write(format.head)
            file.writelines(map(format.line, counted()))
        return file.getvalue(), rows, errors
