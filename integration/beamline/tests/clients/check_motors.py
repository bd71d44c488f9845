"""The motor records, through pyepics."""

import time
from threading import Event

import pytest
from pyepics_channels import LIMIT, await_value

pytest_plugins = ["pyepics_channels"]


class TestMotor:
    @pytest.fixture(autouse=True)
    def setup(self, channel):
        self.channel = channel

    def move(self, motor, place):
        self.channel(f"{motor}.VAL").put(place, wait=True, timeout=30)

    def get(self, name):
        return self.channel(name).get(use_monitor=False)

    def test_a_put_with_completion_ends_when_it_is_there(self):
        self.move("m2", 2.0)
        assert (self.get("m2.RBV"), self.get("m2.DMOV")) == (2.0, 1)
        self.move("m2", 2.001)
        assert (self.get("m2.RBV"), self.get("m2.DMOV")) == (2.001, 1)
        self.move("m2", 0)

    def test_dmov_falls_and_rises_once_for_a_move(self):
        seen, done = [], Event()

        def watch(value, **_):
            seen.append(value)
            if seen[-2:] == [0, 1]:
                done.set()

        index = self.channel("m2.DMOV").add_callback(watch)
        self.channel("m2.VAL").put(1.0)
        assert done.wait(LIMIT)
        self.channel("m2.DMOV").remove_callback(index)
        assert seen[-2:] == [0, 1] and seen.count(0) == 1
        self.move("m2", 0)

    def test_a_stop_leaves_it_on_its_way(self):
        moving = Event()
        index = self.channel("m5.MOVN").add_callback(lambda value, **_: moving.set() if value else None)
        self.channel("m5.VAL").put(50)
        assert moving.wait(LIMIT)
        self.channel("m5.STOP").put(1)
        await_value(self.channel("m5.DMOV"), 1)
        self.channel("m5.MOVN").remove_callback(index)
        assert 0 <= self.get("m5.RBV") < 5
        assert self.get("m5.VAL") == pytest.approx(self.get("m5.RBV"), abs=0.01)

    def test_a_limit_refuses_a_move(self):
        before = self.get("m2.RBV")
        self.channel("m2.VAL").put(1000, wait=True, timeout=LIMIT)
        assert self.get("m2.LVIO") == 1
        assert self.get("m2.RBV") == before
        self.move("m2", before)

    def test_a_stalled_motor_moves_until_it_is_stopped(self):
        self.channel("m7:fault").put("Stall", wait=True)
        self.channel("m7.VAL").put(1)
        await_value(self.channel("m7.DMOV"), 0)
        start = self.get("m7.RBV")
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert (self.get("m7.DMOV"), self.get("m7.RBV")) == (0, start)
        self.channel("m7.STOP").put(1)
        await_value(self.channel("m7.DMOV"), 1)
        self.channel("m7:fault").put("None", wait=True)
        self.move("m7", 1)
        assert self.get("m7.RBV") == 1
        self.move("m7", 0)

    def test_a_limit_switch_ends_a_move(self):
        self.channel("m7:fault").put("High limit", wait=True)
        self.channel("m7.VAL").put(5, wait=True, timeout=LIMIT)
        assert (self.get("m7.HLS"), self.get("m7.DMOV")) == (1, 1)
        assert self.get("m7.RBV") < 1
        self.channel("m7:fault").put("None", wait=True)
        self.move("m7", 0)

    def test_backlash_is_taken_out_from_one_side(self):
        self.move("m6", 1.0)
        self.move("m6", 0.0)
        assert self.get("m6.RBV") == 0.0
        assert self.get("m6.BDST") == pytest.approx(0.1)

    def test_a_motor_may_run_backwards_with_an_offset(self):
        self.move("m8", 12.0)
        assert (self.get("m8.RBV"), self.get("m8.DRBV")) == (pytest.approx(12.0), pytest.approx(-2.0))
        self.move("m8", 10.0)

    def test_jog_tweak_and_home_move_it(self):
        self.channel("m2.TWV").put(0.5, wait=True)
        self.channel("m2.TWF").put(1, wait=True, timeout=LIMIT)
        assert self.get("m2.RBV") == pytest.approx(0.5)
        far = Event()
        index = self.channel("m2.RBV").add_callback(lambda value, **_: far.set() if value > 0.6 else None)
        self.channel("m2.JOGF").put(1)
        assert far.wait(LIMIT)
        self.channel("m2.RBV").remove_callback(index)
        self.channel("m2.JOGF").put(0)
        await_value(self.channel("m2.DMOV"), 1)
        assert self.get("m2.RBV") > 0.5
        self.channel("m2.HOMF").put(1, wait=True, timeout=LIMIT)
        await_value(self.channel("m2.DMOV"), 1)
        assert self.get("m2.RBV") == 0
