"""The tiny networks that the tests use are what they stand for: each family's classes, in small."""

import pytest

pytest.importorskip("torch")

import torch

import vertebra
from vertebra.models import create_model, get_family, list_models


def test_a_tiny_network_is_its_family_s(tiny_family, tiny_network):
    network = tiny_network(tiny_family)
    assert type(network).__module__ == f"vertebra.models.{tiny_family}"
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        stages = network.forward_stages(x)
        assert [stage.shape[1] for stage in stages] == [stage.channels for stage in network.stages]
        assert torch.equal(network(x), network.forward_head(stages[-1]))
    assert network.get_classifier().out_features == network.num_classes == 5
    assert torch.equal(tiny_network(tiny_family)(x), network(x))


@pytest.mark.parametrize(("family", "options"), [("resnet", {"block": "Bottleneck"})] + [
    ("efficientnet", {"kind": kind}) for kind in ("v2", "lite")
])  # fmt: skip
def test_other_blocks(family, options, tiny_network):
    assert tiny_network(family, **options)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_names_stand_for_tiny_networks_for_a_while(tiny_names, tiny_family, tmp_path):
    name = list_models(family=tiny_family)[0]
    with tiny_names():
        network = create_model(name, num_classes=4)
        torch.save(network.state_dict(), tmp_path / "tiny.pth")
        again = create_model(name, weights=tmp_path / "tiny.pth")
    assert again.num_classes == 4
    assert sum(parameter.numel() for parameter in again.parameters()) < 1_000_000
    assert get_family(name) == tiny_family
    with vertebra.models.state_dict.meta_build():
        published = sum(parameter.numel() for parameter in create_model(name).parameters())
        assert published > sum(parameter.numel() for parameter in network.parameters())


def test_the_exported_one_predicts(tiny_export, tiny_photos):
    loaded = vertebra.load(tiny_export)
    assert loaded.card.classes == tuple("abcde")
    found = loaded.predict(tiny_photos / "red" / "00.png", top=5)
    assert sum(entry["probability"] for entry in found.predictions) == pytest.approx(1, abs=1e-4)


def test_the_run_has_learnt(tiny_run, tiny_photos):
    loaded = vertebra.load(tiny_run / "model.onnx")
    assert loaded.card.classes == ("blue", "green", "red")
    assert loaded.card.preprocessing.crop_size == 224  # the published weights' size
    found = [loaded.predict(tiny_photos / label / "03.png").predictions[0]["class"] for label in loaded.card.classes]
    assert found == ["blue", "green", "red"]


def test_made_once(once):
    calls = []
    folders = [once("test-made-once", lambda folder: (calls.append(folder), (folder / "x").touch())) for _ in range(2)]
    assert folders[0] == folders[1] and (folders[0] / "x").exists()
    assert len(calls) <= 1  # by another process, maybe
