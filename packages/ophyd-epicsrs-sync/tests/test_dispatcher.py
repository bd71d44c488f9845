import threading

import ophyd
import pytest
from ophyd._dispatch import wrap_callback  # noqa: PLC2701 (what other layers use)

from deadline import until


@pytest.fixture
def dispatcher(layer):
    return ophyd.get_cl().get_dispatcher()


def test_setup_starts_one_dispatcher(dispatcher):
    assert ophyd.get_cl().setup(dispatcher.logger) is dispatcher
    assert dispatcher.is_alive()
    assert set(dispatcher.threads) == {"metadata", "monitor", "get_put", "util0"}


@pytest.mark.parametrize("name", ["metadata", "monitor", "get_put"])
def test_a_context_runs_what_it_is_given_on_its_thread(dispatcher, name):
    ran = []

    dispatcher.get_thread_context(name).run(lambda *a, **k: ran.append((threading.current_thread().name, a, k)), 1, b=2)

    until(lambda: ran)
    assert ran == [(name, (1,), {"b": 2})]


def test_on_its_own_thread_a_context_runs_at_once(dispatcher):
    context, ran = dispatcher.get_thread_context("monitor"), []

    def outer():
        context.run(ran.append, "inner")
        ran.append("outer")

    context.run(outer)
    until(lambda: len(ran) == 2)
    assert ran == ["inner", "outer"]


def test_a_task_that_raises_stops_nothing(dispatcher, caplog):
    ran = threading.Event()

    dispatcher.schedule_utility_task(int, "no number")
    dispatcher.schedule_utility_task(ran.set)

    assert ran.wait(5.0)
    assert "no number" in caplog.text


def test_ophyds_wrapped_callbacks_run_on_the_lane(dispatcher):
    ran = []

    wrap_callback(dispatcher, "get_put", lambda **k: ran.append((threading.current_thread().name, k)))(pvname="x")

    until(lambda: ran)
    assert ran == [("get_put", {"pvname": "x"})]


def test_soft_signals_run_their_callbacks(layer):
    signal, seen = ophyd.Signal(name="soft", value=1), []
    signal.subscribe(lambda value, **_: seen.append(value))

    signal.put(2)

    assert seen == [2]
