"""Files are written in one place: no module writes by itself, but for the exceptions here, each with its reason."""

import ast
from pathlib import Path

import pytest

import vertebra

SOURCE = Path(vertebra.__file__).parent

# Calls that write, by the last part of their name; those that only do for some arguments are looked at below.
WRITERS = {
    *("savefig", "save_file", "to_csv", "to_parquet", "touch", "SummaryWriter"),
    *("copyfile", "copy", "copy2", "copytree", "copyfileobj", "move", "rename", "renames", "rmtree"),
    *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile"),
    *("link", "symlink", "symlink_to", "hardlink_to", "truncate", "ftruncate", "ParquetWriter", "write_table"),
}
MODULES = {"shutil", "os", "tempfile", "torch", "onnx", "numpy", "np"}  # whose functions are told from methods
OF_MODULES = {"copy": {"shutil"}, "move": {"shutil"}, "link": {"os"}, "rename": {"os"}, "truncate": {"os"}}
SAVERS = {"torch", "onnx"}  # whose `save` takes a path

# (file, what is called) -> why it may.
EXCEPTIONS = {
    ("anatomy/measurement.py", "TemporaryDirectory"): "the profiler's own files, read and removed at once",
    ("cpu_kernels/c_compiler.py", "TemporaryDirectory"): "of the compiler's, for object files; removed at once",
    ("bench/timing.py", "TemporaryDirectory"): "what is measured; removed at the end",
    ("bench/timing.py", "open"): "the null device, for what libraries print",
    ("bench/network_files.py", "save"): "into that folder",
    ("runtime/mnn_engine.py", "TemporaryDirectory"): "where MNN's converter runs, for what it leaves; removed at once",
    ("bench/backends.py", "TemporaryDirectory"): "what other tools convert; removed at once",
    ("lab/picture.py", "savefig"): "into memory; the result writes it",
    ("loading.py", "mkdtemp"): "a folder in that one, for a network of one's own that is exported for one run",
    ("cache.py", "mkdtemp"): "a process's own, for what the cache cannot keep; it goes with the process",
    ("data/named_datasets.py", "mkdtemp"): "a folder of photos, which takes its name once it is whole",
    ("data/named_datasets.py", "replace"): "that name",
    ("cluster/worker_deaths.py", "rmtree"): "what processes left that died",
    ("data/named_datasets.py", "rmtree"): "what is left of one that failed",
    ("data/named_datasets.py", "link"): "its photos",
    ("data/named_datasets.py", "copyfile"): "its photos",
    ("data/named_datasets.py", "save"): "its photos",
    ("weight_transfer.py", "open"): "a download that is resumed; hashed, synced, then renamed",
    ("weight_transfer.py", "write_text"): "the version on the server of that partial file, which a damaged note costs",
    ("weight_transfer.py", "truncate"): "that partial file, from the start again",
    ("weight_files.py", "replace"): "the name of a download that is whole and synced",
    ("weight_files.py", "rename"): "a damaged file is put aside while it is fetched again",
    ("sources/listing.py", "mkdtemp"): "a folder in the process's own, for a list that no other machine reads",
    ("sources/listing.py", "write_table"): "into memory; the location writes it",
    ("storage/local_cache.py", "truncate"): "the new file of `atomic_write`, to its size before it is downloaded",
    ("sources/shard_cache.py", "truncate"): "the new file of `atomic_write`, to about its size before it is written",
    ("runtime/parquet_format.py", "ParquetWriter"): "into the new file that its caller has of `atomic_write`",
    ("runtime/parquet_format.py", "write_table"): "into that file",
    ("runtime/result_file.py", "open"): "whether the results' file can be written, before it is emptied",
    ("runtime/result_file.py", "write_bytes"): "which empties it",
    ("runtime/result_file.py", "truncate"): "half a line that a killed process has left",
    ("runtime/kernels_engine.py", "write_bytes"): "into the new file of `atomic_write`",
    ("runtime/mnn_engine.py", "open"): "the null device, for what a library prints",
    ("cluster/worker_deaths.py", "write_bytes"): "into that folder",
    ("cluster/worker_deaths.py", "TemporaryDirectory"): "of an attempt, for its own files; removed at once",
    ("cluster/parts.py", "open"): "a process's own file, whose content `Location.write_file` makes a part",
    ("cluster/ray_connection.py", "open"): "the null device, for what a library prints",
    ("cli/__init__.py", "open"): "the null device, for a reader who has gone",
    ("cli/_standard_streams.py", "open"): "the null device, for streams that the caller has closed",
    ("train/logistic_regression.py", "TemporaryFile"): "logits that memory does not hold; gone with the fit",
    ("train/training_log.py", "SummaryWriter"): "TensorBoard appends to files of its own format",
}


