"""Imports flow one way, and what is not installed or not needed is not imported.

CONTRIBUTING.md shows the table of rooms below; `python tests/test_imports.py` writes it there.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vertebra

SOURCE = Path(vertebra.__file__).parent
BASE = {"errors", "units", "intervals", "protobuf", "card", "cache", "model_checksum", "files", "machine"}
BASE |= {"photo_files", "file_kinds", "decoding", "decoding_errors", "decoding_notes", "rgb_conversion", "pillow_tiles"}
BASE |= {
    "bit_depth",
    "bit_scaling",
    "pixels",
    "pillow_memory",
    "resizing",
    "synthetic_photos",
    "signals",
    "strict_json",
}
BASE |= {"model_table", "model_argument", "preprocessing", "progress", "timm_names", "weight_files", "weight_transfer"}
BASE |= {"imagenet", "run_files", "text_width", "torch_archives", "callable_module", "malloc", "web_opener"}
BASE |= {"missing_photos", "photo_download", "prefetch"}

# Room (or module at the top) -> rooms that it may import. The table of the design, and nothing else.
ROOMS = {
    "errors": set(),
    "callable_module": set(),
    "signals": set(),
    "units": {"errors"},
    "intervals": set(),
    "protobuf": set(),
    "preprocessing": {"errors"},
    "card": {"errors", "preprocessing", "protobuf", "strict_json"},
    "files": {"errors"},
    "file_kinds": set(),
    "photo_files": {"errors", "file_kinds"},
    "strict_json": {"errors"},
    "cache": {"errors", "files"},
    "imagenet": set(),
    "model_table": {"errors", "timm_names", "units"},
    "timm_names": {"errors"},
    "progress": {"errors", "units"},
    "web_opener": set(),
    "text_width": set(),
    "weight_transfer": {"errors", "files", "units", "progress", "web_opener"},
    "weight_files": {"errors", "cache", "files", "weight_transfer"},
    "model_checksum": {"errors", "card", "cache", "protobuf"},
    "machine": {"errors"},
    "malloc": set(),
    "model_function": {"errors"},
    "run_files": {"errors", "card", "model_table"},
    "missing_photos": {"errors", "model_table", "timm_names"},
    "torch_archives": set(),
    "prefetch": {"errors"},
    "photo_download": {"errors", "units", "web_opener", "__init__"},  # the last for its version
    "model_argument": {"errors", "card", "files", "model_function", "model_table", "run_files", "timm_names"}
    | {"torch_archives", "storage"},  # the last for remote files
    "pillow_tiles": set(),
    "bit_depth": {"errors", "pillow_tiles"},
    "bit_scaling": {"preprocessing", "bit_depth", "pillow_tiles"},
    "rgb_conversion": {"preprocessing", "bit_depth", "bit_scaling", "pillow_tiles"},
    "decoding_errors": {"errors", "bit_depth", "file_kinds", "photo_files"},
    "decoding": {"errors", "preprocessing", "bit_depth", "bit_scaling", "decoding_errors", "file_kinds", "photo_files"}
    | {"pillow_tiles", "rgb_conversion"},
    "pixels": {"decoding", "decoding_notes", "preprocessing", "resizing"},
    "pillow_memory": set(),
    "resizing": {"pillow_memory"},
    "decoding_notes": {"preprocessing", "bit_scaling", "decoding", "rgb_conversion", "units"},
    "synthetic_photos": {"pixels"},
    "report": BASE | {"storage", "sources", "__init__"},  # the last for its version
    "models": BASE,
    "graph": BASE | {"models"},
    "anatomy": BASE | {"models", "graph"},
    "introspect": BASE | {"models", "graph"},
    "explore": BASE | {"introspect", "anatomy", "models", "graph", "report", "runtime"},
    "lab": BASE | {"introspect", "anatomy", "train", "models", "graph", "data", "report", "__init__"},
    "storage": {"errors", "cache", "files", "photo_files", "units"},
    "sources": BASE | {"storage"},
    "cluster": BASE | {"storage", "sources", "runtime", "loading", "__init__"},  # the last for its version
    "data": BASE | {"runtime", "report", "storage", "sources"},
    "export": BASE | {"models", "graph", "__init__"},  # the last for its version
    "runtime": BASE | {"__init__"},  # for its version
    "cpu_kernels": {"cache", "files", "machine", "models"},
    "train": BASE
    | {"cpu_kernels", "report", "models", "data", "export", "runtime", "loading", "__init__"}
    | {"storage", "sources", "cluster"},
    "serve": BASE | {"graph", "runtime", "loading", "storage", "__init__"},
    "bench": BASE | {"__init__", "models", "export", "runtime", "loading"},
    "loading": BASE | {"__init__", "runtime", "export"},
    "__init__": BASE,  # all else is loaded on first use
    "__main__": {"cli"},
}

# Room -> packages from outside that it may import.
PACKAGES = {
    "errors": set(),
    "callable_module": set(),
    "signals": set(),
    "units": set(),
    "intervals": set(),
    "protobuf": set(),
    "preprocessing": set(),
    "card": set(),
    "model_checksum": set(),
    "model_table": set(),
    "timm_names": set(),
    "progress": {"rich"},
    "web_opener": set(),
    "text_width": set(),
    "weight_transfer": set(),
    "weight_files": set(),
    "files": {"filelock"},
    "file_kinds": set(),
    "photo_files": set(),
    "strict_json": set(),
    "cache": set(),
    "machine": set(),
    "malloc": set(),
    "imagenet": set(),
    "model_function": set(),
    "model_argument": set(),
    "run_files": set(),
    "missing_photos": set(),
    "prefetch": set(),
    "photo_download": set(),
    "torch_archives": set(),
    "pillow_tiles": {"PIL"},
    "bit_depth": {"PIL"},
    "bit_scaling": {"numpy", "PIL"},
    "rgb_conversion": {"PIL"},
    "decoding_errors": {"PIL"},
    "decoding": {"PIL", "pillow_heif"},  # the last for HEIC
    "pixels": {"numpy", "PIL"},
    "pillow_memory": {"numpy", "PIL"},
    "resizing": {"numpy", "PIL", "vertebra_kernels"},
    "decoding_notes": set(),
    "synthetic_photos": {"numpy"},
    "models": {"torch", "safetensors", "numpy", "PIL"},
    "graph": {"torch", "numpy", "onnx"},
    "anatomy": {"torch", "numpy", "pandas", "onnx", "onnxruntime", "matplotlib"},
    "introspect": {"torch", "numpy"},
    "explore": {"torch", "numpy", "PIL"},
    "lab": {"torch", "numpy", "PIL", "sklearn", "matplotlib"},
    "report": {"PIL", "jinja2", "markupsafe"},
    "storage": {"pyarrow"},
    "sources": {"numpy", "pyarrow"},
    "cluster": {"numpy", "pyarrow", "ray"},
    "data": {"numpy", "PIL", "pyarrow", "sklearn", "torchvision"},  # the last three for what needs them
    "export": {"torch", "onnx", "onnxruntime", "numpy"},
    "runtime": {"numpy", "PIL", "onnxruntime", "MNN", "vertebra_kernels", "pyarrow"},
    "bench": {"numpy", "torch", "onnxruntime"},
    "loading": {"torch"},
    "cpu_kernels": {"torch"},
    "train": {"torch", "torchvision", "safetensors", "numpy", "PIL"},
    "serve": {"fastapi", "starlette", "uvicorn", "httptools", "pydantic", "prometheus_client", "orjson"}
    | {"numpy", "PIL", "python_multipart"},
    "__init__": set(),
    "__main__": set(),
}
# A command imports what it needs when it runs; at the top of a module only these.
CLI_AT_THE_TOP = BASE | {"cli", "__init__"}
CLI_PACKAGES_AT_THE_TOP = {"typer"}

FILES = sorted(SOURCE.rglob("*.py"))

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
ROOMS_MARKS = "<!-- rooms -->\n", "<!-- /rooms -->"


def module_of(path):
    """('vertebra', 'models', 'vgg') for src/vertebra/models/vgg.py, and whether it is a package."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return (parts[:-1], True) if parts[-1] == "__init__" else (parts, False)


