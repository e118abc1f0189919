"""What a MODEL argument is, and the functions that it may name. Without torch where no function is called."""

import os
import subprocess
import sys

import pytest

from vertebra.errors import UsageError, VertebraError, VertebraWarning
from vertebra.model_argument import ACCEPTED, ModelKind, resolve_model, takes
from vertebra.timm_names import TAGS

ANYTHING = "anything"


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_model):
    """A working folder with a model of each kind; a command that takes all kinds; modules that go afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ACCEPTED, ANYTHING, frozenset(ModelKind))
    content = tiny_model.read_bytes()
    for name in (
        "m.onnx",
        "M2.ONNX",
        "odd: name.onnx",
        "model",
        "run/model.onnx",
        "run 2/model.onnx",
        "runs/a/model.onnx",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name in ("run/settings.toml", "run/metrics.json", "run/weights.safetensors", "w.PTH", "w.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "plain").write_bytes(b"PK\x03\x04")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 no model")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    before = set(sys.modules)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("net", "pkg", "_net") or name.startswith("_vertebra_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("resnet18", ModelKind.NETWORK, "resnet18"),
        ("ResNet18", ModelKind.NETWORK, "resnet18"),
        ("resnet-18", ModelKind.NETWORK, "resnet-18"),  # no network; the registry knows what is near
        ("m.onnx", ModelKind.EXPORTED, "m"),
        ("./m.onnx", ModelKind.EXPORTED, "m"),
        ("M2.ONNX", ModelKind.EXPORTED, "M2"),
        ("odd: name.onnx", ModelKind.EXPORTED, "odd: name"),
        ("model", ModelKind.EXPORTED, "model"),  # by its content
        ("plain", ModelKind.WEIGHTS, "plain"),
        ("run", ModelKind.RUN, "run"),
        ("run/", ModelKind.RUN, "run"),
        ("run 2", ModelKind.RUN, "run 2"),
        ("w.PTH", ModelKind.WEIGHTS, "w"),
        ("run/weights.safetensors", ModelKind.WEIGHTS, "weights"),
        ("pkg.net:build", ModelKind.FUNCTION, "build"),
        ("pkg.net:Net.make", ModelKind.FUNCTION, "Net.make"),
    ],
)
def test_what_a_model_is(place, text, kind, name):
    found = resolve_model(text, ANYTHING)
    assert (found.kind, found.name) == (kind, name)


def test_a_tag_of_timm_is_no_mistyped_suffix(place):
    for name, tags in TAGS.items():
        (place / f"{name}.onnx").touch()
        for tag in tags:
            assert resolve_model(f"{name}.{tag}", ANYTHING).kind is ModelKind.NETWORK


def test_the_folder_itself_may_be_a_run(place, monkeypatch):
    monkeypatch.chdir(place / "run")
    assert (resolve_model(".", ANYTHING).kind, resolve_model(".", ANYTHING).name) == (ModelKind.RUN, "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the MODEL is empty"),
        ("  ", "the MODEL is empty"),
        ("none.onnx", r"none\.onnx: no such file\. Make one with: vertebra export NAME --out none\.onnx"),
        ("mm.onnx", r"mm\.onnx: no such file\. Did you mean 'm\.onnx'"),
        ("m.onx", r"m\.onx: no such file or folder\. Did you mean 'm\.onnx'"),
        ("run/modell.ONX", r"modell\.ONX: no such file or folder\. Did you mean 'model\.onnx'"),
        ("w.pht", r"w\.pht: no such file or folder\. Did you mean 'w\.PTH'"),
        ("none.onx", r"none\.onx: no such file or folder\. vertebra anything takes"),
        ("w2.pth", r"w2\.pth: no such file or folder\. Did you mean 'w\.PTH'"),
        ("./resnet18", r"\./resnet18: no such file or folder\. The network of that name is written resnet18"),
        ("hf-hub:timm/resnet50.tv2_in1k", r"no such file or folder\. The network .* is written resnet50\.tv2_in1k"),
        ("./nothing", r"\./nothing: no such file or folder\. vertebra anything takes"),
        ("runs", r"runs is no run: .* Name the run in it: runs/a"),
        ("photos", r"photos is no run: it has no model\.onnx and no settings\.toml"),
        ("photo.jpg", r"photo\.jpg is no model: neither a file that `vertebra export` wrote"),
        ("https://example.org/m.onnx", "is a web address, and no model is taken from there"),
        ("ftp://host/m.onnx", "is a web address"),
        ("net.py:build", r"net\.py: no such file"),
        ("C:\\code\\net.py:build", r"net\.py: no such file"),
        ("net.py::build", r"is written with one colon: net\.py:build"),
        ("two words", "'two words' is no model"),
        (3, "the model is a int; give a network's name, an exported file"),
        (print, "Call it, and give what it returns"),
    ],
)
def test_what_is_none(place, text, message):
    with pytest.raises(UsageError, match=message):
        resolve_model(text, ANYTHING)


def test_a_name_holds_before_a_folder_of_that_name_which_is_told(place):
    (place / "run").rename(place / "resnet18")
    with pytest.warns(
        VertebraWarning, match=r"'resnet18' is taken for the network resnet18\. The folder .* \./resnet18"
    ):
        assert resolve_model("resnet18", "predict").kind is ModelKind.NETWORK
    assert resolve_model("./resnet18", "predict").kind is ModelKind.RUN
    assert resolve_model(place / "resnet18", "predict").kind is ModelKind.RUN
    (place / "vgg11").write_bytes((place / "m.onnx").read_bytes())
    with pytest.warns(VertebraWarning, match=r"network vgg11\. The file .* \./vgg11"):
        resolve_model("vgg11", "predict")
    resolve_model("resnet18", "train")  # a name is all that it takes: no warning, which pytest would raise


def test_a_function_holds_before_a_file_of_that_name_which_is_told(place):
    (place / "net.py").write_text("")
    (place / "net.py:build").write_bytes((place / "m.onnx").read_bytes())
    with pytest.warns(VertebraWarning, match=r"taken for the function build of net\.py\. The file of that name"):
        assert resolve_model("net.py:build", ANYTHING).kind is ModelKind.FUNCTION
    assert resolve_model("./net.py:build", ANYTHING).kind is ModelKind.FUNCTION, "a file of Python code is a path, too"


@pytest.mark.parametrize(
    ("text", "network", "weights"),
    [
        ("ResNet18", "resnet18", "DEFAULT"),
        ("resnet50.tv_in1k", "resnet50", "IMAGENET1K_V1"),
        ("resnet50.tv2_in1k", "resnet50", "IMAGENET1K_V2"),
        ("tf_efficientnet_lite0", "efficientnet_lite0", "DEFAULT"),
        ("mobilenetv2_100", "mobilenet_v2", "DEFAULT"),
    ],
)
def test_names_of_timm(place, text, network, weights):
    found = resolve_model(text, "predict")
    assert (found.network, found.weights(), found.weights("own.pth")) == (network, weights, "own.pth")


def test_names_that_stand_for_no_weights_or_no_network(place):
    for text, message in (
        ("resnet50.a1_in1k", "there are no weights 'a1_in1k' of resnet50 here"),
        ("mobilenetv2_050", "there are no weights for mobilenetv2_050 here"),
        ("convnext_tiny", "not among the families"),
        ("resnet-50", "Did you mean 'resnet50'"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_model(text, "predict").weights()
    assert resolve_model("mobilenetv2_050", "inspect").network == "mobilenetv2_050"
    with pytest.warns(VertebraWarning, match="tf_efficientnet_b0 is built as efficientnet_b0: timm's pads"):
        resolve_model("tf_efficientnet_b0", "predict").weights()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("command", ["predict", "card", "inspect", "export", "train"])
def test_a_whole_network_is_no_weights(place, command):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.jit.trace(network, torch.zeros(1, 2)).save("script.pt")
    torch.save(network, "whole.pth")
    torch.save(network.state_dict(), "weights.pth")
    torch.save({"model": network.state_dict(), "epoch": 3}, "checkpoint.pth")
    torch.save(torch.zeros(3), "tensor.pth")
    for name, what in (
        ("script.pt", "a TorchScript program"),
        ("whole.pth", "a pickled object of the class torch.nn.modules.container.Sequential"),
    ):
        advice = "Save its state_dict" if command == "train" else "Give a function that makes its network: FILE.py:NAME"
        with pytest.raises(UsageError) as caught:
            resolve_model(name, command)
        assert f"{name} is {what}, not weights, and is not opened. {advice}" in str(caught.value)
    for name in ("weights.pth", "checkpoint.pth", "tensor.pth", "plain", "w.PTH"):
        assert resolve_model(name, ANYTHING).kind is ModelKind.WEIGHTS


def test_an_exported_file_without_a_card_of_a_network(place, write_model):
    write_model(place / "foreign.onnx", card="")
    with pytest.raises(UsageError, match=r"networks of torch\. Give a network's name, the folder of a run, a"):
        resolve_model("foreign.onnx", "compare")
    assert resolve_model("foreign.onnx", "inspect").kind is ModelKind.EXPORTED


def test_what_a_command_takes_in_words():
    assert takes("train") == "a network's name"
    assert takes("predict").endswith("the folder of a run or a function (FILE.py:NAME or package.module:NAME)")


def test_files_and_runs_are_told_without_torch(place):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from vertebra.loading import exported_file\nfrom vertebra.model_argument import resolve_model\n"
        "print(*(exported_file(resolve_model(model, 'predict')) for model in ('m.onnx', 'run')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["m.onnx", "run/model.onnx"], done.stderr


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "wanted", "message"),
    [
        (("model.onnx", "weights.safetensors", "metrics.json"), "exported_file", "is not finished. Resume with: "
         "vertebra train --resume run"),
        (("weights.safetensors", "model.onnx"), "exported_file", "is finished, and its model.onnx is missing. Put it"),
        (("model.onnx",), "exported_file", "Export its weights: vertebra export run --out run/model.onnx"),
        (("weights.safetensors",), "weight_file", "has no weights.safetensors: an older Vertebra made it, or the file "
         "was removed. It still predicts; its exported file is run/model.onnx. For weights, train again: vertebra "
         "train --config run/settings.toml"),
        (("model.onnx", "weights.safetensors", "metrics.json"), "weight_file", "is not finished"),
    ],
)  # fmt: skip
def test_a_run_that_lacks_something(place, missing, wanted, message):
    for name in missing:
        (place / "run" / name).unlink()
    with pytest.raises(UsageError) as caught:
        getattr(resolve_model("run", ANYTHING), wanted)
    assert message in str(caught.value)


def test_a_run_that_did_not_end_is_used_and_told(place):
    (place / "run" / "metrics.json").unlink()
    with pytest.warns(VertebraWarning, match="has not written its report yet; .* vertebra train --resume run"):
        assert resolve_model("run", ANYTHING).exported_file.name == "model.onnx"


# --- functions ------------------------------------------------------------------------------------------------------

CODE = """
import sys
from torch import nn
print("on stdout")
def build():
    return nn.Linear(2, 3)
