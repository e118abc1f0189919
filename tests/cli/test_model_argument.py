"""Every command that takes a MODEL, with every kind of MODEL."""

import contextlib
import io
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from vertebra.cache import write_sidecar
from vertebra.loading import cached_export_path
from vertebra.model_argument import ACCEPTED, ModelKind

MODELS = {
    ModelKind.NETWORK: "resnet18",
    ModelKind.EXPORTED: "tiny.onnx",
    ModelKind.RUN: "run",
    ModelKind.WEIGHTS: "weights.pth",
    ModelKind.FUNCTION: "my net.py:build",
}

CODE = """
from torch import nn

def build():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network.pretrained_cfg = {
        "input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3,
        "num_classes": 3, "label_names": ["red", "green", "blue"],
    }
    return network.eval()
"""


def arguments(command, model):
    return {
        "predict": ("predict", "photo.png", "--model", model, "--json"),
        "serve": ("serve", model, "--port", "0"),
        "card": ("card", model),
        "evaluate": ("evaluate", model, "photos", "--json"),
        "bench": ("bench", model, "--batch", "1", "--json"),
        "inspect": ("inspect", model, "--device", "none", "--size", "32", "--json"),
        "compare": ("compare", model, model, "--device", "none", "--size", "32", "--json"),
        "export": ("export", model, "--out", "out.onnx"),
        "train": ("train", "photos", "--model", model, "--out", "new", "--weights", "nowhere.pth"),
        "explore": ("explore", "photo.png", "--model", model, "--html", "page.html"),
        "lab": ("lab", "run", "vgg-parameters", "--model", model, "--json"),
    }[command]


