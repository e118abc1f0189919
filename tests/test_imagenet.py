"""ImageNet's classes and wnids, against the lists that other libraries have."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from vertebra.imagenet import FORMER_NAMES, class_names, is_imagenet, wnids


def list_of_timm(name):
    """The lines of one of timm's lists; the package is not imported, which takes seconds."""
    spec = find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed")
    path = Path(spec.submodule_search_locations[0], "data", "_info", name)
    return path.read_text(encoding="utf-8").splitlines()


def test_wnids_are_sorted_as_the_logits_are():
    assert len(set(wnids())) == 1000 and wnids() == sorted(wnids())
    assert wnids() == list_of_timm("imagenet_synsets.txt")


def test_class_names_belong_to_their_wnids():
    words = dict(line.split("\t") for line in list_of_timm("imagenet_synset_to_lemma.txt"))
    first = [words[wnid].split(", ")[0] for wnid in wnids()]
    same = sum(ours == theirs for ours, theirs in zip(class_names(), first, strict=True))
    assert same > 950  # the others have another word for the same


def test_files_of_all_versions_are_recognised():
    former = [FORMER_NAMES.get(index, name) for index, name in enumerate(class_names())]
    assert is_imagenet(class_names()) and is_imagenet(former) and is_imagenet(tuple(former))
    assert not is_imagenet(None) and not is_imagenet(class_names()[:999])
    assert not is_imagenet([*class_names()[1:], "tench"])
    assert not is_imagenet([*class_names()[:999], "another"])
