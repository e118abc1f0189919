"""Gradients and activations of every layer, against TorchLens, which records each operation by other means."""

import pytest
import torch

from vertebra.introspect import activation_slopes, gradient_norms, output_projection, residual_blocks

pytestmark = [
    pytest.mark.slow,  # it wraps all of torch, which takes seconds
    pytest.mark.filterwarnings("ignore:tracing runs the model's REAL forward"),
]


def caller(operation):
    """Path of the innermost module that ran it."""
    return operation.modules[-1].partition(":")[0] if operation.modules else ""


@pytest.fixture(scope="module", params=["resnet", "googlenet", "densenet"])
def traced(request, tiny_network):
    """A network, its images, and each operation that TorchLens has recorded, with values and gradients."""
    torchlens = pytest.importorskip("torchlens", reason="torchlens is not installed")
    net = tiny_network(request.param)
    net.train()
    if request.param == "googlenet":
        net.aux1 = net.aux2 = None
        net.aux_logits = False
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for module in net.modules():
        module.training = isinstance(module, torch.nn.BatchNorm2d)
    options = torchlens.options.CaptureOptions(
        save_grads="all", backward_ready=True, layers_to_save="all", unwrap_when_done=True
    )
    trace = torchlens.trace(net, images, capture=options)
    operations = list(trace.layer_list)
    (output,) = (operation for operation in operations if operation.is_output)
    trace.log_backward(output_projection(output.out))
    net.zero_grad()
    yield net, images, operations
    del trace  # its operations are empty without it


def test_gradients_at_the_outputs_of_layers(traced):
    net, images, operations = traced
    expected = {o.atomic_module_address: o.grad.norm() for o in operations if o.func_name in ("conv2d", "linear")}
    found = gradient_norms(net, images)
    assert [gradient.path for gradient in found] == list(expected)  # in order of execution
    for gradient in found:
        assert gradient.output == pytest.approx(float(expected[gradient.path]), rel=1e-3), gradient.path


def test_values_without_slope_are_the_zeros_behind_relu(traced):
    net, images, operations = traced
    expected = [
        (caller(o), int((o.out == 0).sum()), int((o.out == 0).all(3).all(2).all(0).sum()))
        for o in operations
        if o.func_name.startswith("relu")
    ]
    rows = activation_slopes(net, images)
    assert [(row.path, row.flat_values, row.dead_channels) for row in rows] == expected


def test_residual_additions(traced):
    net, images, operations = traced
    added = [caller(o) for o in operations if "add" in o.func_name and len(o.shape) == 4]
    if type(net).__name__ == "ResNet":
        assert [block.path for block in residual_blocks(net, images)] == added
    else:
        assert added == []
