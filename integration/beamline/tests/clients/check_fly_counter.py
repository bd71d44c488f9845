"""The fly-scan counter, through pyepics."""

import time

import numpy as np
import pytest
from pyepics_channels import LIMIT

pytest_plugins = ["pyepics_channels"]


class TestFlyCounter:
    @pytest.fixture(autouse=True)
    def setup(self, channel):
        self.channel = lambda name: channel(f"mcs1:{name}", auto_monitor=False)
        self.put("TriggerMode", 0)
        self.put("NumPoints", 20)
        self.put("Dwell", 0.01)

    def put(self, name, value):
        self.channel(name).put(value, wait=True, timeout=LIMIT)

    def get(self, name):
        return np.atleast_1d(self.channel(name).get())

    def test_it_counts_with_a_dead_time_that_can_be_corrected(self):
        self.put("Mode", "At end")
        self.put("Acquire", 1)

        ticks, resets, events = self.get("ClockTicks"), self.get("ResetTicks"), self.get("AllEvents")
        width, truth, share = self.get("EventWidth"), self.get("TrueEvents"), self.get("Share")
        factor = ticks / (ticks - resets - events * width)
        assert ticks.tolist() == [800_000] * 20
        assert (factor > 1.05).all()
        for roi in (1, 2, 48):
            assert np.allclose(self.get(f"ROI{roi}") * factor, truth * share[roi - 1], atol=2)
        assert len(self.get("Encoder")) == len(self.get("I0")) == 20

    def test_its_arrays_grow_while_it_runs(self):
        self.put("Mode", "Growing")
        self.put("NumPoints", 100)
        lengths = set()
        self.channel("Acquire").put(1, wait=False)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.channel("Encoder").count is not None:
            lengths.add(len(self.get("ROI48")))
            if 100 in lengths and not self.channel("Acquire").get():
                break
        assert len(lengths - {0, 100}) >= 3, lengths
        assert max(lengths) == 100

    def test_it_may_be_late_by_one_acquisition(self):
        self.put("Mode", "Late")
        for points in (5, 7, 9):
            self.put("NumPoints", points)
            self.put("Acquire", 1)
        assert len(self.get("I0")) == 7

    def test_each_trigger_takes_a_point(self):
        self.put("Mode", "At end")
        self.put("TriggerMode", "External")
        self.put("NumPoints", 3)
        count = int(self.channel("AcquisitionCount").get())
        self.channel("Acquire").put(1, wait=False)
        for point in range(1, 4):
            self.channel("Trigger").put(1, wait=True)
            end = time.monotonic() + LIMIT
            while self.channel("CurrentPoint").get() < point:
                assert time.monotonic() < end, point
        end = time.monotonic() + LIMIT
        while self.channel("Acquire").get():
            assert time.monotonic() < end
        assert self.channel("AcquisitionCount").get() == count + 1
        assert len(self.get("Encoder")) == 3

    def test_a_trigger_starts_an_armed_counter(self):
        self.put("Mode", "At end")
        self.put("Arm", 1)
        end = time.monotonic() + LIMIT
        while self.channel("State").get(as_string=True) != "Armed":
            assert time.monotonic() < end
        self.put("NumPoints", 6)
        self.put("Trigger", 1)
        while self.channel("State").get(as_string=True) != "Idle":
            assert time.monotonic() < end
        assert len(self.get("I0")) == 6
