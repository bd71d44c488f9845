"""A p4p server of images as fast as they go. Usage: frames.py PV."""

import itertools
import sys
import time

import numpy as np
from p4p.nt import NTNDArray
from p4p.server import Server
from p4p.server.thread import SharedPV

SHAPE = (2048, 2048)
# Far more than go through; the server drops what does not.
PERIOD = 1e-3

kind = NTNDArray()
# Posted again and again, they are not copied here.
frames = [kind.wrap(np.full(SHAPE, number, np.uint16)) for number in range(8)]
pv = SharedPV(initial=frames[0])

with Server(providers=[{sys.argv[1]: pv}]):
    print("ready", flush=True)
    for frame in itertools.cycle(frames):
        pv.post(frame)
        time.sleep(PERIOD)