def name_of(call):
    """The last part of what is called, and what it is called on."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, ast.unparse(call.func.value)
    return (call.func.id, "") if isinstance(call.func, ast.Name) else ("", "")


def writes(call):
    """Whether the call writes a file, as far as its text tells."""
    name, of = name_of(call)
    texts = [ast.unparse(argument) for argument in [*call.args, *(keyword.value for keyword in call.keywords)]]
    if name == "open":
        if of == "os":
            return any(flag in text for text in texts for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
        values = [
            node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        return any(value and set(value) <= set("rwaxbt+") and set(value) & set("wax+") for value in values)
    if name == "save":
        return of in SAVERS or (not of.startswith("self") and len(call.args) == 1 and "/" in texts[0])
    if name == "replace":
        return of == "os" or (len(call.args) == 1 and not call.keywords)  # text.replace takes two
    if name in ("write_text", "write_bytes"):
        return bool(of)  # a path's; a function of that name is one of ours
    if name in OF_MODULES:
        return of in OF_MODULES[name] or (name in ("rename", "truncate") and of not in MODULES)
    return name in WRITERS


def written_by_itself(source):
    """(what is called, line) of each call that writes, but for those to the new file that `atomic_write` gives."""
    found = []

    def walk(node, given):
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and name_of(call)[0] == "atomic_write" and item.optional_vars is not None:
                    given = given | {ast.unparse(item.optional_vars)}
                else:
                    walk(item, given)
            for child in node.body:
                walk(child, given)
            return
        if isinstance(node, ast.Call) and writes(node):
            names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
            if not names & given:
                found.append((name_of(node)[0], node.lineno))
        for child in ast.iter_child_nodes(node):
            walk(child, given)

    walk(ast.parse(source), frozenset())
    return found


def test_no_module_writes_by_itself():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        if file != "files.py":
            for what, line in written_by_itself(path.read_text(encoding="utf-8")):
                found.setdefault((file, what), []).append(line)
    new = {place: lines for place, lines in found.items() if place not in EXCEPTIONS}
    assert not new, (
        "write with vertebra.files (write_durably, atomic_write, AppendOnlyFile), "
        f"or add an exception with its reason: {new}"
    )
    assert not EXCEPTIONS.keys() - found.keys(), "exceptions that nothing needs any more"


@pytest.mark.parametrize(
    "text",
    [
        "open(path, 'w')",
        "path.open('ab', buffering=0)",
        "open(path, mode='r+b')",
        "path.write_text('')",
        "torch.save(state, path)",
        "save_file(tensors, path)",
        "figure.savefig(path)",
        "shutil.copyfile(one, other)",
        "os.replace(one, other)",
        "temporary.replace(path)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "tempfile.mkstemp()",
        "picture.save(folder / 'a.png')",
        "with atomic_write(path) as temporary:\n    other.write_bytes(b'')",
    ],
)
def test_what_writes(text):
    assert written_by_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "open(path)",
        "path.open('rb')",
        "text.replace('a', 'b')",
        "replace(settings, size=1)",
        "values.copy()",
        "cache.save()",
        "picture.save(buffer, 'PNG')",
        "with atomic_write(path) as temporary, temporary.open('wb') as file:\n    file.write(b'')",
        "with atomic_write(path, durable=True) as new:\n    save_file(tensors, new)",
    ],
)
def test_what_does_not(text):
    assert not written_by_itself(text)