class Net(nn.Module):
    @staticmethod
    def make():
        return Net()
ready = build()
def wide(width, *, depth): ...
def number(): return 3
def pair(): return build(), "and more"
def fails(): raise ValueError("first line\\nsecond line")
def silent(): raise KeyboardInterrupt if False else RuntimeError
def leaves(): sys.exit("bye")
"""


@pytest.fixture
def code(place, monkeypatch):
    pytest.importorskip("torch")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("net", "pkg")]:
        monkeypatch.delitem(sys.modules, name)  # of another test's folder
    (place / "pkg").mkdir()
    for name in ("net.py", "my net: 2.py", "pkg/net.py"):
        (place / name).write_text(CODE)
    (place / "pkg" / "__init__.py").touch()
    (place / "wrong.py").write_text("def build(:\n")
    (place / "needs.py").write_text("\nimport nothing_of_that_name\n")
    return place


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("net.py:build", "Linear"),
        ("./net.py:build", "Linear"),
        ("my net: 2.py:Net", "Net"),
        ("net.py:Net.make", "Net"),
        ("net.py:ready", "Linear"),
        ("net:build", "Linear"),
        ("pkg.net:Net", "Net"),
        ("torch.nn:Identity", "Identity"),
    ],
)
def test_a_function_makes_the_network(code, capsys, text, kind):
    before = sys.path[0]
    assert type(resolve_model(text, "inspect").call()).__name__ == kind
    assert capsys.readouterr().out == "", "standard output is the command's"
    assert sys.path[0] == before
    assert not list(code.glob("__pycache__")) or ".py" not in text


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("net.py", UsageError, "is Python code. Name the function in it that makes the network: net.py:NAME. It has "
         "build, Net, wide, number, pair, …."),
        ("net.py:", UsageError, "net.py: names no function. Write net.py:NAME"),
        ("net.py:not one", UsageError, "'not one' is no name of a function"),
        ("net.py:buidl", UsageError, "net.py has no function 'buidl'. Did you mean 'build'?"),
        ("net.py:zzz", UsageError, "net.py has no function 'zzz'. It has build, Net, ready, wide, number, …."),
        ("net.py:Net.mkae", UsageError, "net.py has no function 'Net.mkae'"),
        ("nett.py:build", UsageError, "nett.py: no such file. Did you mean 'net.py'"),
        ("net.py:wide", UsageError, "net.py:wide needs width and depth, and is called without arguments"),
        ("net.py:number", UsageError, "net.py:number returns an object of type int; it must return a torch.nn.Module."),
        ("net.py:pair", UsageError, "of type tuple; it must return a torch.nn.Module. Return its network alone."),
        ("net.py:CODE", UsageError, "net.py has no function 'CODE'"),
        ("net.py:__name__", UsageError, "net.py:__name__ is of type str, not a function"),
        ("net.py:fails", VertebraError, "net.py:fails raises ValueError: first line (net.py, line 15)."),
        ("net.py:silent", VertebraError, "net.py:silent raises RuntimeError (net.py, line 16)."),
        ("net.py:leaves", VertebraError, "net.py:leaves raises SystemExit: bye"),
        ("wrong.py:build", VertebraError, "wrong.py, line 1: invalid syntax. Fix the code"),
        ("needs.py:build", VertebraError, "needs.py raises ModuleNotFoundError: No module named 'nothing_of_that_name' "
         "(needs.py, line 2)"),
        ("needs:build", VertebraError, "needs raises ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("pkg.nte:build", UsageError, "there is no module 'pkg.nte' to import, looked for from "),
        ("pkg.nte:build", UsageError, "Did you mean 'net'? The function of a file is written FILE.py:NAME."),
    ],
)  # fmt: skip
def test_functions_that_make_none(code, text, error, message):
    with pytest.raises(error) as caught:
        resolve_model(text, "inspect").call()
    assert message in str(caught.value)
    assert type(caught.value) is error


def test_code_may_import_what_lies_beside_it_and_shadows_nothing(code, monkeypatch):
    (code / "sub").mkdir()
    (code / "sub" / "_net.py").write_text("from torch.nn import Identity as build\n")
    (code / "sub" / "entry.py").write_text("from _net import build\n")
    (code / "sub" / "colorsys.py").write_text("raise SystemExit('taken for a module of Python')\n")
    assert type(resolve_model("sub/entry.py:build", "inspect").call()).__name__ == "Identity"
    sys.modules.pop("colorsys", None)
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_the_command_s_arguments_are_not_the_code_s(code, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vertebra", "inspect", "parses.py:build", "--json"])
    (code / "parses.py").write_text(
        "import argparse\nfrom torch.nn import Linear\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--width', type=int, default=3)\n"
        "width = parser.parse_args().width\n"
        "def build():\n    return Linear(width, parser.parse_args().width)\n"
    )
    assert resolve_model("parses.py:build", "inspect").call().in_features == 3
    assert sys.argv[3] == "--json"


def test_a_file_of_a_package_imports_from_it(code, monkeypatch):
    folder = code / "pkg" / "deep"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text("width = 4\n")
    (code / "pkg" / "wide.py").write_text("factor = 2\n")
    (folder / "relative.py").write_text(
        "from torch.nn import Linear\nfrom .parts import width\n"
        "def build():\n    from ..wide import factor\n    return Linear(width, factor)\n"
    )
    for working, text in (
        (code, "pkg/deep/relative.py"),
        (folder, "relative.py"),
        (code.parent, folder / "relative.py"),
    ):
        for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
            del sys.modules[name]
        monkeypatch.chdir(working)
        made = resolve_model(f"{text}:build", "inspect").call()
        assert (made.in_features, made.out_features) == (4, 2)


def test_a_package_whose_name_is_in_use_is_not_imported(code):
    (code / "json").mkdir()
    (code / "json" / "__init__.py").write_text("raise SystemExit('taken for a module of Python')\n")
    (code / "json" / "relative.py").write_text("from torch.nn import Identity as build\n")
    assert type(resolve_model("json/relative.py:build", "inspect").call()).__name__ == "Identity"
    (code / "json" / "relative.py").write_text("from . import decoder\n")
    with pytest.raises(VertebraError, match="attempted relative import with no known parent package"):
        resolve_model("json/relative.py:build", "inspect").call()
