"""The application as a server runs it: what starts and stops with it."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vertebra.serve import deadlines
from vertebra.serve.app import create_app
from vertebra.serve.dispatcher import Dispatcher
from vertebra.serve.model_registry import ModelRegistry


async def lifespan(app, during):
    """The ASGI protocol of a server's start and end, with `during` in between."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "state": {}}, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    await during()
    received.put_nowait({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await running


@pytest.mark.parametrize("cors", [(), ("https://good.example",)])
def test_models_and_the_sampling_of_the_lag_start_and_stop_with_it(settings, cors):
    settings = replace(settings, cors=cors)
    registry = ModelRegistry(settings)
    dispatcher = Dispatcher(settings, registry, registry.metrics)
    samplers = []

    async def during():
        assert await asyncio.to_thread(registry.wait, 30)
        samplers.extend(task for task in asyncio.all_tasks() if task.get_coro().__name__ == "sample_lag")
        assert len(samplers) == 1 and not samplers[0].done()

    asyncio.run(lifespan(create_app(dispatcher), during))
    assert samplers[0].cancelled()
    assert not registry._thread.is_alive()
    assert registry.models["tiny"].current.runner.engine is None


def test_the_lag_is_how_much_later_than_due_a_sleep_ends(monkeypatch):
    now, late = [100.0], [0.0, 0.5, 0.0, 0.0]
    sampler, found = deadlines.Deadlines(None), []

    async def sleep(seconds):
        found.append(sampler.lag_seconds)
        if not late:
            raise asyncio.CancelledError
        now[0] += seconds + late.pop(0)

    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(deadlines, "asyncio", SimpleNamespace(sleep=sleep))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(sampler.sample_lag())
    assert found == pytest.approx([0, 0, 0.5, 0.35, 0.245])
