"""Class folders packed as WebDataset shards and as Parquet with bytes, in the order in which folders are read."""

import io
import json
import tarfile


def photos_of(folder):
    """(path, label) of each photo of class folders, in the order in which they are read."""
    return [(path, path.parent.name) for path in sorted(folder.glob("*/*"))]


def pack_tar(path, entries, sidecar="cls"):
    """A shard of (name, content, label); a label of None has no sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for name, content, label in entries:
            add(name, content)
            stem = name.rpartition(".")[0]
            if label is not None and sidecar == "cls":
                add(f"{stem}.cls", str(label).encode())
            elif label is not None:
                add(f"{stem}.json", json.dumps({"label": label, "url": "x"}).encode())
    return path


def pack_shards(folder, out, per_shard=10, prefix="", **options):
    """Shards of so many photos each."""
    found = [(f"{label}-{path.name}", path.read_bytes(), label) for path, label in photos_of(folder)]
    for number, start in enumerate(range(0, len(found), per_shard)):
        pack_tar(out / f"{prefix}{number:03}.tar", found[start : start + per_shard], **options)
    return out


def pack_parquet(path, entries, names=None, row_group_size=4, struct=True):
    """A Parquet file of (path, content, label); with `names` labels are their indices, as Hugging Face writes them."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": name} if struct else content for name, content, _ in entries]
    labels = [label if names is None or label is None else names.index(label) for _, _, label in entries]
    table = pyarrow.table({"image": images, "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=row_group_size)
    return path
