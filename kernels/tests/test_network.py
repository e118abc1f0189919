"""Networks: damaged blocks, threads, forks, closing."""

import gc
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from networks import efficientnet, efficientnet_v2, mobilenet
from test_kernels import images_for
from vertebra_kernels import Network, pack
from vertebra_kernels.packed_block import HEADER, STEP


@pytest.fixture(scope="module")
def graph():
    return mobilenet((40, 40))


def test_a_block_of_any_other_length_is_refused(graph):
    packed = pack(graph)
    for size in [0, 1, 63, HEADER.size, HEADER.size + 1, len(packed) // 2, len(packed) - 1]:
        with pytest.raises(ValueError, match="packed"):
            Network(packed[:size])
    with pytest.raises(ValueError, match="damaged"):
        Network(packed + b"0")


def test_another_version_is_refused(graph):
    packed = bytearray(pack(graph))
    packed[8:12] = struct.pack("<I", 99)
    with pytest.raises(ValueError, match="another version"):
        Network(bytes(packed))


def refusals(packed, images, value):
    """How many blocks with one number of the header or a step as `value` are refused; the others are run."""
    refused = 0
    for position in range(8, HEADER.size + STEP.size * HEADER.unpack_from(packed)[3], 4):
        damaged = bytearray(packed)
        damaged[position : position + 4] = struct.pack("<i", value)
        try:
            network = Network(bytes(damaged), 2 if position % 40 == 0 else 1)
        except (ValueError, MemoryError):
            refused += 1
            continue
        if network.image_size == images.shape[1:3]:
            network.run(images, list(network.outputs))
        network.close()
    return refused


@pytest.mark.parametrize("value", [-1, 0, 1, 7, 2**31 - 1, -(2**31), 1 << 20])
@pytest.mark.parametrize("family", [efficientnet, efficientnet_v2])
def test_no_number_in_header_or_steps_can_make_it_read_elsewhere(family, value):
    """Each number is replaced: the block is refused, or runs (with other numbers) within its memory."""
    small = family((24, 24))
    packed = pack(small, "portable")
    images = images_for(small, 1)
    assert refusals(packed, images, value) > 100


def test_names_that_are_damaged(graph):
    packed = bytearray(pack(graph))
    packed[-5:] = b"\xff" * 5
    with pytest.raises(ValueError, match="names"):
        Network(bytes(packed))


def test_wrong_images_and_outputs_are_named(graph):
    network = Network(pack(graph))
    with pytest.raises(ValueError, match=r"float32 \(1, 40, 40, 3\), not uint8 \(N, 40, 40, 3\)"):
        network.run(np.zeros((1, 40, 40, 3), np.float32), ["logits"])
    with pytest.raises(ValueError, match="'logit' is none of features, embedding, logits, probabilities"):
        network.run(np.zeros((1, 40, 40, 3), np.uint8), ["logit"])
    with pytest.raises(ValueError, match="limits"):
        Network(pack(graph), threads=0)


def test_images_that_cannot_be_written_or_lie_apart_give_the_same(graph):
    network, images = Network(pack(graph)), images_for(graph, 2)
    (expected,) = network.run(images, ["logits"])
    fixed, apart = (
        np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
        np.repeat(images, 2, axis=3)[..., ::2],
    )
    for same in (fixed, apart):
        assert np.array_equal(network.run(same, ["logits"])[0], expected)
    assert network.run(images[:0], ["logits"])[0].shape == (0, *network.outputs["logits"])


def test_a_closed_network_says_so_and_leaves_no_thread(graph):
    count = lambda: len(os.listdir("/proc/self/task"))  # noqa: E731, PTH208
    before = count()
    network = Network(pack(graph), 4)
    assert count() == before + 3
    network.close()
    network.close()
    assert count() == before
    with pytest.raises(ValueError, match="closed"):
        network.run(images_for(graph), ["logits"])
    network = Network(pack(graph), 4)
    del network
    gc.collect()
    assert count() == before


def test_a_forked_child_runs_and_the_parent_goes_on(graph):
    network, images = Network(pack(graph), 3), images_for(graph, 4)
    expected = network.run(images, ["logits"])[0]
    child = os.fork()
    if child == 0:
        same = np.array_equal(network.run(images, ["logits"])[0], expected)
        network.close()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(network.run(images, ["logits"])[0], expected)


def test_calls_from_several_threads_take_turns(graph):
    network = Network(pack(graph), 2)
    batches = [images_for(graph, 1 + seed % 4, seed) for seed in range(6)]
    expected = [network.run(batch, ["logits"])[0] for batch in batches]
    wrong = []

    def run(index):
        for _ in range(30):
            if not np.array_equal(network.run(batches[index], ["logits"])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_networks_with_the_same_weights(graph):
    first = Network(pack(graph), 2)
    images = np.random.default_rng(0).integers(0, 256, (3, *graph.image_size, 3), np.uint8)
    right = first.run(images, ["probabilities", "embedding"])
    others = [first.beside(threads) for threads in (1, 2)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: one.run(images, ["probabilities", "embedding"]), [first, *others]))
    first.close()
    found += [other.run(images, ["probabilities", "embedding"]) for other in others]
    for outputs in found:
        for one, expected in zip(outputs, right, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="outside its limits"):
        others[0].beside(0)
    others[0].close()
    with pytest.raises(ValueError, match="closed"):
        others[0].beside()
    assert others[1].run(images, ["probabilities"])[0].shape == right[0].shape


def test_networks_beside_each_other_take_the_memory_of_the_weights_once():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    wide = mobilenet((32, 32), width=8)
    packed, images = pack(wide), images_for(wide, 1)
    network = Network(packed)
    expected = network.run(images, ["logits"])[0]
    before = resident()
    others = [network.beside() for _ in range(4)]
    for other in others:
        np.testing.assert_array_equal(other.run(images, ["logits"])[0], expected)
    assert resident() - before < len(packed)
