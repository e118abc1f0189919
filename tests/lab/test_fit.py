"""Training in memory: the loop is `vertebra.train`'s, the seed decides everything, processes change nothing."""

import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from vertebra.errors import UsageError, VertebraError  # noqa: E402
from vertebra.lab import fit_all as fit_all_module  # noqa: E402
from vertebra.lab.fit import Protocol, evaluate, fit, logits_of  # noqa: E402
from vertebra.lab.fit_all import fit_all  # noqa: E402
from vertebra.lab.small_data import digits  # noqa: E402
from vertebra.lab.small_networks import SmallResNet, SmallVGG, seeded  # noqa: E402

SHORT = Protocol(epochs=2, batch_size=8)
SMALL = partial(SmallVGG, (4, "M", 8), 8, 2)  # with dropout, so random at each step


def few(seed):
    images = digits().split(seed)
    return replace(images.few(2), val=images.val[:30], val_labels=images.val_labels[:30])


def without_time(found):
    return {arm: [replace(curve, seconds=0.0) for curve in curves] for arm, curves in found.items()}


def test_the_losses_are_those_of_a_training_run_on_the_same_pictures(tmp_path, monkeypatch):
    """`Trainer`, with its files, checkpoints and workers, gives the same losses to the last bit."""
    from vertebra.train import training_log
    from vertebra.train.distributed import Distributed
    from vertebra.train.fit import Trainer
    from vertebra.train.run_checkpoint import TrainingState, save, save_best
    from vertebra.train.validation import Split

    # Importing TensorBoard takes longer than the rest.
    without_tensorboard = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(training_log, "importlib", without_tensorboard)
    images = few(0)
    parts = []
    for name in ("train", "val"):
        paths = []
        for number, pixels in enumerate(getattr(images, name)):
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
            paths.append(tmp_path / f"{name}{number}.png")
        parts.append(Split(paths, getattr(images, f"{name}_labels")))
    alone = Distributed(0, 1, 1, torch.device("cpu"))
    network = seeded(SMALL, 0)
    save_best(tmp_path, 0, network.state_dict(), alone)
    save(tmp_path, TrainingState(), network, None, {}, alone)
    settings = replace(SHORT.settings(7), workers=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Trainer(settings, network, images.preprocessing, *parts, tmp_path, alone, lambda *what: None).fit()
    torch.set_num_threads(threads)
    log = [record for record in training_log.read_log(tmp_path) if "val_accuracy" in record]
    curve = fit(seeded(SMALL, 0), images, SHORT, 7)
    assert len(log) == 2
    assert [record["loss"] for record in log] == list(curve.train_loss)
    assert [record["accuracy"] for record in log] == list(curve.train_accuracy)
    assert [record["val_accuracy"] for record in log] == pytest.approx(curve.val_accuracy)


def test_the_seed_decides_and_torchs_random_state_is_left():
    images, state, threads = few(0), torch.random.get_rng_state(), torch.get_num_threads()
    steps = []
    one = fit(seeded(SMALL, 0), images, SHORT, 0, progress=lambda task, done, total: steps.append((done, total)))
    torch.manual_seed(5)  # does not matter
    again, other = (fit(seeded(SMALL, 0), images, SHORT, seed) for seed in (0, 1))
    torch.random.set_rng_state(state)
    assert replace(one, seconds=0) == replace(again, seconds=0)
    assert one.train_loss != other.train_loss
    assert steps == [(number, 6) for number in range(1, 7)]
    assert torch.get_num_threads() == threads
    assert {len(values) for values in (one.train_loss, one.train_accuracy, one.val_loss, one.val_accuracy)} == {2}


def test_a_network_learns_and_the_last_values_are_those_of_the_network_left_behind():
    images = few(1)
    network = seeded(partial(SmallResNet, 8, 4), 0)
    curve = fit(network, images, replace(SHORT, epochs=12), 0)
    assert curve.train_loss[-1] < 0.5 * curve.train_loss[0]
    assert not network.training
    assert evaluate(network, images.val, images.val_labels, images.preprocessing) == (
        curve.val_loss[-1],
        curve.val_accuracy[-1],
    )
    logits = logits_of(network, images.train, images.preprocessing)
    assert curve.final_train_accuracy == np.mean(logits.argmax(1) == images.train_labels) > 0.9
    assert logits_of(network, np.concatenate([images.train] * 30), images.preprocessing).shape == (600, 10)


@pytest.mark.parametrize("value", [float("nan"), 1e38])
def test_a_training_that_diverges_is_a_curve_too(value):
    network = seeded(partial(SmallResNet, 8, 4, batch_norm=False), 0)
    torch.nn.init.constant_(network.fc.weight, value)
    curve = fit(network, few(0), SHORT, 0)
    assert not np.isfinite(curve.train_loss[-1])
    assert not np.isfinite(curve.val_loss[-1])
    assert 0 <= curve.val_accuracy[-1] <= 1


def test_an_image_that_the_network_does_not_take():
    with pytest.raises(UsageError, match="8"):
        fit(SmallVGG((4, "M", 4, "M", 4, "M", 4, "M", 4)), few(0), SHORT, 0)


def first_logit(network, images):
    assert not network.training
    return float(logits_of(network, images.val[:1], images.preprocessing)[0, 0]), torch.rand(()).item()


ARMS = {"pooled": partial(SmallVGG, (4, "M", 8)), "connected": SMALL}


def test_processes_change_no_result():
    reports = []
    pooled = fit_all(ARMS, [0, 3], few, SHORT, measure=first_logit, workers=2, progress=lambda *a: reports.append(a))
    assert reports[-1] == ("training: 4 of 4 networks done", 24, 24)
    reports.clear()
    alone = fit_all(ARMS, [0, 3], few, SHORT, measure=first_logit, workers=1, progress=lambda *a: reports.append(a))
    assert without_time(pooled) == without_time(alone)
    assert [(curve.seed, len(curve.found)) for curve in alone["pooled"]] == [(0, 2), (3, 2)]
    assert [done for _, done, _ in reports] == list(range(1, 25))
    assert not multiprocessing.active_children()


def test_arms_with_the_same_tensors_begin_with_the_same_weights():
    begin = {}

    def note(name, residual, num_classes):
        network = SmallResNet(8, 4, residual=residual, num_classes=num_classes)
        begin[name] = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        return network

    arms = {str(residual): partial(note, str(residual), residual) for residual in (True, False)}
    fit_all(arms, [2], few, replace(SHORT, epochs=1), workers=1)
    assert torch.equal(begin["True"], begin["False"])
    own = seeded(partial(SmallResNet, 8, 4), 2)
    assert torch.equal(begin["True"], torch.cat([parameter.flatten() for parameter in own.parameters()]))


def test_a_protocol_is_settings_of_a_training_run():
    found = Protocol(epochs=10, lr=0.05, batch_size=50).settings(3)
    assert (found.optimizer, found.momentum, found.nesterov, found.weight_decay) == ("sgd", 0.9, True, 5e-4)
    assert (found.schedule, found.warmup, found.epochs, found.lr) == ("cosine", 2.0, 10, 0.05)
    assert (found.batch_size, found.seed, found.augment) == (50, 3, "none")


def interrupt(task, done=0, total=None):
    if done:
        raise KeyboardInterrupt


def killed(network, images):
    os.kill(os.getpid(), signal.SIGKILL)


def unfit(num_classes):
    return SmallResNet(7)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_and_errors_end_all_trainings(workers):
    with pytest.raises(KeyboardInterrupt):
        fit_all(ARMS, [0, 1], few, replace(SHORT, epochs=200), workers=workers, progress=interrupt)
    with pytest.raises(UsageError, match="depth is 7"):
        fit_all({"unfit": unfit, **ARMS}, [0, 1], few, SHORT, workers=workers)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told_in_a_sentence():
    with pytest.raises(VertebraError, match="ended from outside, most often for lack of memory"):
        fit_all(ARMS, [0], few, SHORT, measure=killed, workers=2)
    assert not multiprocessing.active_children()


def test_nothing_to_train():
    for arms, seeds in (({}, [0]), (ARMS, [])):
        with pytest.raises(UsageError, match="at least one arm and one seed"):
            fit_all(arms, seeds, few, SHORT)


def test_what_another_interpreter_cannot_import_is_trained_here(monkeypatch):
    """Where processes are spawned, as on macOS, arms may still be functions inside others."""
    monkeypatch.setattr(fit_all_module, "start_method", lambda: "spawn")
    monkeypatch.setattr(fit_all_module, "can_import_main", lambda: True)
    found = fit_all({"inside": lambda num_classes: ARMS["pooled"]()}, [0, 1], few, SHORT, workers=2)
    assert [curve.seed for curve in found["inside"]] == [0, 1]


@pytest.mark.slow
def test_spawned_processes_give_the_same(monkeypatch):
    monkeypatch.setattr(fit_all_module, "start_method", lambda: "spawn")
    monkeypatch.setattr(fit_all_module, "can_import_main", lambda: True)
    arms, images = {"pooled": partial(SmallVGG, (4, "M", 8))}, digits().split
    spawned = fit_all(arms, [0, 1], images, replace(SHORT, batch_size=64), workers=2)
    assert without_time(spawned) == without_time(
        fit_all(arms, [0, 1], images, replace(SHORT, batch_size=64), workers=1)
    )


@pytest.mark.slow
def test_deeper_plain_networks_train_worse_and_residual_ones_do_not():
    arms = {(r, d): partial(SmallResNet, d, 8, residual=r) for r in (False, True) for d in (20, 56)}
    found = fit_all(arms, [0, 1], digits().split, Protocol(epochs=6))
    last = {arm: [curve.train_loss[-1] for curve in curves] for arm, curves in found.items()}
    assert min(last[False, 56]) > 5 * max(last[False, 20])
    assert max(last[True, 56]) < min(last[False, 20])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    found = fit_all({"small": partial(SmallResNet, 8, 4)}, [0, 1], few, replace(SHORT, epochs=20), device="cuda")
    for curve in found["small"]:
        assert curve.train_loss[-1] < 0.3 * curve.train_loss[0]
