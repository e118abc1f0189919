"""Gradient norms against closed forms, and the correlation of neighbouring inputs' gradients."""

import math

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    batch_statistics,
    first_to_last_ratio,
    gradient_norms,
    input_gradient_correlation,
    noise_arc,
    output_projection,
)


def as_was(net):
    return [(p.requires_grad, p.grad) for p in net.parameters()], [m.training for m in net.modules()]


def total(output):
    return output.sum()


class Backwards(nn.Module):
    """Its layers run in another order than they are defined in; the second is called twice, with ReLU in place."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1, bias=False)
        self.first = nn.Linear(1, 1, bias=False)
        self.unused = nn.Linear(1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.last(self.relu(self.first(self.relu(self.first(self.relu(x))))))


def test_two_linear_layers_have_the_gradients_of_the_formula():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    net[0].weight.requires_grad_(False)  # measured all the same
    net[1].weight.grad = torch.ones(2, 4).double()  # of a training, not to be added to
    before, x = as_was(net), torch.randn(5, 3).double()
    one, two = gradient_norms(net, x, total)
    above = torch.ones(5, 2).double() @ net[1].weight.detach()  # d sum / d hidden
    assert (one.path, one.depth, two.path, two.depth) == ("0", 1, "1", 2)
    assert one.output == pytest.approx(float(above.norm()))
    assert one.weight == pytest.approx(float((above.T @ x).norm()))
    assert two.output == pytest.approx(math.sqrt(10))
    assert two.weight == pytest.approx(float((torch.ones(2, 5).double() @ net[0](x)).detach().norm()))
    assert as_was(net) == before


def test_layers_come_in_order_of_execution_and_calls_add_up():
    net, x = Backwards(), torch.tensor([[3.0], [-1.0]])  # the second gives no gradient
    net.first.weight.data.fill_(2.0)
    net.last.weight.data.fill_(5.0)
    before = x.clone()
    with torch.no_grad():
        first, last = gradient_norms(net, x, total)
    assert torch.equal(x, before)  # whatever works in place
    assert [first.path, last.path] == ["first", "last"]
    # y = 5 · w · w · 3: dy/dw = 30 w = 60. After the second call dy/dh = 5, after the first 5 · 2.
    assert first.weight == pytest.approx(60)
    assert first.output == pytest.approx(math.hypot(5, 10))
    assert last.weight == pytest.approx(12)


def test_an_error_leaves_the_network_as_it_was():
    net = Backwards()
    before = as_was(net)

    def fails(output):
        raise KeyError

    with pytest.raises(KeyError):
        gradient_norms(net, torch.ones(1, 1), fails)
    assert as_was(net) == before
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output: output, r"loss returned a tensor \(2, 1\)"),
        (lambda output: 3.0, "loss returned float"),
        (lambda output: output.detach().sum(), "does not depend on any weight of this Backwards"),
    ],
)
def test_a_loss_that_is_none(loss, message):
    with pytest.raises(UsageError, match=message):
        gradient_norms(Backwards(), torch.ones(2, 1), loss)


def test_the_projection_estimates_the_norm_of_the_jacobian():
    jacobian = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(50, 1, dtype=torch.float64, requires_grad=True)
    squares = [
        float(torch.autograd.grad(output_projection((jacobian @ x, [None]), seed), x)[0].norm() ** 2)
        for seed in range(200)
    ]
    assert sum(squares) / 200 == pytest.approx(float(jacobian.norm() ** 2), rel=0.05)
    with pytest.raises(UsageError, match="no floating-point tensor"):
        output_projection(torch.ones(2, dtype=torch.int64))


def test_ratio_of_the_first_to_the_last_convolution():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 1))
    for layer, weight in zip((net[0], net[1], net[3]), (4.0, 2.0, 1.0), strict=True):
        layer.weight.data.fill_(weight)
    gradients = gradient_norms(net, torch.ones(1, 1, 1, 1), total)
    assert first_to_last_ratio(gradients) == pytest.approx(2 / 4)
    net[3].weight.data.zero_()
    assert math.isnan(first_to_last_ratio(gradient_norms(net, torch.ones(1, 1, 1, 1), total)))
    with pytest.raises(UsageError, match="0 of 1 layers"):
        first_to_last_ratio(gradients[-1:])


def test_every_family_has_a_gradient_at_each_layer_that_runs(tiny_family, tiny_network):
    net = tiny_network(tiny_family)
    with batch_statistics(net):
        gradients = gradient_norms(net, torch.randn(2, 3, 64, 64))
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "aux" not in name]
    assert sorted(gradient.path for gradient in gradients) == sorted(layers)
    assert gradients[0].path == net.stem_path
    assert all(0 < g.output < math.inf and 0 <= g.weight < math.inf for g in gradients)


def test_the_arc_is_a_quarter_circle():
    arc = noise_arc((3, 16, 16), 5, seed=3)
    assert arc.shape == (5, 3, 16, 16)
    assert torch.allclose(arc[2], (arc[0] + arc[4]) / math.sqrt(2), atol=1e-6)
    assert not torch.equal(arc, noise_arc((3, 16, 16), 5, seed=4))
    with pytest.raises(UsageError, match="points is 1"):
        noise_arc((1, 1, 1), 1)


class Quadratic(nn.Module):
    """Σ x²/2, whose gradient is x itself, beside an output that is linear."""

    def forward(self, x):
        flat = x.flatten(1)
        return torch.stack([(flat**2).sum(1) / 2, flat.sum(1), flat.sum(1).clamp(min=1e9)], 1)


def test_correlation_is_the_cosine_between_neighbouring_gradients():
    angles = torch.linspace(0, math.pi / 2, 4)
    points = torch.stack([angles.cos(), angles.sin()], 1).view(4, 2, 1, 1) * 1e-20  # however small
    assert input_gradient_correlation(Quadratic(), points.double()) == pytest.approx(math.cos(math.pi / 6))
    assert input_gradient_correlation(Quadratic(), points, logit=1) == pytest.approx(1)
    assert math.isnan(input_gradient_correlation(Quadratic(), points, logit=2))
    with pytest.raises(UsageError, match="logit is 3; the network has outputs 0 to 2"):
        input_gradient_correlation(Quadratic(), points, logit=3)
    with pytest.raises(UsageError, match="at least two, got 1"):
        input_gradient_correlation(Quadratic(), points[:1])


def test_the_skip_keeps_neighbouring_gradients_alike():
    class Layer(nn.Module):
        def __init__(self, skip):
            super().__init__()
            self.skip, self.conv, self.norm = skip, nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

        def forward(self, x):
            out = self.norm(self.conv(x))
            return torch.relu(out + x if self.skip else out)

    def correlation(skip):
        torch.manual_seed(0)
        body = [Layer(skip) for _ in range(20)]
        net = nn.Sequential(nn.Conv2d(3, 8, 3), *body, nn.Flatten(), nn.Linear(8 * 36, 2))
        with batch_statistics(net):
            return input_gradient_correlation(net, noise_arc((3, 8, 8), 32))

    assert correlation(True) > 0.5 > correlation(False)


def test_the_ratio_of_outputs_is_not_that_of_weights():
    """The gradient halves from layer to layer, and the activations double: weights' gradients stay."""
    net = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(3)))
    for conv in net:
        conv.weight.data.fill_(0.5)
    gradients = gradient_norms(net, torch.ones(1, 1, 1, 1), lambda out: out.sum())
    assert first_to_last_ratio(gradients) == pytest.approx(1)
    assert first_to_last_ratio(gradients, "output") == pytest.approx(0.25)


def test_an_arc_may_be_short():
    whole, part = noise_arc((1, 4, 4), 4, 3), noise_arc((1, 4, 4), 2, 3, degrees=30)
    assert torch.allclose(whole[:2], part, atol=1e-6)
