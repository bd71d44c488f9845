"""A simulated beamline for tests: `with Beamline() as beamline: beamline.env, beamline.prefix`."""

from epicsrs_beamline._beamline import Beamline, BeamlineError

__all__ = ["Beamline", "BeamlineError"]
