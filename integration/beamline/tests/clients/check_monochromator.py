"""The monochromator on beamlines that were just started, through p4p."""

import os
import time

import pytest
from p4p.client.thread import Context

from epicsrs_beamline import Beamline

ENERGIES = [8.0, 12.0, 9.5, 10.0, 10.01]
BOOTS, MOVES = (int(n) for n in os.environ.get("MONOCHROMATOR", "10,5").split(","))
LIMIT = 10.0


def settings(beamline):
    return {
        **beamline.env,
        "EPICS_PVA_ADDR_LIST": "",
        "EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{beamline.ports['pva_port']}",
    }


@pytest.mark.parametrize("boot", range(BOOTS))
def test_it_moves_from_the_first_put_on(boot):
    with Beamline() as beamline, Context("pva", conf=settings(beamline), useenv=False, nt=False) as context:
        get = lambda name: context.get(beamline.pv(name), timeout=LIMIT).value  # noqa: E731
        for move in range(MOVES):
            energy = ENERGIES[(move + boot) % len(ENERGIES)]
            start = time.monotonic()

            context.put(beamline.pv("BraggEAO"), energy, timeout=LIMIT, wait=True)

            assert time.monotonic() - start < 5
            assert get("BraggERdbkAO") == pytest.approx(energy, abs=2e-3)
            assert get("KohzuMoving").index == 0
            assert all(get(f"dcm:{axis}.DMOV") for axis in ("theta", "y", "z"))


def test_wavelength_angle_and_a_new_energy_on_the_way():
    with Beamline() as beamline, Context("pva", conf=settings(beamline), useenv=False, nt=False) as context:
        get = lambda name: context.get(beamline.pv(name), timeout=LIMIT).value  # noqa: E731
        put = lambda name, value, wait=True: context.put(beamline.pv(name), value, timeout=LIMIT, wait=wait)  # noqa: E731

        put("BraggLambdaAO", 1.5)
        assert get("BraggERdbkAO") == pytest.approx(12.39842 / 1.5, abs=2e-3)
        put("BraggThetaAO", 15.0)
        assert get("dcm:theta.RBV") == pytest.approx(15.0, abs=1e-4)

        put("BraggEAO", 20.0, wait=False)
        put("BraggEAO", 9.0)
        assert get("BraggERdbkAO") == pytest.approx(9.0, abs=2e-3)


def test_an_energy_out_of_reach_moves_nothing_and_is_answered():
    with Beamline() as beamline, Context("pva", conf=settings(beamline), useenv=False, nt=False) as context:
        get = lambda name: context.get(beamline.pv(name), timeout=LIMIT).value  # noqa: E731
        before = get("dcm:theta.RBV")

        for energy in (0.0, 1.0, 1000.0):
            context.put(beamline.pv("BraggEAO"), energy, timeout=LIMIT, wait=True)
            assert (get("dcm:theta.RBV"), get("KohzuMoving").index) == (before, 0)
            assert get("KohzuAlertBO").index == 1
            assert get("KohzuSeqMsg2SI") != ""

        context.put(beamline.pv("BraggEAO"), 8.0, timeout=LIMIT, wait=True)
        assert get("BraggERdbkAO") == pytest.approx(8.0, abs=2e-3)
        assert get("KohzuAlertBO").index == 0
