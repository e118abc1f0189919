"""`vertebra lab`: what it prints, writes and refuses."""

import json
import re
import shutil
import signal

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
from vertebra.errors import VertebraError
from vertebra.lab.experiment import Kind, Verdict


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def signalled(monkeypatch):
    """A `measure` that is interrupted."""

    def measure(setup):
        raise KeyboardInterrupt

    return measure


def test_one_result(vertebra, experiments, place):
    experiments(alpha={"verdict": Verdict.FAILS, "stated_by": "code l.447–449 (comment)"})
    done = vertebra("lab", "run", "alpha", "--out", "out")
    assert (done.code, done.err) == (0, "")
    assert re.sub(r"\d+\.\d s\b", "TIME", done.out) == (
        "1 alpha: does not hold\n"
        "  The quoted code says (l.447–449, comment): alpha is large.\n"
        "  It was counted.\n"
        "  size   10        expected 10 (a count): agrees\n"
        "  share  0.0678 %  n = 3, 95 %: 0.0500 to 0.0900 %\n"
        "  out/01-alpha.svg (TIME)\n"
    )
    assert sorted(path.name for path in (place / "out").iterdir()) == ["01-alpha.json", "01-alpha.png", "01-alpha.svg"]
    assert re.search(r"\(0\.\d s, kept from \d{4}-\d\d-\d\d\)", vertebra("lab", "run", "1", "--out", "out").out)


def test_several_end_in_a_table_and_a_page(vertebra, experiments, place):
    def fail(setup):
        raise VertebraError("the folder is too small.")

    experiments(alpha={}, beta={"is_quick": False}, gamma={"measure": fail}, delta={"verdict": Verdict.IN_PART})
    done = vertebra("lab", "run", "all", "--quick", "--out", "out")
    assert done.code == 1
    assert done.error == "vertebra: 1 experiment of 4 failed: gamma."
    *_, counts, page = done.out.splitlines()
    assert counts == "4 experiments: holds 1, holds in part 1, not run 1, failed 1"
    table = done.out.partition("#  name")[2]
    assert re.search(r"1  alpha  holds +size 10; share 0\.0678 % +0\.\d", table)
    assert re.search(r"2  beta +not run +it trains or times", table)
    assert re.search(r"3  gamma +failed +the folder is too small\.", table)
    html = (place / page).read_text(encoding="utf-8")
    assert 'id="delta"' in html and 'id="beta"' not in html
    assert vertebra("lab", "run", "1", "4", "--out", "out").code == 0


def test_json_is_all_that_is_on_standard_output(vertebra, experiments, place):
    experiments(alpha={}, beta={"is_quick": False})
    done = vertebra("lab", "run", "all", "--quick", "--json")
    assert done.code == 0
    assert done.json["schema"] == 1
    assert [found["name"] for found in done.json["results"]] == ["alpha"]
    assert done.json["results"][0]["measured"]["figures"]["share"] == {
        "value": 0.0678123, "unit": "%", "n": 3, "interval": [0.05, 0.09],
    }  # fmt: skip
    assert done.json["not_run"] == [
        {"number": "2", "name": "beta", "reason": "it trains or times", "failed": False, "applies": True},
    ]
    assert json.loads((place / "lab" / "01-alpha-quick.json").read_text()) == done.json["results"][0]


def test_json_has_null_for_what_is_no_number(vertebra, experiments, place, monkeypatch):
    from vertebra.lab.experiment import Figure, Judgement, Measured
    from vertebra.lab.registry import find_one

    experiments(alpha={})
    module = find_one("alpha").load()
    module.measure = lambda setup: Measured({"size": Figure(float("nan"), "ms", 3, (0.0, float("inf")))})
    module.judge = lambda measured: Judgement(Verdict.OPEN, "It was not.", ("size",))
    module.draw = lambda measured, canvas: None
    assert vertebra("lab", "run", "alpha", "--json").json["results"][0]["measured"]["figures"]["size"] == {
        "value": None, "unit": "ms", "n": 3, "interval": [0.0, None],
    }  # fmt: skip
    assert "size  not a number ms  n = 3, 95 %: 0 to infinite ms" in vertebra("lab", "run", "alpha").out


