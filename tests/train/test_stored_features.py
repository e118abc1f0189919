"""A head fitted to features in a feature store, beside the same in memory."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from vertebra.errors import VertebraError
from vertebra.train import discriminant, logistic_regression
from vertebra.train.design_matrix import design_matrix
from vertebra.train.discriminant import fit_discriminant
from vertebra.train.feature_store import FeatureStore
from vertebra.train.linear_head import cross_validate
from vertebra.train.logistic_regression import Solver
from vertebra.train.stored_features import StoredFeatures

CLASSES = 5


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Stored features in random order, and labels: classes overlap, dimensions are correlated and of all scales."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 900)
    hidden = random.normal(0, 1, (CLASSES, 12))[labels] + random.normal(0, 1.2, (900, 12))
    features = (hidden @ random.normal(0, 1, (12, 30)) + random.normal(0, 0.5, (900, 30)) + 4).astype(np.float32)
    features *= np.geomspace(1e-2, 1e2, 30, dtype=np.float32)
    store = FeatureStore(tmp_path_factory.mktemp("store"), "here")
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(900)]
    for number in random.permutation(900).tolist():
        store.put(digests[number], features[number])
    store.close()
    return store.rows(digests), labels


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("vertebra.train.stored_features._BLOCK_BYTES", 4 * 30 * 70)
    monkeypatch.setattr(logistic_regression, "_BLOCK_ROWS", 110)


@pytest.mark.parametrize("strength", [1e-2, 1e-5])
@pytest.mark.parametrize("is_preconditioned", [True, False])
def test_the_optimum_is_that_of_features_in_memory(problem, strength, is_preconditioned, monkeypatch):
    if not is_preconditioned:
        monkeypatch.setattr(logistic_regression, "_MIN_PHOTOS_PER_FEATURE", np.inf)
    features, labels = problem
    memory = features.to_memory()
    solvers = [Solver(one, labels, CLASSES) for one in (features, memory)]
    heads = [solver.fit(strength, 1e-7) for solver in solvers]
    losses = [solver.evaluate_at(solver.weight, solver.decay(strength))[0] for solver in solvers]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[0] < 1.0
    logits = [head.logits(memory) for head in heads]
    assert np.abs(logits[0] - logits[1]).max() < 0.02 * logits[1].std()
    assert np.abs(heads[0].logits(features) - logits[0]).max() < 1e-3


def test_preconditioning_saves_steps(problem, monkeypatch):
    features, labels = problem
    solvers = []
    for least in (2, np.inf):
        monkeypatch.setattr(logistic_regression, "_MIN_PHOTOS_PER_FEATURE", least)
        solvers.append(Solver(features, labels, CLASSES))
        solvers[-1].fit(1e-5)
    assert solvers[0].steps < 0.6 * solvers[1].steps


def test_the_discriminant_is_that_of_features_in_memory(problem):
    features, labels = problem
    memory = features.to_memory()
    for kept in (slice(None), slice(0, 20)):  # more and fewer photos than features
        one, other = (fit_discriminant(x[kept], labels[kept], CLASSES + 1) for x in (features, memory))
        assert np.abs(one.logits(memory) - other.logits(memory)).max() < 1e-2


def test_cross_validation_is_that_of_features_in_memory(problem, monkeypatch):
    features, labels = problem
    folds = np.arange(900) % 3
    read = []
    monkeypatch.setattr(discriminant, "_SHIFT_PHOTOS", 100)
    monkeypatch.setattr(StoredFeatures, "to_memory", lambda self, own=StoredFeatures.to_memory: _noted(read, own, self))
    found = cross_validate(features, labels, folds, CLASSES)
    assert max(read) < 500  # samples, and not the features of a fold
    other = cross_validate(features.to_memory(), labels, folds, CLASSES)
    assert found.strength == other.strength
    assert (found.softmax_logits.argmax(1) == other.softmax_logits.argmax(1)).mean() > 0.99
    assert np.abs(found.discriminant_logits - other.discriminant_logits).max() < 0.1
    one, two = (each.recipe(np.arange(900)) for each in (found, other))
    assert one[0].discriminant_factor == pytest.approx(two[0].discriminant_factor, rel=1e-2)
    assert one[1] == pytest.approx(two[1], rel=1e-2)


def _noted(read, own, features):
    read.append(len(features))
    return own(features)


def test_logits_in_a_file(problem, monkeypatch):
    features, labels = problem
    right = Solver(features, labels, CLASSES).fit(1e-4)
    monkeypatch.setattr(logistic_regression, "_FILE_BYTES", 1000)
    found = Solver(features, labels, CLASSES).fit(1e-4)
    assert (found.weight == right.weight).all()


def test_a_full_disk_is_told_before_the_fit(problem, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logistic_regression, "_FILE_BYTES", 1000)
    monkeypatch.setattr(logistic_regression.os, "posix_fallocate", full)
    with pytest.raises(VertebraError, match=r"no room for 0\.0 GB, the logits of 900 photos .* Set TMPDIR"):
        Solver(*problem, CLASSES)


@pytest.mark.parametrize("classes", [5, 15, 16, 17, 30, 33])
def test_products_are_those_of_the_whole_matrix_whatever_the_number_of_classes(problem, classes):
    """Columns are padded where there are 15, 30 and 16 or more by little; the padding is not seen."""
    features, _ = problem
    random = torch.Generator().manual_seed(0)
    memory = torch.from_numpy(features.to_memory()).double()
    centred = memory - memory.mean(0)
    whole = torch.cat([centred / centred.norm(dim=1).mean(), torch.ones(len(memory), 1)], 1)
    weight = torch.randn(31, classes, generator=random)
    residual = torch.randn(len(memory), classes, generator=random)
    for design in (design_matrix(features), design_matrix(features.to_memory())):
        blocks = [found.clone() for _, found in design.product(weight)]
        assert torch.allclose(torch.cat(blocks).double(), whole @ weight.double(), atol=1e-4)
        gradient = design.transposed_product(lambda rows: residual[rows].clone(), classes)
        assert gradient.shape == weight.shape
        assert torch.allclose(gradient.double(), whole.T @ residual.double(), atol=1e-3)
