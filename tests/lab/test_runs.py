"""Runs of one and of several experiments: what is kept, left out, refused, and how far they are."""

import threading

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
import torch
from torch import nn

from vertebra.errors import UsageError, VertebraError
from vertebra.lab import NotRun, Options, Run, run, run_all
from vertebra.lab.experiment import Kind, Verdict
from vertebra.lab.statement import refusals
from vertebra.lab.translation import Translation


def tiny():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def test_a_result_is_kept_until_something_changes(experiments, tmp_path):
    calls = experiments(alpha={"seeds": 3})
    first = run("alpha")
    again = run(1)
    assert len(calls) == 1 and not first.kept and again.kept
    assert (again.date, again.seconds, again.figures) == (first.date, first.seconds, first.figures)
    assert run("alpha", fresh=True).kept is False and len(calls) == 2
    assert run("alpha", seeds=5).settings["seeds"] == 5 and len(calls) == 3
    assert run("alpha", quick=True).settings["seeds"] == 1 and len(calls) == 4
    (tmp_path / "code" / "claim01_alpha.py").write_text("NAME = 'changed'\n")
    assert not run("alpha").kept and len(calls) == 5


def test_what_depends_on_the_users_files_is_not_kept(experiments, tiny_photos):
    calls = experiments(alpha={"least_data": (2, 3), "networks": True})
    for _ in range(2):
        assert not run("alpha", data=tiny_photos).kept
        assert run("alpha", models=[tiny()]).networks == ("Sequential",)
    assert len(calls) == 4


def test_an_experiment_may_change_the_networks_it_is_given(experiments):
    calls = experiments(alpha={"networks": True}, beta={"networks": True})
    network = tiny()
    list(run_all(models=[network]))
    given = [call[2]["networks"]["Sequential"] for call in calls]
    assert network not in given and given[0] is not given[1]


def test_what_no_network_has_is_no_failure():
    reductions, parameters = run_all(["5", "1"], models=[tiny()], quick=True)
    assert (reductions.state, reductions.failed) == ("does not apply", False)
    assert reductions.reason.startswith("Sequential has no 1×1")
    assert parameters.verdict is Verdict.FAILS
    with pytest.raises(UsageError, match="Sequential has no 1×1"):
        run(5, models=[tiny()], quick=True)


def test_of_several_one_that_fails_leaves_the_others(experiments):
    def fail(setup):
        raise VertebraError("too small.")

    def crash(setup):
        raise KeyError("a bug")

    experiments(alpha={"measure": fail}, beta={}, gamma={"measure": crash})
    found = list(run_all())
    assert found[0] == NotRun("1", "alpha", "too small.", failed=True)
    assert found[1].verdict is Verdict.HOLDS
    assert found[2] == NotRun("3", "gamma", "KeyError: 'a bug'", failed=True)
    with pytest.raises(VertebraError, match="too small"):
        run("alpha")
    with pytest.raises(KeyError):
        list(run_all(["gamma"]))


def test_a_quick_run_leaves_out_what_trains(experiments):
    calls = experiments(alpha={"is_quick": False}, beta={})
    found = list(run_all(quick=True))
    assert found[0] == NotRun("1", "alpha", "it trains or times") and found[1].settings["quick"]
    assert [call[0] for call in calls] == ["beta"]
    with pytest.raises(UsageError, match=r"alpha trains or times, so there is no quick run of it. Leave out --quick"):
        run("alpha", quick=True)


def test_data_and_models_go_to_those_that_take_them(experiments, tiny_photos):
    calls = experiments(alpha={"least_data": (2, 3)}, beta={"networks": True})
    plan = Run(["all"], Options(data=tiny_photos))
    assert [entry.name for entry in plan.with_data] == ["alpha"] and plan.without == ()
    list(plan.results())
    assert [call[1].data for call in calls] == [tiny_photos, None]
    plan = Run(["all"], Options(), [tiny()])
    assert [job.entry.name for job in plan.jobs] == ["beta"] and [entry.name for entry in plan.without] == ["alpha"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "photos"}, "beta uses no data set. Leave out --data, which is for alpha."),
        ({"data": "nowhere"}, "data is 'nowhere', which does not exist; give a folder"),
        ({"data": ""}, "data is empty, as an unset variable would be; give a folder"),
        ({"data": 3}, "data is 3, which is no path; give a folder"),
        ({"data": "photos", "quick": True}, "--quick trains nothing: leave out --data."),
        ({"models": [nn.Identity()]}, "Identity does not return logits"),
        ({"models": ["resnet180"]}, "there is no model 'resnet180'. Did you mean"),
        ({"device": "tpu"}, "device is 'tpu'; it must be cpu or cuda."),
        ({"seeds": 3}, "nothing in beta is random. Leave out --seeds."),
    ],
)
def test_options_that_do_not_fit(experiments, monkeypatch, tmp_path, options, message):
    experiments(alpha={"least_data": (2, 3)}, beta={})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError) as caught:
        run("beta", **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (tiny(), ("Sequential",)),
        ((tiny(), tiny()), ("Sequential", "Sequential (2)")),
        ("squeezed.py:small", ("small",)),
        ({"a": tiny(), "b b": "squeezed.py:small"}, ("a", "b b")),
        (None, ()),
    ],
)
def test_models_are_one_or_several_and_may_have_names(experiments, tmp_path, monkeypatch, models, names):
    experiments(alpha={"networks": True})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squeezed.py").write_text(
        "from torch import nn\n"
        "def small(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    assert run("alpha", models=models).networks == names


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (3, "a model is 3. Models are of class nn.Module, or texts as --model takes them."),
        ([3], "a model is 3. Models"),
        ([tiny], "which makes a network when it is called: give what it returns. Models"),
        (tiny, "which makes a network when it is called"),
        ([nn.Flatten], "a model is <class 'torch.nn.modules.flatten.Flatten'>, which makes a network"),
        (nn.Flatten, "a model is <class 'torch.nn.modules.flatten.Flatten'>, which makes a network"),
        ([None], "a model is None."),
        ({"a": 3}, "a model is 3."),
        ({1: tiny()}, "1 names a model; give a text without a colon."),
        ({"a: b": tiny()}, "'a: b' names a model; give a text without a colon."),
    ],
)
def test_what_is_no_model(experiments, models, message):
    experiments(alpha={"networks": True})
    with pytest.raises(UsageError) as caught:
        run("alpha", models=models)
    assert message in str(caught.value)


