"""The engine is chosen by measuring, once; what was measured is kept and used."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from vertebra.cache import cache_dir
from vertebra.runtime import autotune as module
from vertebra.runtime import kernels_engine, mnn_engine
from vertebra.runtime.autotune import PlanTiming, candidate_plans, default_plan, fastest_plan, measure, select_fastest
from vertebra.runtime.engine import EngineError, Plan
from vertebra.runtime.predictor import Predictor

ONNX = Plan("onnxruntime", 1, 2)
MNN = Plan("mnn", 1, 2)


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels_engine, "installed", lambda: False)


@pytest.fixture
def timed(monkeypatch):
    """Measuring gives what the test says; each call is counted."""
    calls = []

    def set_to(**image):
        def measured(path, plans, batch, progress, decoding):
            calls.append(batch)
            return [PlanTiming(plan, 1.0, image[plan.engine]) for plan in plans if plan.engine in image]

        monkeypatch.setattr(module, "measure", measured)
        return calls

    monkeypatch.setattr(mnn_engine, "installed", lambda: True)
    return set_to


def test_a_single_image_gets_all_cores_and_many_get_lanes():
    assert default_plan(1, 8) == Plan("onnxruntime", lanes=1, threads=8, micro_batch=1)
    assert default_plan(16, 2) == Plan("onnxruntime", lanes=2, threads=1, micro_batch=4)
    assert default_plan(2, 8) == Plan("onnxruntime", lanes=2, threads=4, micro_batch=1)


def test_candidates(monkeypatch):
    monkeypatch.setattr(mnn_engine, "installed", lambda: True)
    assert [plan.engine for plan in candidate_plans(1, 2)] == ["onnxruntime", "mnn", "mnn"]
    assert [plan.engine for plan in candidate_plans(1, 2, "onnxruntime")] == ["onnxruntime"]
    monkeypatch.setattr(mnn_engine, "installed", lambda: False)
    assert [plan.engine for plan in candidate_plans(1, 2)] == ["onnxruntime"]
    monkeypatch.setattr(kernels_engine, "installed", lambda: True)
    assert [plan.engine for plan in candidate_plans(1, 2)] == ["onnxruntime", "kernels"]
    assert [plan.engine for plan in candidate_plans(1, 2, "kernels")] == ["kernels"]


def test_loading_counts_for_few_and_not_for_many():
    slow_start, slow = PlanTiming(MNN, 2.0, 0.010), PlanTiming(ONNX, 0.1, 0.020)
    assert select_fastest([slow, slow_start], 10).plan == ONNX
    assert select_fastest([slow, slow_start], 10_000).plan == MNN
    assert select_fastest([slow, slow_start], None).plan == MNN


def test_a_gain_within_noise_is_no_gain():
    assert select_fastest([PlanTiming(ONNX, 0.1, 0.0200), PlanTiming(MNN, 0.1, 0.0199)], None).plan == ONNX


def test_measured_once_and_kept(tiny_model, timed):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    assert fastest_plan(tiny_model, batch=16, cores=2).engine == "mnn"
    assert fastest_plan(tiny_model, batch=16, cores=2).engine == "mnn"
    assert calls == [16]
    fastest_plan(tiny_model, batch=1, cores=2)
    assert calls == [16, 1]
    (note,) = (cache_dir() / "engines").iterdir()
    assert set(json.loads(note.read_text())["measured"]) == {"batch 16, 2 cores", "batch 1, 2 cores"}


def test_what_a_named_engine_measured_decides_nothing_for_auto(tiny_model, timed):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    for engine in ("onnxruntime", "mnn", "auto") * 2:
        plan = fastest_plan(tiny_model, batch=16, cores=2, engine=engine)
        assert plan.engine == ("onnxruntime" if engine == "onnxruntime" else "mnn")
    assert calls == [16, 16, 16]


def test_a_plan_that_cannot_be_run_is_tried_once(tiny_model, timed):
    calls = timed(onnxruntime=0.02)
    for _ in range(2):
        assert fastest_plan(tiny_model, batch=16, cores=2).engine == "onnxruntime"
    assert calls == [16]


def test_a_measurement_without_some_of_the_plans_is_made_again(tiny_model, timed, monkeypatch):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    monkeypatch.setattr(mnn_engine, "has_lost_threads", lambda: True)
    assert fastest_plan(tiny_model, batch=16, cores=2).engine == "onnxruntime"
    for lost in (False, True, False):
        monkeypatch.setattr(mnn_engine, "has_lost_threads", lambda lost=lost: lost)
        assert fastest_plan(tiny_model, batch=16, cores=2).engine == ("onnxruntime" if lost else "mnn")
    assert calls == [16, 16]


def test_two_that_measure_at_once_do_it_one_after_the_other(tiny_model, timed, monkeypatch):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    measure, begun, go_on, heard = module.measure, threading.Event(), threading.Event(), []

    def slowly(*arguments, **options):
        begun.set()
        assert go_on.wait(60)
        return measure(*arguments, **options)

    def hear(text):
        heard.append(text)
        go_on.set()

    monkeypatch.setattr(module, "measure", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fastest_plan, tiny_model, batch=16, cores=2)
        assert begun.wait(60)
        second = pool.submit(fastest_plan, tiny_model, batch=16, cores=2, progress=hear)
        assert first.result() == second.result() and first.result().engine == "mnn"
    assert calls == [16] and heard == ["waiting for another process that finds the fastest engine"]


def test_nothing_is_measured_for_a_few(tiny_model, timed):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    assert fastest_plan(tiny_model, batch=16, cores=2, images=20).engine == "onnxruntime"
    assert fastest_plan(tiny_model, batch=1, cores=2, may_measure=False).engine == "onnxruntime"
    assert calls == []
    fastest_plan(tiny_model, batch=16, cores=2)
    assert fastest_plan(tiny_model, batch=16, cores=2, images=20, may_measure=False).engine == "mnn"


def test_where_the_cores_decode_as_well_plans_are_measured_so(tiny_model, monkeypatch):
    together = Plan(lanes=1, threads=2, micro_batch=16)
    asked = []

    def measure(path, plans, batch, progress, decoding):
        asked.append(decoding)
        return [PlanTiming(plan, 0.1, 0.02 if plan == together and decoding else 0.01 / plan.threads) for plan in plans]

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(mnn_engine, "installed", lambda: False)
    network = Predictor(tiny_model, threads=2)
    assert network.tune(16) == together
    assert network.runner(16, tune=True).plan.lanes == network.runner(16).plan.lanes == 2
    assert fastest_plan(tiny_model, batch=16, cores=2) == together
    assert asked == [False, True]


def test_another_version_makes_it_void(tiny_model, timed, monkeypatch):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    fastest_plan(tiny_model, batch=16, cores=2)
    monkeypatch.setattr(module, "_package_versions", lambda: {"MNN": "99"})
    fastest_plan(tiny_model, batch=16, cores=2)
    assert calls == [16, 16]


@pytest.mark.parametrize("content", ["", "[]", '{"setting": 1}', '{"measured": {"batch 16, 2 cores": [1]}}'])
def test_a_damaged_note_is_measured_again(tiny_model, timed, content):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    fastest_plan(tiny_model, batch=16, cores=2)
    (note,) = (cache_dir() / "engines").iterdir()
    note.write_text(content)
    assert fastest_plan(tiny_model, batch=16, cores=2).engine == "mnn"
    assert calls == [16, 16]


@pytest.mark.parametrize(("decoding", "rounds"), [(False, 2), (True, 1)])
def test_a_real_measurement(tiny_model, monkeypatch, decoding, rounds):
    monkeypatch.setattr(module, "_SECONDS", 0.05)
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    said = []
    found = measure(tiny_model, [Plan(), Plan(lanes=2, micro_batch=2)], 4, said.append, decoding=decoding)
    assert [entry.plan.lanes for entry in found] == [1, 2]
    assert all(0 < entry.image < 1 and 0 < entry.load < 60 for entry in found)
    assert "onnxruntime" in said[0]


def test_an_engine_that_cannot_run_the_file_is_left_out(tiny_model, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(tiny_model.read_bytes()[:-500])
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        measure(broken, [Plan()], 1)
    found = measure(tiny_model, [Plan(), replace(MNN, engine="none")], 1)
    assert [entry.plan.engine for entry in found] == ["onnxruntime"]


def test_the_predictor_tunes_itself(tiny_model, timed):
    calls = timed(onnxruntime=0.02, mnn=0.01)
    network = Predictor(tiny_model, threads=2, progress=lambda what: None)
    assert network.tune(16).engine == "mnn"
    assert network.tune(16).engine == "mnn"
    assert calls == [16]
