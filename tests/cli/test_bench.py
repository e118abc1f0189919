"""`vertebra bench` shows each backend beside the fastest."""

import pytest


def quick(*arguments):
    return ("bench", *arguments, "--turns", 1, "--seconds", 0.01, "--threads", 1, "--batch", "1")


def test_a_table(vertebra, tiny_model):
    result = vertebra(*quick(tiny_model, "--backends", "torch,onnxruntime"))
    assert result.code == 0
    head, torch, onnxruntime = result.out.splitlines()
    assert head.split()[:4] == ["network", "batch", "backend", "ms/image"]
    assert torch.split()[:3] == ["tiny.onnx", "1", "torch"] and "this is a file" in torch
    assert onnxruntime.split()[2] == "onnxruntime" and "1.00×" in onnxruntime


def test_json(vertebra, tiny_model):
    (entry,) = vertebra(*quick(tiny_model, "--backends", "onnxruntime", "--json")).json
    assert entry["backend"] == "onnxruntime" and entry["median_ms"] > 0 and entry["error"] is None


def test_nothing_that_could_be_measured(vertebra, tiny_model):
    result = vertebra(*quick(tiny_model, "--backends", "torch"))
    assert result.code == 1
    assert "nothing could be measured" in result.err.splitlines()[-1]  # on a busy machine its progress comes before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1,many"], "whole numbers with commas"),
        (["--backends", "onnx"], "there is no backend 'onnx'"),
        (["resnet-18"], "Did you mean 'resnet18'"),
        (["none.onnx"], "no such file"),
        (["--turns", "0"], "--turns"),
    ],
)
def test_a_wrong_call(vertebra, arguments, message):
    result = vertebra("bench", *arguments)
    assert result.code != 0 and message in result.error


def test_more_threads_than_cores_can_run(vertebra, tiny_model, tmp_path):
    (tmp_path / "a.jpg").touch()
    for command in (("bench", tiny_model), ("predict", tmp_path / "a.jpg", "--model", tiny_model)):
        result = vertebra(*command, "--threads", 100_000)
        assert result.code == 2 and "threads is 100,000, and this process may use" in result.err
