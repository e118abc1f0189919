"""What a process does that has kernels with a sanitiser's checks: `python sanitized_kernels.py TASK FOLDER`.

FOLDER has exported files, and beside each an .npz of the same name: images and, from ONNX Runtime, the outputs. Of the
tasks, `run` compares all that the kernels compute, `damage` opens damaged packed forms, and `resize` resizes images.
"""

import ctypes
import itertools
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import vertebra_kernels
from PIL import Image

from vertebra.card import read_card
from vertebra.runtime.engine import OUTPUTS
from vertebra.runtime.kernels_engine import network_graph

BATCHES, THREADS = (1, 3, 9), (1, 2, 3, 8)
RELATIVE = 1e-5  # of an output's largest value
DAMAGES = 300
_kept = []  # guarded memory: numpy must not outlive it


def guarded(content):
    """A copy that ends where a page begins that may not be read: sanitisers do not check inline assembly."""
    flat = np.frombuffer(np.ascontiguousarray(content), np.uint8)
    size = -(-flat.size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    view = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(view.ctypes.data + size), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(memory)
    copy = view[size - flat.size : size]
    copy[:] = flat
    return copy


def graphs(folder):
    """Each name with its graph, images and right outputs."""
    for path in sorted(folder.glob("*.onnx")):
        known = np.load(path.with_suffix(".npz"))
        yield path.stem, network_graph(path, read_card(path)), known["images"], [known[name] for name in OUTPUTS]


def instruction_sets(name):
    names = vertebra_kernels.INSTRUCTION_SETS
    here = names[names.index(vertebra_kernels.instruction_set()) :]
    return here[:1] if name.endswith("-int8") else here


def require_same(name, network, images, right):
    for count in BATCHES:
        batch = guarded(images[:count]).reshape(images[:count].shape)
        for output, found, expected in zip(OUTPUTS, network.run(batch, OUTPUTS), right, strict=True):
            off = np.abs(found - expected[:count]).max() / np.abs(expected[:count]).max()
            if not off <= RELATIVE:
                sys.exit(f"{name}, {count} images: {output} differs by {off:.2g} of its largest value")


def run(folder):
    for name, graph, images, right in graphs(folder):
        for instructions in instruction_sets(name):
            packed = vertebra_kernels.pack(graph, instructions)
            for threads in THREADS:
                network = vertebra_kernels.Network(packed, threads)
                require_same(f"{name}, {instructions}, {threads} threads", network, images, right)
                network.close()
            # Two networks with the same weights at the same time, as two lanes have them.
            networks = [vertebra_kernels.Network(packed, 2)]
            networks.append(networks[0].beside(2))
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda one: require_same(name, one, images, right), networks))  # noqa: B023
            for network in networks:
                network.close()
            sys.stdout.write(f"{name} {instructions}\n")


def damage(folder):
    """Damaged forms are refused or run; nothing is read or written outside of them."""
    forms = {name.rpartition("-")[2]: (name, graph, images) for name, graph, images, _ in graphs(folder)}
    for name, graph, images in forms.values():  # one in float32, and one in int8
        random = np.random.default_rng(0)
        refused = 0
        for instructions in instruction_sets(name):
            packed = bytearray(vertebra_kernels.pack(graph, instructions))
            refused += sum(damage_one(packed, turn, random, images) for turn in range(DAMAGES))
        sys.stdout.write(f"{name} {refused} refused\n")


def damage_one(packed, turn, random, images):
    """Whether a damaged form is refused."""
    damaged = bytearray(packed)
    if turn % 3 == 0:
        del damaged[int(random.integers(len(damaged))) :]
    else:
        # The plan comes before the weights.
        for place in random.integers(4096, size=1 + turn % 4):
            damaged[place] = random.integers(256) if turn % 3 == 1 else random.choice([0, 1, 127, 128, 255])
    try:
        network = vertebra_kernels.Network(bytes(damaged), 1 + turn % 2)
    except ValueError:
        return True
    refused = False
    if network.outputs and set(OUTPUTS) <= set(network.outputs):
        with np.errstate(all="ignore"):
            try:
                network.run(images[:1], OUTPUTS)
            except (ValueError, MemoryError):
                refused = True
    network.close()
    return refused


def resize(_folder):
    """Images that end where memory may not be read, of random sizes, have Pillow's pixels."""
    random = np.random.default_rng(0)
    sizes = 60
    for _ in range(sizes):
        height, width, out_height, out_width = (int(2 ** random.uniform(0, 7)) for _ in range(4))
        if not vertebra_kernels.is_resizable((height, width), (out_height, out_width)):
            continue
        pixels = random.integers(0, 256, (height, width, 4), np.uint8)
        image = np.ascontiguousarray(pixels[..., :3])
        box = (out_width // 3, out_height // 4, out_width, out_height)
        right = np.asarray(Image.fromarray(image).resize((out_width, out_height), Image.Resampling.BICUBIC).crop(box))
        for given, instructions in itertools.product((image, pixels), instruction_sets("")):
            found = vertebra_kernels.resize(
                guarded(given).reshape(given.shape), (out_height, out_width), "bicubic", box, instructions
            )
            if not np.array_equal(found, right):
                sys.exit(
                    f"{height} x {width} to {out_height} x {out_width}, {instructions}: other pixels than Pillow's"
                )
    sys.stdout.write(f"{sizes} sizes\n")


if __name__ == "__main__":
    {"run": run, "damage": damage, "resize": resize}[sys.argv[1]](Path(sys.argv[2]))