def test_how_long_it_takes_is_told_before(vertebra, experiments, place):
    experiments(alpha={"seconds": 90}, beta={"seconds": 30})
    assert vertebra("lab", "run", "2").err == "vertebra: 1 experiment to run: about 30 s.\n"
    assert vertebra("lab", "run", "all").err == "vertebra: 1 experiment to run, 1 result kept: about 1 min 30 s.\n"
    assert vertebra("lab", "run", "all").err == ""


def test_ctrl_c_keeps_what_is_finished(vertebra, experiments, place, signalled):
    experiments(alpha={}, beta={"measure": signalled}, gamma={})
    done = vertebra("lab", "run", "all")
    assert done.code == 130
    assert done.error == (
        "vertebra: stopped. 1 of 3 experiments is done, kept, and shown in lab/index.html. "
        "The same command goes on from there."
    )
    assert "alpha is large." in done.out and 'id="alpha"' in (place / "lab" / "index.html").read_text(encoding="utf-8")
    calls = experiments(alpha={}, beta={}, gamma={})
    calls.clear()
    done = vertebra("lab", "run", "all")
    assert done.code == 0 and [call[0] for call in calls] == ["beta", "gamma"]


def test_ctrl_c_before_the_first(vertebra, experiments, place, signalled):
    experiments(alpha={"measure": signalled}, beta={})
    done = vertebra("lab", "run", "all")
    assert (done.code, done.error) == (130, "vertebra: stopped. 0 of 2 experiments are done.")
    done = vertebra("lab", "run", "1")
    assert (done.code, done.error) == (130, "vertebra: stopped.")


def test_a_signal_that_asks_to_end(vertebra, experiments, place):
    experiments(alpha={}, beta={"measure": lambda setup: signal.raise_signal(signal.SIGTERM)})
    done = vertebra("lab", "run", "all", "--json")
    assert (done.code, done.out) == (143, "") and "1 of 3" not in done.error and "1 of 2 experiments is" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alpa",), "there is no experiment 'alpa'; numbers are 1 to 3. Did you mean 'alpha'?"),
        (("99",), "there is no experiment '99'; numbers are 1 to 3. See: vertebra lab list"),
        (("1", "alpha"), "experiment 1 (alpha) is named twice: 1 and alpha."),
        (("all", "1"), "'all' stands beside '1'."),
        ((), "Missing argument 'NAME|NUMBER…|all'. See: vertebra lab run --help"),
        (("gamma", "--seeds", "0"), "seeds is 0; it must be a whole number from 3 to 100: fewer give no interval."),
        (("gamma", "--seeds", "2"), "seeds is 2; it must be a whole number from 3 to 100"),
        (("gamma", "--seeds", "abc"), "Invalid value for '--seeds': 'abc' is not a valid"),
        (("alpha", "--seeds", "3"), "nothing in alpha is random. Leave out --seeds."),
        (("alpha", "--device", "tpu"), "Invalid value for '--device': 'tpu' is not one of 'cpu', 'cuda'."),
        (("alpha", "--lang", "fr"), "Invalid value for '--lang': 'fr' is not one of 'en', 'ja'."),
        (("alpha", "--data", "nowhere"), "data is 'nowhere', which does not exist"),
        (("alpha", "--data", "."), "alpha uses no data set. Leave out --data, which is for gamma."),
        (("alpha", "--model", "resnet18"), "alpha is about networks of its own. Leave out --model, which is for beta."),
        (("beta", "--model", "resnet180"), "there is no model 'resnet180'. Did you mean 'resnet18'"),
        (("beta", "--model", "resnet18,"), "the MODEL is empty"),
        (("beta", "--model", "nets.py:three"), "nets.py:three returns an object of type int"),
        (("beta", "--model", "nets.py:maps"), "maps does not return logits (N, classes) for images of 3 × 224 × 224"),
        (("beta", "--model", "nets.py:words"), "words does not run on images of 3 × 224 × 224: "),
        (("gamma", "--quick"), "gamma trains or times, so there is no quick run of it. Leave out --quick."),
        (("alpha", "--out", "nets.py"), "--out is 'nets.py', which is a file. Give a folder."),
        (("alpha", "--out", "nets.py/deeper"), "--out is 'nets.py/deeper', and nets.py is a file. Give a folder."),
        (("alpha", "--out", ""), "--out is empty, as an unset variable would be. Give a folder."),
        (("gamma", "--data", ""), "data is empty, as an unset variable would be; give a folder"),
        (("gamma", "--data", "nets.py"), "nets.py is a file that is no table"),
        (("gamma", "--data", "one"), "one has photos of one class only, 'red'; a classifier needs at least two."),
        (("gamma", "--data", "empty"), "empty has no photos in class folders."),
        (("gamma", "--data", "d" * 300), f"data is '{'d' * 300}', which does not exist"),
        (("alpha", "beta", "--data", "nowhere", "--quick"), "--quick trains nothing: leave out --data."),
        (("beta", "gamma", "--quick", "--data", "one"), "--quick trains nothing: leave out --data."),
    ],
)
def test_bad_input_is_one_line(vertebra, experiments, place, tiny_photos, arguments, message):
    (place / "empty").mkdir()
    shutil.copytree(tiny_photos / "red", place / "one" / "red")
    calls = experiments(
        alpha={},
        beta={"networks": True},
        gamma={"is_quick": False, "seeds": 3, "least_data": (2, 3), "decided_by": (Kind.TRAINING,)},
    )
    (place / "nets.py").write_text(
        "from torch import nn\n"
        "def three(): return 3\n"
        "def maps(): return nn.Conv2d(3, 4, 3)\n"
        "def words(): return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))\n"
    )
    done = vertebra("lab", "run", *arguments)
    assert done.code == 2 and done.out == ""
    assert done.error.startswith(f"vertebra: {message}")
    assert calls == [] and not (place / "lab").exists()