def room_of(module):
    return module[1] if len(module) > 1 else "__init__"


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path, names=False, types=False):
    """Each (imported module as a tuple, at the top level of the module?, line); also those inside functions.

    `names` gives what is imported from a module with the module's own name before it; `types` also gives what is
    imported for type checking alone.
    """
    module, is_package = module_of(path)

    def walk(node, top):
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child) and not types:
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield tuple(alias.name.split(".")), top, child.lineno
            elif isinstance(child, ast.ImportFrom):
                base = tuple(child.module.split(".")) if child.module else ()
                if child.level:
                    package = module if is_package else module[:-1]
                    base = package[: len(package) - child.level + 1] + base
                if names or base == ("vertebra",):
                    for alias in child.names:
                        yield (*base, alias.name), top, child.lineno
                else:
                    yield base, top, child.lineno
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def target_room(imported):
    """The room of an import from vertebra. A public name such as `vertebra.__version__` belongs to `__init__`."""
    name = room_of(imported)
    is_module = (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()
    return name if is_module else "__init__"


def violations(path):
    module, _ = module_of(path)
    room = room_of(module)
    for imported, top, line in imports(path):
        where = f"{path.relative_to(SOURCE.parent)}:{line} imports {'.'.join(imported)}"
        if imported[0] == "vertebra":
            target = target_room(imported)
            if room == "cli":
                allowed = CLI_AT_THE_TOP if top else ROOMS.keys() | {"cli"}
            else:
                allowed = ROOMS[room] | {room}
            if target not in allowed:
                yield where
        elif imported[0] not in sys.stdlib_module_names and imported[0] != "__future__":
            if room == "cli":
                if top and imported[0] not in CLI_PACKAGES_AT_THE_TOP:
                    yield f"{where} at the top"
            elif imported[0] not in PACKAGES[room]:
                yield where


def private_imports():
    """ "importing file: module or name", for each that begins with an underscore and belongs to another room."""
    for path in FILES:
        room = room_of(module_of(path)[0])
        for imported, _, _ in imports(path, names=True, types=True):
            private = [part for part in imported if part.startswith("_") and not part.startswith("__")]
            if imported[0] == "vertebra" and private and target_room(imported) != room:
                yield room, target_room(imported), f"{path.relative_to(SOURCE)} imports {'.'.join(imported)}"


def cycles(room):
    """The modules of a room that import each other in a circle, sorted; imports inside functions count as well."""
    modules = {module_of(path)[0]: path for path in FILES if room_of(module_of(path)[0]) == room}
    follows = {
        module: {
            imported if imported in modules else imported[:-1]
            for imported, _, _ in imports(path, names=True)
            if (imported in modules or imported[:-1] in modules) and module not in (imported, imported[:-1])
        }
        for module, path in modules.items()
    }
    reached = {module: set(targets) for module, targets in follows.items()}
    while True:
        further = {module: targets.union(*(reached[t] for t in targets)) for module, targets in reached.items()}
        if further == reached:
            return sorted(module[-1] for module, targets in reached.items() if module in targets)
        reached = further


def rooms_table():
    """The rooms as a Markdown table: what the first line of each says, and what it may import."""
    lines = ["| room | what it holds | of Vertebra | of other packages |", "| --- | --- | --- | --- |"]
    for room in (*sorted(BASE), *(room for room in ROOMS if room not in BASE and not room.startswith("__")), "cli"):
        path = SOURCE / room / "__init__.py" if (SOURCE / room).is_dir() else SOURCE / f"{room}.py"
        holds = " ".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split("\n\n")[0].split())
        if room == "cli":
            lines.append(f"| `cli/` | {holds} | all, inside a command | all, inside a command; typer at the top |")
            continue
        others = ROOMS[room] - {"__init__"}
        whole = others >= BASE  # those at the top, which come first
        named = ["those at the top"] * whole + [f"`{name}`" for name in sorted(others - BASE if whole else others)]
        packages = ", ".join(sorted(PACKAGES[room], key=str.lower))
        name = f"{room}/" if (SOURCE / room).is_dir() else room
        lines.append(f"| `{name}` | {holds} | {', '.join(named) or '-'} | {packages or '-'} |")
    return "\n".join(lines) + "\n"


