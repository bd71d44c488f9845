"""A p4p server of structures at the edges of the normative types, and of PVs that change when they are told to.

Usage: odd_structures.py PREFIX. Prints READY when it serves, ends with its standard input.
"""

import sys
import threading

import numpy as np
from p4p import Type, Value
from p4p.nt import NTEnum, NTNDArray, NTScalar, NTTable
from p4p.server import Server, StaticProvider
from p4p.server.thread import SharedPV

prefix = sys.argv[1]
provider = StaticProvider("odd structures")
kept = {}


class Writable:
    """Takes every put as it is."""

    def put(self, pv, operation):
        pv.post(operation.value())
        operation.done()


def serve(name, initial, nt=None, handler=None):
    kept[name] = SharedPV(nt=nt, initial=initial, handler=handler or Writable())
    provider.add(prefix + name, kept[name])


# ---- tables

CODES = "?bBhHiIlLfds"
rows = [{f"column_{n}": "x" if code == "s" else row for n, code in enumerate(CODES)} for row in (0, 1)]
serve("table_of_every_type", rows, NTTable(columns=[(f"column_{n}", code) for n, code in enumerate(CODES)]))
serve("table_without_rows", [], NTTable(columns=[("numbers", "d"), ("texts", "s")]))
columns = NTTable.buildType(columns=[("numbers", "ad"), ("texts", "as")])
uneven = {"numbers": [1.0, 2.0, 3.0], "texts": ["x"]}
serve("table_of_uneven_columns", Value(columns, {"labels": ["N", "T"], "value": uneven}))
serve("table_without_labels", Value(columns, {"value": {"numbers": [1.0], "texts": ["x"]}}))
point = ("aS", "point_t", [("x", "d")])
either = ("aU", None, [("whole", "i"), ("words", "s")])
table = [("labels", "as"), ("value", ("S", None, [("eithers", either), ("anythings", "av"), ("points", point)]))]
value = {"eithers": [("whole", 1), ("words", "q")], "anythings": [1, "b"], "points": [{"x": 1.0}, {"x": 2.0}]}
serve("table_of_structures", Value(Type(table, id="epics:nt/NTTable:1.0"), {"labels": ["E", "A", "P"], "value": value}))

# ---- images: (union member, elements), sizes of the dimensions

MEMBERS = {"boolean": "?", "byte": "i1", "ubyte": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
MEMBERS |= {"long": "i8", "ulong": "u8", "float": "f4", "double": "f8"}


def image(member, elements, sizes, **fields):
    dimensions = [{"size": size, "fullSize": size, "binning": 1} for size in sizes]
    made = Value(NTNDArray.buildType(), {"value": (f"{member}Value", elements), "dimension": dimensions})
    for name, given in fields.items():
        made[name.replace("__", ".")] = given
    return made


for member, code in MEMBERS.items():
    dtype = np.dtype(code)
    low, high = (0, 1) if code == "?" else (0.25, 3) if code[0] == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    serve(f"image_{member}", image(member, np.array([low, high, 1, 0], dtype), [2, 2]))
bytes_ = np.arange(12, dtype="u1")
serve("image_of_nothing", Value(NTNDArray.buildType(), {}))
serve("image_without_dimensions", image("ubyte", bytes_, []))
serve("image_of_wrong_dimensions", image("ubyte", bytes_, [5, 3]))
serve("image_of_negative_dimensions", image("ubyte", bytes_, [-4, -3]))
serve("image_of_dimensions_that_overflow", image("ubyte", bytes_[:0], [65536] * 4))
serve("image_of_huge_empty_dimensions", image("ubyte", bytes_[:0], [2**31 - 1] * 3 + [0]))
serve("image_of_seventy_dimensions", image("ubyte", bytes_[:1], [1] * 70))
serve("image_of_five_dimensions", image("ubyte", bytes_, [3, 1, 2, 1, 2]))
serve("image_without_elements", image("ubyte", bytes_[:0], [0, 5]))
serve("image_compressed_to_its_own_size", image("ubyte", bytes_, [4, 3], codec__name="lz4", compressedSize=12))

# ---- unions and variants as values

union = Type([("value", ("U", None, [("whole", "i"), ("words", "s"), ("point", ("S", "point_t", [("x", "d")]))]))])
serve("union_of_nothing", Value(union, {}))
serve("union_of_whole", Value(union, {"value": ("whole", 7)}))
serve("union_of_words", Value(union, {"value": ("words", "text")}))
serve("union_of_point", Value(union, {"value": ("point", {"x": 2.5})}))
variant = Type([("value", "v")])
serve("variant_of_nothing", Value(variant, {}))
serve("variant_of_long", Value(variant, {"value": 2**63 - 1}))
serve("variant_of_text", Value(variant, {"value": "text"}))
serve("variant_of_texts", Value(variant, {"value": ["a", "b"]}))
serve("variant_of_boolean", Value(variant, {"value": True}))
serve("variant_of_point", Value(variant, {"value": Value(Type([("x", "d")], id="point_t"), {"x": 4.0})}))
serve("unions", Value(Type([("value", either)]), {"value": [("whole", 1), None, ("words", "z")]}))
serve("no_unions", Value(Type([("value", either)]), {}))
serve("points", Value(Type([("value", point)]), {"value": [{"x": 1.0}, None, {"x": 2.0}]}))
serve("no_variants", Value(Type([("value", "av")]), {}))
serve("structure_of_nothing", Value(Type([("inner", ("S", None, []))]), {}))
matrix = Type([("value", "ad"), ("dim", "ai")], id="epics:nt/NTMatrix:1.0")
serve("matrix", Value(matrix, {"value": [1.0, 2.0, 3.0, 4.0], "dim": [2, 2]}))

# ---- enums, and what changes when it is told to

serve("enum_without_choices", {"index": 0, "choices": []}, NTEnum())
serve("enum_beyond_its_choices", {"index": 7, "choices": ["a", "b"]}, NTEnum())
serve("enum_below_its_choices", {"index": -1, "choices": ["a", "b"]}, NTEnum())
serve("enum_of_forty", {"index": 33, "choices": [f"choice {n}" for n in range(40)]}, NTEnum())
serve("enum_that_changes", {"index": 1, "choices": ["a", "b"]}, NTEnum())
serve("closing", 1.0, NTScalar("d"))


class Orders:
    """Does what is put to it."""

    def put(self, pv, operation):
        order = operation.value().raw.value
        if order == "change":
            kept["enum_that_changes"].post({"index": 2, "choices": ["q", "w", "e"]})
        if order == "close":
            kept["closing"].close()
        if order == "open":
            kept["closing"].open(2.0)
        operation.done()


class Broken:
    """Fails on every put."""

    def put(self, pv, operation):
        raise RuntimeError("it broke: µ")


serve("orders", "", NTScalar("s"), Orders())
serve("broken", 1.0, NTScalar("d"), Broken())

with Server(providers=[provider]):
    print("READY", flush=True)
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    done.wait()
