"""Photos by the million, in chunks: folders, tables of paths, Parquet with image bytes and WebDataset shards."""

from .chunks import Chunk, Record, Source
from .open_source import open_source

__all__ = ["Chunk", "Record", "Source", "open_source"]