# What a command says of a kind that it does not take.
REFUSED = {
    ("train", ModelKind.EXPORTED): "tiny.onnx is an exported file; vertebra train takes a network's name.",
    ("train", ModelKind.RUN): "run is the folder of a run. To train on from it: --model NAME --weights run/weights.saf",
    (
        "train",
        ModelKind.WEIGHTS,
    ): "weights.pth is a weight file. To train on from it: --model NAME --weights weights.pth",
    (
        "train",
        ModelKind.FUNCTION,
    ): "my net.py:build is a function that makes a network; vertebra train takes a network's",
    (
        "export",
        ModelKind.EXPORTED,
    ): "tiny.onnx is exported already. Give a network's name, the folder of a run, a weight",
    ("compare", ModelKind.EXPORTED): "reads networks of torch. Its network is: vertebra compare resnet18",
    ("lab", ModelKind.EXPORTED): "reads networks of torch. Its network is: --model resnet18",
    ("explore", ModelKind.EXPORTED): "reads networks of torch. Its network is: --model resnet18",
    **{
        (command, ModelKind.WEIGHTS): "weights.pth holds weights alone. Run: vertebra export weights.pth --model NAME"
        for command in ("predict", "serve", "card", "evaluate", "bench")
    },
}
# Taken as a kind, and not usable: such files may say nothing of their network.
UNTOLD = {
    ("inspect", ModelKind.WEIGHTS): "weights.pth does not name its network, so it cannot be built.",
    ("compare", ModelKind.WEIGHTS): "weights.pth does not name its network, so it cannot be built.",
    ("lab", ModelKind.WEIGHTS): "weights.pth does not name its network. Write a function that loads it: FILE.py:NAME",
    (
        "explore",
        ModelKind.WEIGHTS,
    ): "weights.pth does not name its network. Write a function that loads it: FILE.py:NAME",
    ("export", ModelKind.WEIGHTS): "weights.pth does not say which network it is for. Add --model NAME",
    ("train", ModelKind.NETWORK): "nowhere.pth",
}


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_run, tiny_export, tiny_photos, tiny_registry, tiny_network):
    """A working folder with one of each; `resnet18` is tiny, and has been exported before."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    shutil.copyfile(tiny_export, tmp_path / "tiny.onnx")
    shutil.copyfile(tiny_photos / "red" / "00.png", tmp_path / "photo.png")
    (tmp_path / "run").symlink_to(tiny_run)
    (tmp_path / "photos").symlink_to(tiny_photos)
    (tmp_path / "my net.py").write_text(CODE)
    torch.save(tiny_network("resnet").state_dict(), tmp_path / "weights.pth")
    kept = cached_export_path("resnet18")  # of classes that are those of the photos
    kept.parent.mkdir(parents=True)
    shutil.copyfile(tiny_run / "model.onnx", kept)
    write_sidecar(kept, {"weights": "DEFAULT", "told": []})
    return tmp_path


@pytest.fixture
def served(monkeypatch):
    """What a server would serve, in place of serving it; what another process would export is exported in this one."""
    pytest.importorskip("fastapi")
    import vertebra.serve.model_source
    import vertebra.serve.server
    from vertebra.errors import VertebraError

    def run_here(command, **options):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            try:
                vertebra.serve.model_source.export_and_print(*command[3:])
            except VertebraError as error:
                return SimpleNamespace(returncode=error.exit_code, stdout="", stderr=f"{error}\n")
        return SimpleNamespace(returncode=0, stdout=output.getvalue(), stderr="")

    monkeypatch.setattr(vertebra.serve.model_source.subprocess, "run", run_here)

    found = {}

    class Server:
        url = "http://127.0.0.1:0"

        def __init__(self, settings, registry):
            assert registry.wait(60)
            found.update({name: served.path for name, served in registry.models.items()})
            registry.close()

        def run(self):
            pass

    monkeypatch.setattr(vertebra.serve.server, "Server", Server)
    return found


@pytest.fixture
def timed(monkeypatch):
    """`vertebra bench` without processes."""
    import vertebra.bench.timing

    def compare(files, batch, backends, turns, seconds, threads, step):
        yield vertebra.bench.Timing(files.name, batch, "vertebra", 1.0, 1.0, 1.0, 3, files.exported)

    monkeypatch.setattr(vertebra.bench.timing, "_compare", compare)


@pytest.fixture
def counted(monkeypatch):
    """An experiment that counts the parameters of any network."""
    from vertebra.lab.experiment import Figure, Judgement, Measured, Verdict
    from vertebra.lab.experiments import claim01_vgg_parameters as experiment

    def measure(setup, networks):
        counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
        return Measured({f"{name}: parameters": Figure(count) for name, count in counts.items()})

    judgement = Judgement(Verdict.OPEN, "Counted.")
    monkeypatch.setattr(experiment, "measure_networks", measure, raising=False)
    monkeypatch.setattr(experiment, "judge_networks", lambda measured: judgement, raising=False)
    monkeypatch.setattr(experiment, "draw_networks", lambda measured, canvas: None, raising=False)


NAMES = {
    ModelKind.NETWORK: "resnet18",
    ModelKind.EXPORTED: "tiny",
    ModelKind.RUN: "run",
    ModelKind.FUNCTION: "build",
}


def check(command, kind, done, served):
    """That the right network was used."""
    name = NAMES[kind]
    if command == "predict":
        assert len(done.json[0]["predictions"]) == (5 if kind is ModelKind.EXPORTED else 3)
    elif command == "serve":
        assert list(served) == [name]
        assert served[name].name == {ModelKind.EXPORTED: "tiny.onnx", ModelKind.RUN: "model.onnx"}.get(
            kind, cached_export_path("resnet18").name if kind is ModelKind.NETWORK else "build.onnx"
        )
    elif command == "card":
        assert done.out.split()[1] == ("sequential," if kind is ModelKind.FUNCTION else "resnet18,")
    elif command == "evaluate":
        assert done.json["n"] == 36
    elif command == "bench":
        assert done.json[0]["network"] == ("tiny.onnx" if kind is ModelKind.EXPORTED else name)
    elif command == "inspect":
        assert done.json["name"] == {ModelKind.RUN: "run (resnet18)", ModelKind.EXPORTED: "tiny.onnx"}.get(kind, name)
    elif command == "compare":
        networks = done.json["networks"]
        assert [network["published"] is not None for network in networks] == [kind is ModelKind.NETWORK] * 2
    elif command == "lab":
        assert list(done.json["results"][0]["measured"]["figures"]) == [f"{name}: parameters"]
    elif command == "export":
        from vertebra.card import read_card

        found = read_card("out.onnx").classes
        of_function = ("red", "green", "blue")
        assert found == {ModelKind.NETWORK: None, ModelKind.FUNCTION: of_function}.get(kind, ("blue", "green", "red"))


@pytest.mark.parametrize("kind", ModelKind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("command", ACCEPTED)
def test_each_command_with_each_kind(vertebra, place, served, timed, counted, command, kind):
    call = arguments(command, MODELS[kind])
    if (command, kind) == ("export", ModelKind.NETWORK):
        call = (*call, "--weights", "none")
    if (command, kind) == ("evaluate", ModelKind.EXPORTED):
        call = tuple("run/model.onnx" if part == "tiny.onnx" else part for part in call)
    done = vertebra(*call)
    if (message := REFUSED.get((command, kind))) is not None:
        assert kind not in ACCEPTED[command]
        assert (done.code, done.out) == (2, "") and message in done.error
        return
    assert kind in ACCEPTED[command]
    if (message := UNTOLD.get((command, kind))) is not None:
        assert done.code != 0 and message in done.error
        return
    assert done.code == 0, done.err
    check(command, kind, done, served)


@pytest.mark.parametrize("command", ACCEPTED)
def test_each_command_says_the_same_of_what_is_no_model(vertebra, place, counted, command):
    for model, message in (
        ("", "is empty, as an unset variable would be"),
        ("./nowhere", "./nowhere: no such file or folder"),
        ("tiny.onx", "tiny.onx: no such file or folder. Did you mean 'tiny.onnx'?"),
        ("https://example.org/m.onnx", "is a web address"),
        ("photos", "photos is no run: it has no model.onnx and no settings.toml."),
        ("nowhere.py:build", "nowhere.py: no such file"),
    ):
        done = vertebra(*arguments(command, model))
        assert (done.code, done.out) == (2, "") and message in done.error


@pytest.mark.parametrize("command", sorted(set(ACCEPTED) - {"train"}))
def test_help_says_the_same(vertebra, command):
    words = ("lab", "run") if command == "lab" else (command,)
    text = " ".join(vertebra(*words, "--help").out.split())
    assert "MODEL" in text
    assert "the folder of a run" in text and "(FILE.py:NAME or package.module:NAME)" in text


def test_a_name_and_a_folder_of_that_name(vertebra, place):
    (place / "resnet18").symlink_to(place / "run")
    done = vertebra("predict", "photo.png", "--model", "resnet18")
    assert done.code == 0
    assert done.err == (
        "vertebra: 'resnet18' is taken for the network resnet18. The folder of that name is written ./resnet18\n"
    )
    assert vertebra("predict", "photo.png", "--model", "./resnet18").err == ""


def test_a_server_tells_it_when_it_starts(vertebra, place, served, caplog):
    (place / "resnet18").symlink_to(place / "run")
    with caplog.at_level("INFO"):
        assert vertebra("serve", "resnet18", "--port", "0").code == 0
    assert "'resnet18' is taken for the network resnet18" in caplog.text


def test_a_server_that_cannot_get_weights_has_failed(vertebra, place, served, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    for call in (("serve", "vgg11", "--port", "0"), ("predict", "photo.png", "--model", "vgg11")):
        done = vertebra(*call)
        assert (done.code, done.out) == (1, "") and "is not on this machine" in done.err
    (place / "my net.py").write_text("def build(): return 3\n")
    done = vertebra("serve", "my net.py:build", "--port", "0")
    assert done.code == 2 and "returns an object of type int" in done.err


def test_a_run_whose_exported_file_is_empty(vertebra, place, tiny_run):
    (place / "emptied").mkdir()
    for path in tiny_run.iterdir():
        if path.is_file() and path.name != "model.onnx":
            shutil.copyfile(path, place / "emptied" / path.name)
    (place / "emptied" / "model.onnx").touch()
    done = vertebra("card", "emptied")
    assert (done.code, done.out) == (1, "")
    command = done.error.partition("Export its weights: vertebra ")[2].split()
    assert command == ["export", "emptied", "--out", "emptied/model.onnx"]
    assert vertebra(*command).code == 0
    done = vertebra("card", "emptied")
    assert (done.code, done.err) == (0, "") and "3: blue, green, red" in done.out


def test_code_that_fails_is_one_line_and_a_traceback_with_debug(vertebra, place):
    (place / "my net.py").write_text("def build():\n    raise ValueError('too\\nwide')\n")
    done = vertebra("inspect", "my net.py:build")
    assert (done.code, done.out) == (1, "")
    assert done.error == (
        "vertebra: my net.py:build raises ValueError: too (my net.py, line 2). With --debug the traceback is shown."
    )
    with pytest.raises(Exception, match="raises ValueError") as caught:
        vertebra("inspect", "my net.py:build", "--debug")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_network_of_another_width_has_no_published_accuracy(vertebra):
    done = vertebra("compare", "mobilenetv2_050", "mobilenetv2_100", "--device", "none", "--size", "32", "--json")
    assert [network["published"] is not None for network in done.json["networks"]] == [False, True]


def test_training_takes_the_weights_of_a_name_or_refuses(vertebra, place):
    for name, message in (
        ("resnet50.a1_in1k", "there are no weights 'a1_in1k' of resnet50 here"),
        ("mobilenetv2_050", "is a network of another width"),
        ("convnext_tiny", "not among the families"),
    ):
        done = vertebra("train", "photos", "--model", name, "--out", "new")
        assert (done.code, done.out) == (2, "") and message in done.error


def test_evaluate_names_the_model_as_it_was_given(vertebra, place):
    done = vertebra("evaluate", "resnet18", "photos", "--json", "--html", "page.html")
    assert done.json["model"] == "resnet18"
    page = (place / "page.html").read_text(encoding="utf-8")
    assert "<title>resnet18 on photos" in page and "vertebra evaluate resnet18 photos --html page.html" in page
    assert str(place / "cache") not in page and cached_export_path("resnet18").name not in page
    assert vertebra("evaluate", "run/model.onnx", "photos", "--json").json["model"] == "run/model.onnx"
    (place / "photos").unlink()
    (place / "photos" / "violet").mkdir(parents=True)
    shutil.copyfile(place / "photo.png", place / "photos" / "violet" / "0.png")
    error = vertebra("evaluate", "resnet18", "photos").error
    assert error.startswith("vertebra: photos has 1 class that resnet18 does not know, such as 'violet'; it knows")
    error = vertebra("evaluate", "my net.py:build", "photos").error
    assert error.startswith("vertebra: photos has 1 class that my net.py:build does not know, such as 'violet'; it")