def with_rooms(text):
    """The text of CONTRIBUTING.md with the table of today."""
    before, rest = text.split(ROOMS_MARKS[0])
    return before + ROOMS_MARKS[0] + rooms_table() + ROOMS_MARKS[1] + rest.split(ROOMS_MARKS[1])[1]


def test_contributing_has_the_rooms_of_today():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    assert text == with_rooms(text), "CONTRIBUTING.md is stale. Run: .venv/bin/python tests/test_imports.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_flow_one_way(path):
    assert list(violations(path)) == []


def test_no_room_imports_what_is_private_to_another():
    assert list(private_imports()) == []


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - BASE | {"cli"}))
def test_no_modules_of_a_room_import_each_other_in_a_circle(room):
    assert not cycles(room)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("runtime/new.py", "import torch"),
        ("runtime/new.py", "def f():\n    import torch.nn"),
        ("runtime/new.py", "from vertebra.models import resnet50"),
        ("runtime/new.py", "from ..models import resnet50"),
        ("models/new.py", "from vertebra import anatomy, runtime"),
        ("models/new.py", "from vertebra.runtime.predictor import Predictor"),
        ("models/new.py", "import torchvision"),
        ("serve/new.py", "import torch"),
        ("errors.py", "import numpy"),
        ("card.py", "from . import models"),
        ("cli/new.py", "import torch"),
        ("cli/new.py", "import rich"),
        ("cli/new.py", "from vertebra.models import resnet50"),
        ("cli/new.py", "from vertebra import models"),
        ("__init__.py", "from vertebra.models import create_model"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path, monkeypatch, place, line):
    root = tmp_path / "vertebra"
    for folder in (*ROOMS.keys() - {"__init__", "__main__", "loading"} - BASE, "cli"):
        (root / folder).mkdir(parents=True)
    path = root / place
    path.write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", root)
    assert list(violations(path))


