"""A p4p server of what an IOC does not serve: tables, images, unions, variants, structures of every kind.

Usage: structures.py PREFIX. Prints READY when it serves, ends with its standard input.
"""

import sys
import threading

import numpy as np
from p4p import Type, Value
from p4p.nt import NTEnum, NTNDArray, NTScalar, NTTable
from p4p.server import Server, StaticProvider
from p4p.server.thread import SharedPV

prefix = sys.argv[1]
provider = StaticProvider("structures")
kept = []


class Writable:
    """Takes every put as it is; a value of 666 is refused."""

    def put(self, pv, operation):
        if operation.name().endswith("refusing"):
            operation.done(error="no thanks")
            return
        pv.post(operation.value())
        operation.done()


def serve(name, initial, nt=None):
    pv = SharedPV(nt=nt, initial=initial, handler=Writable())
    provider.add(prefix + name, pv)
    kept.append(pv)
    return pv


serve(
    "table",
    [
        {"names": "a", "numbers": 1.5, "flags": True, "bytes": 0},
        {"names": "b", "numbers": 2.5, "flags": False, "bytes": 255},
    ],
    NTTable(columns=[("names", "s"), ("numbers", "d"), ("flags", "?"), ("bytes", "B")]),
)
serve("enum", {"index": 1, "choices": ["Off", "On"]}, NTEnum())
serve("refusing", 1.0, NTScalar("d"))
serve("unstamped", 5, NTScalar("l"))
for code in "?bBhHiIlLfds":
    value = "text" if code == "s" else (True if code == "?" else 7)
    serve(f"scalar_{code}", value, NTScalar(code))
    serve(f"array_{code}", [value, value], NTScalar("a" + code))
    # Its server has set nothing of it.
    serve(f"never_set_{code}", Value(NTScalar("a" + code).type))
serve("image_never_set", Value(NTNDArray.buildType()))
serve("uint64", 2**64 - 1, NTScalar("L"))
serve("int64", -(2**63), NTScalar("l"))

for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"):
    serve(f"image_{dtype}", np.arange(12, dtype=dtype).reshape(3, 4), NTNDArray())
serve("image_3d", np.arange(24, dtype="uint16").reshape(2, 3, 4), NTNDArray())
serve("image_1d", np.arange(5, dtype="int32"), NTNDArray())

image = NTNDArray().wrap(np.arange(6, dtype="uint8"))
image["codec.name"] = "lz4"
image["compressedSize"] = 6
image["dimension"] = [{"size": 4, "fullSize": 4, "binning": 1}, {"size": 3, "fullSize": 3, "binning": 1}]
image["uniqueId"] = 77
image["attribute"] = [{"name": "ColorMode", "value": 0, "descriptor": "Color mode", "sourceType": 0, "source": ""}]
serve("image_compressed", image)

point = Type([("x", "d"), ("y", "d")], id="point_t")
shapes = Type(
    [
        ("number", "i"),
        ("inner", ("S", "inner_t", [("text", "s"), ("array", "ad")])),
        ("points", ("aS", "point_t", [("x", "d"), ("y", "d")])),
        ("choice", ("U", "either_t", [("whole", "i"), ("words", "s")])),
        ("choices", ("aU", "either_t", [("whole", "i"), ("words", "s")])),
        ("anything", "v"),
        ("nothing", "v"),
        ("anythings", "av"),
    ],
    id="shapes_t",
)
serve(
    "shapes",
    Value(
        shapes,
        {
            "number": 3,
            "inner": {"text": "hello", "array": [1.0, 2.0]},
            "points": [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}],
            "choice": ("words", "text"),
            "choices": [("whole", 4), ("words", "x")],
            "anything": 2.5,
            "anythings": [1, "two"],
        },
    ),
)
serve(
    "pair",
    Value(
        Type([("first", "d"), ("second", ("S", "inner_t", [("text", "s"), ("count", "i")]))], id="pair_t"),
        {"first": 1.0, "second": {"text": "a", "count": 2}},
    ),
)
union = Type(
    [
        ("value", ("U", "either_t", [("whole", "i"), ("numbers", "ad")])),
        ("alarm", ("S", "alarm_t", [("severity", "i"), ("status", "i"), ("message", "s")])),
    ],
    id="epics:nt/NTUnion:1.0",
)
serve(
    "union", Value(union, {"value": ("numbers", [1.0, 2.0]), "alarm": {"severity": 1, "status": 3, "message": "high"}})
)

with Server(providers=[provider]):
    print("READY", flush=True)
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    done.wait()
