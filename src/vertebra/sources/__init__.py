"""Photos by the million, in chunks: folders, tables of paths, Parquet with image bytes and WebDataset shards."""
