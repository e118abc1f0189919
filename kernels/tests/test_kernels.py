"""Every instruction set against float64, over families, sizes, batches and threads."""

import numpy as np
import pytest
from networks import FAMILIES, efficientnet_v2, evaluate, mobilenet
from vertebra_kernels import INSTRUCTION_SETS, Network, instruction_set, pack

HERE = INSTRUCTION_SETS[INSTRUCTION_SETS.index(instruction_set()) :]  # those that this processor has
TOLERANCE = 1e-5  # of the largest value of an output


def images_for(graph, count=2, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, *graph.image_size, 3), np.uint8)


def assert_equal(graph, images, instructions, threads=1):
    expected = evaluate(graph, images)
    network = Network(pack(graph, instructions), threads)
    assert {name: (len(images), *shape) for name, shape in network.outputs.items()} == {
        name: values.shape for name, values in expected.items()
    }
    for (name, values), result in zip(expected.items(), network.run(images, list(expected)), strict=True):
        assert result.dtype == np.float32
        error = np.abs(result - values).max() / np.abs(values).max()
        assert error < TOLERANCE, f"{name}: {error}"
    network.close()


@pytest.mark.parametrize("instructions", HERE)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_family_equals_float64(family, instructions, threads):
    graph = FAMILIES[family]()
    assert_equal(graph, images_for(graph, 3), instructions, threads)


@pytest.mark.parametrize("instructions", HERE)
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 2, 2, 0], [2, 0, 0, 2]])
def test_dense_convolutions_with_other_pads_and_activations(pads, instructions):
    graph = efficientnet_v2((67, 45), kind="relu6", pads=pads)
    assert_equal(graph, images_for(graph), instructions, 3)


@pytest.mark.parametrize("instructions", HERE)
@pytest.mark.parametrize("size", [(32, 32), (33, 37), (17, 18), (19, 130), (131, 23)])
def test_odd_and_small_sizes(size, instructions):
    for family in FAMILIES.values():
        graph = family(size)
        assert_equal(graph, images_for(graph), instructions)


@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.75, 1.4])
def test_widths_that_are_no_multiple_of_a_block(width):
    graph = mobilenet(width=width)
    assert_equal(graph, images_for(graph), None)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_batches_equal_single_images(threads):
    graph = FAMILIES["efficientnet"]()
    images = images_for(graph, 9)
    with_all = Network(pack(graph), threads)
    alone = np.concatenate([with_all.run(images[i : i + 1], ["probabilities"])[0] for i in range(9)])
    for count in range(1, 10):
        np.testing.assert_allclose(with_all.run(images[:count], ["probabilities"])[0], alone[:count], rtol=2e-5)


def test_a_batch_above_the_slice_and_an_empty_one():
    graph = mobilenet((20, 20))
    images = images_for(graph, 131)
    network = Network(pack(graph), 2)
    expected = evaluate(graph, images)
    embedding, logits = network.run(images, ["embedding", "logits"])
    np.testing.assert_allclose(embedding, expected["embedding"], atol=1e-5 * expected["embedding"].max())
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())
    assert network.run(images[:0], ["features"])[0].shape[0] == 0


def with_scaled_kernels(graph, factor):
    """The first four 3 x 3 kernels times `factor`: of more, the products would overflow in float32."""
    names = [name for name, values in graph.constants.items() if values.shape[2:] == (3, 3)][:4]
    scaled = {name: graph.constants[name] * np.float32(factor) for name in names}
    return graph._replace(constants={**graph.constants, **scaled})


@pytest.mark.parametrize("instructions", HERE)
@pytest.mark.parametrize("factor", [1e-42, 1e-38, 1e-20, 1e7])
def test_extreme_and_denormal_weights(instructions, factor):
    for family in FAMILIES.values():
        graph = with_scaled_kernels(family(), factor)
        assert_equal(graph, images_for(graph, 1), instructions)


@pytest.mark.parametrize("instructions", HERE)
def test_what_overflows_is_nan_and_never_a_probability(instructions):
    graph = with_scaled_kernels(FAMILIES["efficientnet"](), 1e25)
    (probabilities,) = Network(pack(graph, instructions)).run(images_for(graph, 1), ["probabilities"])
    assert np.isnan(probabilities).all()


def test_inputs_that_are_not_contiguous():
    graph = mobilenet((40, 40))
    images = images_for(graph, 4)
    network = Network(pack(graph))
    np.testing.assert_array_equal(
        network.run(images[::2], ["logits"])[0], network.run(images[::2].copy(), ["logits"])[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_many_sizes_threads_and_batches(seed):
    random = np.random.default_rng(seed)
    family = FAMILIES[random.choice(list(FAMILIES))]
    graph = family(tuple(random.integers(17, 150, 2).tolist()), seed=seed)
    assert_equal(graph, images_for(graph, int(random.integers(1, 10))), random.choice(HERE), int(random.integers(1, 9)))