def test_a_circle_and_a_private_import_are_seen(tmp_path, monkeypatch):
    root = tmp_path / "vertebra"
    for place, line in {
        "serve/__init__.py": "",
        "serve/one.py": "def f():\n    from .two import g",
        "serve/two.py": "from . import three",
        "serve/three.py": "from vertebra.serve.one import f",
        "serve/four.py": "from .one import f\nfrom vertebra.runtime import _new\nfrom ..runtime.old import _name, x",
        "runtime/_new.py": "",
        "runtime/old.py": "from ._new import x",
    }.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", root)
    monkeypatch.setattr(sys.modules[__name__], "FILES", sorted(root.rglob("*.py")))
    assert cycles("serve") == ["one", "three", "two"]
    assert cycles("runtime") == []
    assert [where for _, _, where in private_imports()] == [
        "serve/four.py imports vertebra.runtime._new",
        "serve/four.py imports vertebra.runtime.old._name",
    ]


def test_in_graph_the_tracer_alone_imports_torch_and_the_networks():
    for path in (SOURCE / "graph").glob("*.py"):
        packages = {imported[0] for imported, _, _ in imports(path)} & {"torch"}
        rooms = {target_room(imported) for imported, _, _ in imports(path) if imported[0] == "vertebra"} & {"models"}
        assert (packages | rooms == {"torch", "models"}) if path.stem == "trace" else not packages | rooms, path