def test_no_gpu(vertebra, experiments, place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    experiments(alpha={})
    assert "torch finds no GPU here" in vertebra("lab", "run", "alpha", "--device", "cuda").error


def test_all_says_who_takes_the_models_and_the_data(vertebra, experiments, place, tiny_photos):
    experiments(alpha={"least_data": (2, 3)}, beta={"networks": True}, gamma={"networks": True})
    (place / "net.py").write_text(
        "from torch import nn\n"
        "def small(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(1800, 2))\n"
    )
    done = vertebra("lab", "run", "all", "--model", "net.py:small")
    assert done.code == 0 and done.out.count("(small)") == 2
    assert done.error == (
        "vertebra: 2 experiments to run: about 2 s. 1 others are about networks of their own and are left out."
    )
    done = vertebra("lab", "run", "all", "--data", tiny_photos)
    assert done.error.endswith("The data is for 1 (alpha); the others need none.")


def test_networks_stand_beside_one_another(vertebra, place):
    """A column for each, as long as the terminal has room for it."""
    done = vertebra("lab", "run", "vgg-parameters", "--model", "mobilenet_v2,resnet18")
    lines = done.out.splitlines()
    assert re.fullmatch(r" +mobilenet_v2 +resnet18", lines[-5])
    assert re.fullmatch(r"  share of the parameters +36\.5 % +4\.39 %", lines[-4])


def test_one_that_it_does_not_apply_to_is_told_beside_the_others(vertebra, place):
    layers = "nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()"
    (place / "nets.py").write_text(f"from torch import nn\ndef small(): return nn.Sequential({layers})\n")
    why = "does not apply: small: no convolution of it has a stride, so none leaves positions out."
    done = vertebra("lab", "run", "42", "1", "--quick", "--model", "nets.py:small,resnet18")
    assert f"  {why}\n" in done.out and why in (place / "lab" / "index.html").read_text()
    kept = json.loads((place / "lab" / "42-stride-in-3x3-small-resnet18-quick.json").read_text())
    assert list(kept["measured"]["series"]["does not apply"]) == ["small"]
    none = vertebra("lab", "run", "42", "1", "--quick", "--model", "nets.py:small")
    assert "failed" not in none.out and "2 experiments: does not hold 1, does not apply 1" in none.out


def test_a_full_disk(vertebra, experiments, place, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    experiments(alpha={})
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    done = vertebra("lab", "run", "alpha")
    assert done.code == 1 and "No space left on device" in done.error


def test_photos_are_counted_before_the_start(vertebra, experiments, place, tiny_photos):
    """Three classes of twelve: enough for beta, and for the others too few."""
    calls = experiments(
        alpha={"least_data": (2, 13)},
        beta={"least_data": (3, 12)},
        gamma={"least_data": (4, 3)},
    )
    done = vertebra("lab", "run", "alpha", "--data", tiny_photos)
    assert done.code == 2 and "has 0 classes with at least 13 usable photos, and 2 such classes are" in done.error
    done = vertebra("lab", "run", "1", "3", "--data", tiny_photos)
    assert done.code == 2 and calls == []
    assert vertebra("lab", "run", "beta", "--data", tiny_photos).code == 0
    assert vertebra("lab", "run", "all", "--data", tiny_photos).code == 0 and len(calls) == 4


def test_a_table_of_photos(vertebra, experiments, place, tiny_photos):
    experiments(alpha={"least_data": (2, 3)})
    rows = [f"{path},{path.parent.name}" for path in sorted(tiny_photos.glob("*/*.png"))]
    (place / "labels.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    assert vertebra("lab", "run", "alpha", "--data", "labels.csv").code == 0


def test_another_page_is_not_overwritten(vertebra, experiments, place):
    calls = experiments(alpha={}, beta={})
    page = place / "site" / "index.html"
    page.parent.mkdir()
    page.write_text("<!doctype html>\n<title>My page</title>\n")
    done = vertebra("lab", "run", "all", "--out", "site")
    assert done.code == 2 and calls == []
    assert done.error == (
        "vertebra: site/index.html is no page of vertebra lab, and would be overwritten. Give another --out."
    )
    assert vertebra("lab", "run", "alpha", "--out", "site").code == 0, "one alone writes no page"
    assert "My page" in page.read_text()
    page.unlink()
    assert vertebra("lab", "run", "all", "--out", "site").code == 0
    assert vertebra("lab", "run", "all", "--out", "site").code == 0, "the lab's own is written anew"


def test_another_setting_leaves_the_files_behind_a_page(vertebra, experiments, place):
    experiments(alpha={"networks": True}, beta={})
    vertebra("lab", "run", "all")
    before = {path: path.read_bytes() for path in (place / "lab").iterdir()}
    for options in (["--quick"], ["--lang", "ja"], ["--model", "resnet18"]):
        assert vertebra("lab", "run", "alpha", *options).code == 0
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    changed.discard("01-alpha.json")  # says that the result was kept
    assert changed == set()
    names = {path.name for path in (place / "lab").iterdir()} - {path.name for path in before}
    assert {"01-alpha-quick.svg", "01-alpha.ja.svg", "01-alpha-resnet18.json"} <= names


def test_a_name_that_is_too_long(vertebra, experiments, place):
    experiments(alpha={})
    done = vertebra("lab", "run", "alpha", "--out", "o" * 300)
    assert done.code == 1
    assert done.error == f"vertebra: {'o' * 300} cannot be written (File name too long). Give another place."


def test_the_list(vertebra, experiments, place):
    experiments(alpha={"seconds": 90}, beta={"decided_by": (Kind.COUNT, Kind.TIMING), "family": "ResNet"})
    lines = vertebra("lab", "list").out.splitlines()
    assert re.fullmatch(r"#  name +family +decided by +s  claim", lines[0])
    assert re.fullmatch(r"1  alpha  VGG +count +90  alpha is large\.", lines[1])
    assert "betaは大きい。" in vertebra("lab", "list", "--lang", "ja").out
    found = vertebra("lab", "list", "--json").json
    assert found[1]["decided_by"] == ["count", "timing"] and found[0]["claim_ja"] == "alphaは大きい。"


def test_alone_it_shows_help(vertebra):
    done = vertebra("lab")
    assert done.code == 2 and "list" in done.err and "run" in done.err


def test_in_japanese(vertebra, experiments, place):
    experiments(alpha={"verdict": Verdict.IN_PART}, beta={"stated_by": "paper"})
    out = vertebra("lab", "run", "all", "--lang", "ja").out
    assert "1 alpha: 一部成り立つ" in out and "記事の主張(l.7): alphaは大きい。" in out
    assert "論文の主張: betaは大きい。" in out
    html = (place / "lab" / "index.html").read_text(encoding="utf-8")
    assert '<html lang="ja">' in html and "alphaは大きい。" in html
    assert 'href="01-alpha.ja.svg"' in html and (place / "lab" / "01-alpha.ja.svg").is_file()