def test_one_name_and_several(experiments):
    experiments(alpha={}, beta={})
    with pytest.raises(UsageError, match=r"run takes one experiment, and name is 'all'. For several: vertebra.lab"):
        run("all")
    assert [found.name for found in run_all("beta")] == [found.name for found in run_all(2)] == ["beta"]
    assert len(list(run_all("all"))) == 2
    with pytest.raises(TypeError, match=r"run_all\(\) got an unexpected keyword argument 'quik'"):
        run_all(["1"], quik=True)


def test_a_device_of_torch(experiments):
    experiments(alpha={})
    assert run("alpha", device=torch.device("cpu")).settings["device"] == "cpu"


def test_the_names_of_the_room():
    import vertebra.lab

    assert {"run", "run_all", "Result"} <= {*dir(vertebra.lab)} and not {"Any", "annotations"} & {*dir(vertebra.lab)}


def test_models_for_an_experiment_of_its_own_networks(experiments):
    experiments(alpha={"networks": True}, beta={})
    with pytest.raises(
        UsageError, match=r"^beta is about networks of its own. Leave out --model, which is for alpha.$"
    ):
        run("beta", models=[tiny()])
    experiments(beta={}, gamma={})
    with pytest.raises(UsageError, match="which is for no experiment"):
        Run(["all"], Options(), [tiny()])
    with pytest.raises(UsageError, match="which is for no experiment"):
        Run(["all"], Options(data="."))


@pytest.mark.parametrize("seeds", [0, 1, 2, 101, -3, "3", 3.0, True])
def test_too_few_seeds_give_no_interval(experiments, seeds):
    experiments(alpha={"seeds": 3, "decided_by": (Kind.TRAINING,)})
    with pytest.raises(UsageError, match=r"seeds is .*; it must be a whole number from 3 to 100: fewer give no interv"):
        run("alpha", seeds=seeds)


def test_a_quick_run_may_have_one_seed(experiments):
    experiments(alpha={"seeds": 5}, beta={})
    assert [found.settings["seeds"] for found in run_all(quick=True)] == [1, 0]
    assert [found.settings["seeds"] for found in run_all(quick=True, seeds=2)] == [2, 0]


def test_no_gpu(experiments, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    experiments(alpha={})
    with pytest.raises(UsageError, match=r"device is 'cuda', and torch finds no GPU here. Leave out --device"):
        run("alpha", device="cuda")


def test_progress_counts_seconds_of_all_and_never_goes_back(experiments):
    def measure(setup):
        for done in (0, 5, 10):
            setup.progress("training", done, 10)
        setup.progress("testing", 0, 2)

    experiments(alpha={"measure": measure, "seconds": 30}, beta={}, gamma={"measure": measure, "seconds": 60})
    run("beta")
    told = []
    plan = Run(["all"], Options())
    assert plan.seconds == 90 and list(plan.kept) == ["beta"]
    list(plan.results(lambda task, done=0, total=None: told.append((task, done, total))))
    assert [done for _, done, _ in told] == [0, 0, 15, 30, 30, 30, 30, 60, 90, 90]
    assert {total for *_, total in told} == {90}
    assert told[1][0] == "seconds of experiments: 1 alpha, training"
    assert len({task.partition(":")[0] for task, *_ in told}) == 1, "the rate is that of all"


def test_two_at_once_do_not_harm_each_other(experiments):
    barrier = threading.Barrier(2, timeout=10)
    experiments(alpha={"measure": lambda setup: barrier.wait()})
    found = []
    threads = [threading.Thread(target=lambda: found.append(run("alpha"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0].figures == found[1].figures and run("alpha").kept


def test_refusals_for_one_reason_are_one_line():
    def named(name):
        return type(name, (nn.Sequential,), {})(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    strided = nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    result = run(42, models=[named("One"), strided, named("Two")], quick=True)
    assert refusals(result, Translation("en")) == [
        "does not apply: One, Two: no convolution of it has a stride, so none leaves positions out."
    ]