def test_exports_name_their_modules_and_extras():
    extras = re.findall(r"^(\w+) = \[", (SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)
    for module, extra in vertebra._EXPORTS.values():
        assert target_room(tuple(module.split("."))) in ROOMS
        assert extra is None or extra in extras
    assert set(vertebra._EXPORTS) <= set(vertebra.__all__) == set(dir(vertebra)) & set(vertebra.__all__)


def test_the_words_name_modules_that_exist():
    words = CONTRIBUTING.read_text("utf-8").partition("## Words")[2].partition("\n## ")[0]
    places = re.findall(r"`([\w/]+)`(?=[^|]*\|$)", words, flags=re.MULTILINE)
    assert len(places) > 20
    assert [place for place in places if not list(SOURCE.glob(f"{place.rstrip('/')}*"))] == []


def test_the_architecture_page_names_modules_that_exist():
    missing, count = [], 0
    for line in (CONTRIBUTING.parent / "docs" / "architecture.md").read_text("utf-8").splitlines():
        room = ""  # a module without a folder is at the top, or in the room that the line has named last
        for folder, name in re.findall(r"`(?!tests/)(\w+/)?(\w+\.py)`", line):
            room, count = folder or room, count + 1
            found = [SOURCE / folder / name] if folder else [SOURCE / name, SOURCE / room / name]
            missing += [folder + name] * (not any(path.is_file() for path in found))
    assert count > 40
    assert missing == []


# --- in a process of its own ---------------------------------------------------------------------------------------


def run(code, *blocked):
    """Run Python in a new process in which the blocked packages cannot be imported; its output."""
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, timeout=120, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = ("torch", "torchvision", "numpy", "onnxruntime", "PIL", "rich", "pydantic", "sklearn", "matplotlib")


def test_importing_vertebra_loads_nothing_heavy():
    assert run(f"import vertebra, sys; print(*[name for name in {HEAVY} if name in sys.modules])") == ""


def test_import_works_without_torch_and_a_torch_feature_says_what_to_install():
    code = """
import vertebra
print(vertebra.__version__)
for name, (_, extra) in vertebra._EXPORTS.items():
    if extra != "torch":
        continue
    try:
        getattr(vertebra, name)
    except vertebra.VertebraError as error:
        assert isinstance(error, ImportError), error
        rooms = ("models", "anatomy", "explore", "export")
        assert str(error).startswith(tuple(f"vertebra.{room} needs" for room in rooms)), error
        assert "pip install 'vertebra[torch]'" in str(error), error
    else:
        raise SystemExit(f"{name} needs no torch?")
try:
    from vertebra.models import resnet50
except vertebra.VertebraError as error:
    print(error)
"""
    version, message = run(code, "torch").splitlines()
    assert version == vertebra.__version__
    assert message == "vertebra.models needs packages that are not installed. Run: pip install 'vertebra[torch]'"


def test_another_package_of_the_extra_that_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(vertebra._EXPORTS, "lacking", ("no_such_package_anywhere", "train"))
    monkeypatch.setitem(vertebra.errors.EXTRAS, "train", ("no_such_package_anywhere",))
    with pytest.raises(vertebra.errors.MissingExtraError, match=r"vertebra\.lacking needs .*'vertebra\[train\]'"):
        _ = vertebra.lacking


def test_the_runtime_never_loads_torch():
    code = "import vertebra.pixels, sys; print('torch' in sys.modules)"
    assert run(code) == "False"
    assert run(code.replace("'torch' in sys.modules", "'works'"), "torch") == "works"


def test_a_few_photos_are_predicted_without_what_a_file_does_not_need():
    # Each takes milliseconds of a command that takes a few hundred.
    names = ("vertebra.model_table", "vertebra.timm_names", "vertebra.runtime.autotune", "vertebra.runtime.mnn_engine")
    code = "import sys, vertebra.cli.predict, vertebra.loading, vertebra.runtime.photo_paths"
    assert run(f"{code}; print([name for name in {names} if name in sys.modules])") == "[]"


def test_a_probe_and_an_anatomy_do_without_torchs_compiler(tiny_command):
    # Importing it takes 1.5 s; optimisers and many operations on the meta device do so at their first use.
    code = (
        "import sys, tempfile, pathlib, numpy, vertebra\n"
        f"sys.path.insert(0, {str(Path(tiny_command).parent)!r})\n"
        "from tiny import tiny_names\n"
        "from vertebra.export import export, prepare\n"
        "from vertebra.train.linear_head import cross_validate\n"
        "for name in ('efficientnet_lite0', 'googlenet', 'densenet121', 'vgg11_bn'):\n"
        "    with tempfile.TemporaryDirectory() as folder, tiny_names():\n"
        "        export(prepare(name, weights=None), pathlib.Path(folder) / 'x.onnx')\n"
        "for name in ('efficientnet_b0', 'efficientnet_lite0', 'googlenet', 'densenet121', 'mobilenet_v2', 'vgg11'):\n"
        "    vertebra.anatomy(name)\n"  # torch's own rules for the meta device would import its compiler
        "random = numpy.random.default_rng(0)\n"
        "features = random.normal(0, 1, (60, 5)).astype('float32')\n"
        "cross_validate(features, numpy.arange(60) % 3, numpy.arange(60) // 3 % 2, 3)\n"
        "print(*[name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    assert run(code) == ""


def test_onnx_runtime_writes_nothing_down_for_its_maker(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    (tmp_path / "relu.onnx").write_bytes(model.SerializeToString())
    code = f"import vertebra, onnxruntime; onnxruntime.InferenceSession({str(tmp_path / 'relu.onnx')!r}); print('ran')"
    assert run(code) == "ran"
    assert [path.name for path in tmp_path.rglob("*")] == ["relu.onnx"]


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra(monkeypatch):
    monkeypatch.setitem(vertebra._EXPORTS, "absent", ("vertebra.absent", "torch"))
    with pytest.raises(ModuleNotFoundError, match=r"vertebra\.absent") as caught:
        _ = vertebra.absent
    assert not isinstance(caught.value, vertebra.VertebraError)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = vertebra.creat_model


def test_help_loads_nothing_heavy():
    code = f"""
import sys
from vertebra.cli import main
code = main(["--help"])
print("LOADED", code, *[name for name in {HEAVY} if name in sys.modules])
"""
    output = run(code)
    assert "predict" in output
    assert output.splitlines()[-1] == "LOADED 0"


if __name__ == "__main__":
    CONTRIBUTING.write_text(with_rooms(CONTRIBUTING.read_text(encoding="utf-8")), encoding="utf-8")
