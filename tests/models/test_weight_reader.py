"""Reading weight files and fitting them to networks, against files that are sound, damaged, foreign and hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_module import assert_same, copies, on_meta
from torch import Tensor, nn

from vertebra.card import METADATA_KEY, Card, CardError, Preprocessing
from vertebra.errors import MissingExtraError, WeightsError
from vertebra.models import pickle_reader
from vertebra.models.state_dict import load_state_dict
from vertebra.models.weight_reader import CHECKSUM_KEY, NETWORK_KEY, checksum, read, read_card, read_state_dict

# --- reading ---------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_tensors(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "zip.pth")
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "zip.pt", "legacy.pth"):
        assert_same(read_state_dict(tmp_path / name), dict(weights))
        assert_same(read_state_dict(str(tmp_path / name)), dict(weights))
    save_file(dict(weights), tmp_path / "safe.safetensors")
    read = read_state_dict(tmp_path / "safe.safetensors")
    assert_same(dict(sorted(read.items())), dict(sorted(weights.items())))


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "parameters.pth")
    value = read_state_dict(tmp_path / "parameters.pth")["a"]
    assert type(value) is Tensor
    assert not value.requires_grad


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["VERTEBRA_TEST_EVIL"],))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    proof = tmp_path / "was-run"
    monkeypatch.setenv("VERTEBRA_TEST_EVIL", str(proof))
    path = tmp_path / "evil.pth"
    torch.save({"a": torch.ones(1), "b": Evil()}, path, _use_new_zipfile_serialization=zipped)
    # Not even where the user has switched torch's own protection off.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(WeightsError, match=r"evil\.pth' was not opened.*wants to run '(posix|nt)\.mkdir'") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_bare_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_TEST_EVIL", str(tmp_path / "was-run"))
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError, match=r"'(posix|nt)\.mkdir'"):
        read_state_dict(path)
    assert not (tmp_path / "was-run").exists()


def test_a_whole_pickled_network_is_refused_with_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pth")
    with pytest.raises(WeightsError, match=r"wants to run 'torch\.nn\.modules\.linear\.Linear'.*state_dict"):
        read_state_dict(tmp_path / "network.pth")


def test_truncated_files_at_every_kind_of_place(weights: dict[str, Tensor], tmp_path: Path) -> None:
    sound = {"zip.pth": tmp_path / "zip.pth", "old.pth": tmp_path / "old.pth", "a.safetensors": tmp_path / "s"}
    torch.save(weights, sound["zip.pth"])
    torch.save(weights, sound["old.pth"], _use_new_zipfile_serialization=False)
    save_file(dict(weights), sound["a.safetensors"])
    for name, path in sound.items():
        whole = path.read_bytes()
        for size in (9, 70, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
            cut = tmp_path / name
            cut.write_bytes(whole[:size])
            with pytest.raises(WeightsError, match=r"damaged or cut short|neither a torch"):
                read_state_dict(cut)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", r"is empty"),
        ("page.pth", b"\n<!DOCTYPE html><html><body>404</body></html>", r"is a web page, not weights"),
        ("page.safetensors", b"<html>", r"is a web page"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"git lfs pull"),
        ("noise.pth", b"GIF89a" + bytes(range(200)), r"neither a torch checkpoint nor.*b'GIF89a"),
        ("noise.safetensors", b"\xff" * 100, r"neither a torch checkpoint nor"),
        ("pickle.pth", pickle.dumps({"a": 1}, protocol=2), r"is a pickle that torch.save did not write"),
        ("cut.pkl", pickle.dumps({"a": 1}, protocol=2)[:-1], r"damaged or cut short"),
        ("broken.pth", b"PK\x03\x04" + b"\0" * 100, r"damaged or cut short"),
        ("broken.safetensors", (2**40).to_bytes(8, "little") + b"{" + b" " * 90, r"neither a torch checkpoint nor"),
        ("json.safetensors", (20).to_bytes(8, "little") + b"{" + b" " * 90, r"damaged or cut short"),
        ("photo.jpg", b"\xff\xd8\xff", r"neither a torch checkpoint nor"),
    ],
)
def test_what_is_no_weight_file_gets_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w.bin", "w.model", "w", "w.safetensors", "w.jpg"])
def test_the_content_decides_what_a_file_is(weights: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    torch.save(weights, tmp_path / name)
    assert_same(read_state_dict(tmp_path / name), dict(weights))
    save_file(dict(weights), tmp_path / name)
    assert_same(dict(sorted(read_state_dict(tmp_path / name).items())), dict(sorted(weights.items())))


@pytest.mark.parametrize("length", [0x80, 0x180, 0x8080])
def test_a_header_may_be_as_long_as_a_pickles_first_byte_says(tmp_path: Path, length: int) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + torch.ones(2).numpy().tobytes())
    assert read_state_dict(path)["a"].tolist() == [1, 1]


def test_a_missing_path_names_the_nearest_and_a_folder_its_files(saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weight file .*smal\.pth'\. Did you mean 'small\.pth'"):
        read_state_dict(saved.parent / "smal.pth")
    with pytest.raises(WeightsError, match=r"no weight file 'nowhere/x\.pth'\. Looked from "):
        read_state_dict("nowhere/x.pth")
    with pytest.raises(WeightsError, match=r"is a folder, not a weight file.*small\.pth"):
        read_state_dict(saved.parent)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match=r"is a pipe or device"):
        read_state_dict(tmp_path / "pipe.pth")


def test_an_unreadable_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:  # the superuser, as whom tests may run, could read any file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(WeightsError, match=r"small\.pth' cannot be read: Permission denied"):
        read_state_dict(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), r"holds one object of type Tensor, not named tensors"),
        ([torch.ones(2)], r"type list, not named tensors"),
        ({}, r"holds no tensors"),
        ({"epoch": 3}, r"not a dict of tensors: its entry 'epoch' is of type int"),
        ({"a": torch.ones(2), "epoch": 3}, r"entry 'epoch' is of type int"),
        ({3: torch.ones(2)}, r"its entry 3 is of type Tensor"),
        ({"a": torch.ones(2).to_sparse()}, r"entry 'a' is sparse"),
        ({"a": torch.ones(2, device="meta")}, r"entry 'a' has no values"),
    ],
)
def test_sound_files_that_are_no_dict_of_tensors(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "other.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:", "ignore:.*TorchScript:UserWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match=r"is a TorchScript program"):
        read_state_dict(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("pack", "form"),
    [
        (gzip.compress, "gzip"),
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (lambda content: b"\x28\xb5\x2f\xfd" + content, "zstd"),
        (lambda content: b"7z\xbc\xaf\x27\x1c" + content, "7-Zip"),
        (lambda content: b"Rar!\x1a\x07" + content, "RAR"),
    ],
)
def test_packed_files_are_not_unpacked(saved: Path, pack: Callable[[bytes], bytes], form: str) -> None:
    saved.write_bytes(pack(saved.read_bytes()))
    with pytest.raises(WeightsError, match=rf"small\.pth' is packed with {form}\. Unpack it"):
        read(saved)


def test_a_tar_and_a_zip_around_a_weight_file(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(saved, "small.pth")
    with pytest.raises(WeightsError, match=r"w\.tar' is packed with tar\. Unpack it"):
        read(tmp_path / "w.tar")
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(saved, "run/small.pth")
    with pytest.raises(WeightsError, match=r"w\.zip' is a zip archive with 'run/small\.pth', not torch's\. Unpack it"):
        read(tmp_path / "w.zip")


def test_a_record_that_is_damaged(saved: Path, weights: dict[str, Tensor]) -> None:
    whole = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        content = archive.read("small/data/0")
    whole[whole.index(content) + 3] ^= 0x80  # the sign of a number
    saved.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"small\.pth' is damaged.*Bad CRC-32 for file 'small/data/0'"):
        read(saved)


def test_a_record_that_is_shorter_than_its_tensor(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:4] if name == "small/data/0" else content)
    with pytest.raises(WeightsError, match=r"small\.pth' is damaged or cut short \(its parts do not fit together\)"):
        read(saved)


def test_a_compressed_archive_and_one_with_much_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "_MAX_STEPS", 10)
    torch.save({"log": list(range(100)), "more": {1, 2}}, saved)
    with pytest.raises(WeightsError, match=r"holds more than 10 other things beside its tensors\. Where you trust it"):
        read(saved)
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/data.pkl", bytes(1000))
    with pytest.raises(
        WeightsError, match=r"is a compressed archive, which torch\.save never writes\. Where you trust"
    ):
        read(saved)


# --- mapping ---------------------------------------------------------------------------------------------------------


def train_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("form", ["zip.pth", "unusual.pth", "older.pth", "safe.safetensors"])
@pytest.mark.parametrize("shared_by_default", [False, True])
def test_training_on_mapped_weights_never_writes_to_the_file(
    weights: dict[str, Tensor], tmp_path: Path, form: str, shared_by_default: bool
) -> None:
    path = tmp_path / form
    if form == "unusual.pth":  # the slower interpreter has to read what is beside the weights
        torch.save({"model": weights, "shape": torch.Size([1])}, path)
    elif path.suffix == ".pth":
        torch.save(weights, path, _use_new_zipfile_serialization=form != "older.pth")
    else:
        save_file(dict(weights), path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    flags = 1 if shared_by_default else 2  # MAP_SHARED, MAP_PRIVATE
    with torch.serialization.set_default_mmap_options(flags):
        first, second = on_meta(), on_meta()
        for model in (first, second):
            value = read(path).value
            load_state_dict(model, value.get("model", value), str(path))
    train_a_step(first)
    with torch.no_grad():
        for value in first.state_dict().values():
            value.fill_(9)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert_same(copies(second), {name: weights[name] for name in second.state_dict()})


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see mappings")
    torch.save({"a": torch.ones(1 << 20)}, tmp_path / "big.pth")
    state = read_state_dict(tmp_path / "big.pth")
    line = next(line for line in maps.read_text().splitlines() if line.endswith("big.pth"))
    assert line.split()[1] == "rw-p"
    start, stop = (int(part, 16) for part in line.split()[0].split("-"))
    assert start < state["a"].data_ptr() < stop


def test_mapped_weights_outlive_a_replaced_file(saved: Path, weights: dict[str, Tensor]) -> None:
    model = on_meta()
    load_state_dict(model, read_state_dict(saved), str(saved))
    other = saved.with_suffix(".new")
    torch.save({name: value + 1 for name, value in weights.items()}, other)
    other.replace(saved)
    assert_same(copies(model), dict(weights))


# --- what a safetensors file says beside its tensors ---------------------------------------------------------------


def test_a_card_is_read_without_the_tensors(weights: dict[str, Tensor], saved: Path, tmp_path: Path) -> None:
    card = Card("small", Preprocessing(32), ("ant", "bee"))
    path = tmp_path / "carded.weights"  # the first bytes say what it is
    save_file(weights, path, {METADATA_KEY: card.to_json()})
    assert read_card(path) == card and read(path).card == card
    assert read_card(saved) is None
    save_file(weights, path)
    assert read_card(path) is None and read(path).card is None and read(path).hidden_settings == {}
    save_file(weights, path, {METADATA_KEY: "no card"})
    with pytest.raises(CardError, match=r"carded\.weights is not a card"):
        read_card(path)


@pytest.fixture
def summed(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """A safetensors file as Vertebra writes it, with a checksum."""
    known = {METADATA_KEY: Card("small", Preprocessing(32), ("ant", "bee")).to_json(), NETWORK_KEY: "{}"}
    save_file(weights, tmp_path / "m.safetensors", known | {CHECKSUM_KEY: checksum(weights, known)})
    return tmp_path / "m.safetensors"


def test_a_file_with_a_checksum(summed: Path, weights: dict[str, Tensor]) -> None:
    assert_same(dict(sorted(read_state_dict(summed).items())), dict(sorted(weights.items())))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_is_no_utf8(summed: Path, saved: Path, weights: dict[str, Tensor]) -> None:
    folder = summed.with_name("caf\udce9")
    folder.mkdir()
    for path in (summed, saved):
        renamed = path.rename(folder / path.name)
        assert_same(dict(sorted(read_state_dict(renamed).items())), dict(sorted(weights.items())))
    card = read_card(folder / summed.name)
    assert card is not None
    assert card.classes == ("ant", "bee")


def test_one_bit_of_a_file_with_a_checksum(summed: Path) -> None:
    whole = summed.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    assert whole[start - 8 : start].endswith(b"}") or whole[start - 8 : start].endswith(b" ")
    header = whole[8:start].rstrip()
    # Without the spaces that fill the header up.
    for at in [*range(0, 8 + len(header), 5), *range(start, len(whole), 97)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 7
        summed.write_bytes(damaged)
        with pytest.raises((WeightsError, CardError)):
            read(summed)


def test_a_checksum_says_what_is_wrong(summed: Path) -> None:
    whole = bytearray(summed.read_bytes())
    whole[-1] ^= 0x80
    summed.write_bytes(whole)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"m\.safetensors' is damaged, or was changed after Vertebra wrote it"):
            read(summed)


def test_a_checksum_is_of_names_forms_and_metadata() -> None:
    base = checksum({"a": torch.ones(2, 3)}, {"x": "1"})
    assert base == checksum({"a": torch.ones(2, 3)}, {"x": "1", CHECKSUM_KEY: "0" * 64})
    assert base == checksum({"a": torch.ones(3, 2).t()}, {"x": "1"}), "of what a file holds"
    others = [
        checksum({"b": torch.ones(2, 3)}, {"x": "1"}),
        checksum({"a": torch.ones(3, 2)}, {"x": "1"}),
        checksum({"a": torch.ones(2, 3).int()}, {"x": "1"}),
        checksum({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, {"x": "1"}),
        checksum({"a": -torch.ones(2, 3)}, {"x": "1"}),
        checksum({"a": torch.ones(2, 3)}, {"x": "2"}),
        checksum({"a": torch.ones(2, 3), "b": torch.empty(0)}, {"x": "1"}),
    ]
    assert len({base, *others}) == 8


def test_what_a_network_says_of_itself(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "told.safetensors"
    for text, hidden_settings in (('{"transform_input": true}', {"transform_input": True}), ("[1]", {}), ("7", {})):
        save_file(weights, path, {NETWORK_KEY: text})
        assert read(path).hidden_settings == hidden_settings
    for text in ("{", '{"a":' * 100_000):
        save_file(weights, path, {NETWORK_KEY: text})
        with pytest.raises(WeightsError, match=r"told\.safetensors' is damaged"):
            read(path)
    save_file(weights, path, {NETWORK_KEY: "{"})
    with pytest.raises(WeightsError, match=r"told\.safetensors' is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (100_000_000, "is damaged or cut short"),  # as long as safetensors allows a header to be
        (100_000_001, "is neither a torch checkpoint nor a safetensors file"),
        (1 << 56, "is neither a torch checkpoint nor a safetensors file"),
    ],
)
def test_a_header_longer_than_allowed_is_none(length: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    with pytest.raises(WeightsError, match=message):
        read(path)


def test_whether_to_map_is_said_by_name(saved: Path) -> None:
    assert_same(read(path=saved, mapped=False).value, read(saved).value)
    with pytest.raises(TypeError):
        read(saved, False)


# --- what a file says beside its tensors ------------------------------------------------------------------------------


def test_a_card_is_read_from_safetensors_alone(weights: dict[str, Tensor], tmp_path: Path) -> None:
    card = Card("resnet18", Preprocessing(64, 64), ("a", "b"), temperature=1.25)
    path = tmp_path / "w.safetensors"
    save_file(dict(weights), path, {METADATA_KEY: card.to_json(), NETWORK_KEY: '{"low_resolution": true}'})
    assert read_card(path) == read(path).card == card
    assert read(path).hidden_settings == {"low_resolution": True}
    assert read(path).path == path
    save_file(dict(weights), path)
    assert read_card(path) is None and read(path).card is None and read(path).hidden_settings == {}
    torch.save(weights, tmp_path / "w.pth")
    assert read_card(tmp_path / "w.pth") is None and read(tmp_path / "w.pth").card is None


def test_what_a_file_says_may_be_damaged_too(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(dict(weights), path, {NETWORK_KEY: "{"})
    with pytest.raises(WeightsError, match="damaged or cut short"):
        read(path)
    save_file(dict(weights), path, {NETWORK_KEY: "[1]"})
    assert read(path).hidden_settings == {}
    save_file(dict(weights), path, {METADATA_KEY: "{}"})
    for reading in (read, read_card):
        with pytest.raises(CardError, match=r"w\.safetensors is not a card"):
            reading(path)


def test_paths_may_begin_at_home(saved: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.setenv("USERPROFILE", str(saved.parent))
    assert_same(read_state_dict("~/small.pth"), dict(weights))
    assert read_card("~/small.pth") is None


@pytest.mark.parametrize(("length", "kind"), [(100_000_000, "damaged or cut short"), (100_000_001, "neither a torch")])
def test_a_header_has_an_end(tmp_path: Path, length: int, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 90)
    for reading in (read, read_card):
        with pytest.raises(WeightsError, match=kind):
            reading(path)


def test_a_folder_names_the_weight_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a folder, not a weight file\. Name the file\.$"):
        read(tmp_path)
    for name in ("b.ckpt", "a.PTH", "c.pth.tar", "notes.txt", "photo.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match=r"Name the file\. It holds a\.PTH, b\.ckpt, c\.pth\.tar\.$"):
        read(tmp_path)


def test_files_may_be_read_without_mapping_them(saved: Path, weights: dict[str, Tensor]) -> None:
    value = read(saved, mapped=False).value
    saved.write_bytes(b"")
    assert_same(value, dict(weights))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(saved) not in maps.read_text()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.ones(2, dtype=torch.uint16), r"entry 'a' is of an unusual type\. Save ordinary"),
        (torch.ones(2, dtype=torch.complex64), r"entry 'a' is of an unusual type\."),
        ({"b": 1}, r"its entry 'a' is of type dict"),
        (None, r"its entry 'a' is of type NoneType"),
    ],
)
def test_entries_that_no_network_takes(tmp_path: Path, entry: Any, message: str) -> None:
    torch.save({"a": entry, "b": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "w.pth")


def test_a_key_of_many_parts_is_not_shown(tmp_path: Path) -> None:
    torch.save({("a", 1): torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"its entry with a key of many parts is of type Tensor"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("byteorder", b"big", r"w\.pth' was saved on a machine with another order of bytes\. Where you trust it"),
        ("constants.pkl", b"", r"w\.pth' is a TorchScript program, not a state dict\. Where you trust it"),
    ],
)
def test_archives_of_another_kind(saved: Path, tmp_path: Path, part: str, content: bytes, message: str) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as other:
        folder = whole.namelist()[0].partition("/")[0]
        parts = {info.filename: whole.read(info) for info in whole.infolist()} | {f"{folder}/{part}": content}
        for name, value in parts.items():
            other.writestr(name, value)
    with pytest.raises(WeightsError, match=message):
        read(path)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as other:
        for info in whole.infolist():
            other.writestr(info.filename, whole.read(info))
    with pytest.raises(WeightsError, match=r"is a compressed archive, which torch\.save never writes"):
        read(path)


def test_safetensors_may_be_missing(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(dict(weights), tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"^reading w\.safetensors needs packages .*vertebra\[torch\]"):
        read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("brace", [b"|", b"z"])
def test_a_file_of_another_kind_is_shown_by_its_first_twelve_bytes(brace: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes((2).to_bytes(8, "little") + brace + b"\x01\x02\x03\x04\x05")
    with pytest.raises(WeightsError) as caught:
        read(path)
    shown = (2).to_bytes(8, "little") + brace + b"\x01\x02\x03"
    assert f"is neither a torch checkpoint nor a safetensors file: it begins with {shown!r}." in str(caught.value)
