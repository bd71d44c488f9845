"""Compare the public names of epicsrs_native with those that adapters were written for.

    uv run --group lint python ci/abi.py check    # fail when something in ci/abi.txt is gone or takes other arguments
    uv run --group lint python ci/abi.py write    # the names as they are now, with each release

A new name, or a new keyword with a default, passes. What breaks needs a new major version of epicsrs-native, and a
require_abi() in each adapter that says so.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "ci" / "abi.txt"
PACKAGE = "epicsrs_native"
COLOUR = re.compile(r"\x1b\[\d+m")
STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}


def signature(function: griffe.Function) -> str:
    """Its parameters and defaults, without types: those are for the type checker to compare."""
    words: list[str] = []
    kinds = [parameter.kind for parameter in function.parameters]
    for number, parameter in enumerate(function.parameters):
        if parameter.kind is griffe.ParameterKind.keyword_only and "*" not in "".join(words):
            words.append("*")
        default = f"={parameter.default}" if parameter.default is not None and parameter.kind not in STARS else ""
        words.append(f"{STARS.get(parameter.kind, '')}{parameter.name}{default}")
        last_positional = kinds[number + 1 :][:1] != [griffe.ParameterKind.positional_only]
        if parameter.kind is griffe.ParameterKind.positional_only and last_positional:
            words.append("/")
    return ", ".join(words)


def lines(name: str, thing: griffe.Object | griffe.Alias, indent: str = "") -> Iterator[str]:
    """A stub of it."""
    if thing.is_alias:
        thing = thing.final_target
    if thing.is_class:
        bases = ", ".join(str(base).rsplit(".", 1)[-1] for base in thing.bases)
        yield f"{indent}class {name}({bases}):"
        members = {**thing.inherited_members, **thing.members}
        public = sorted(member for member in members if not member.startswith("_") or member == "__init__")
        for member in public:
            yield from lines(member, members[member], indent + "    ")
        if not public:
            yield f"{indent}    ..."
    elif thing.is_function:
        yield f"{indent}def {name}({signature(thing)}): ..."
    else:
        yield f"{indent}{name}: ..."


def current() -> str:
    """A stub of the public names, those of the modules that adapters' users import beside it included."""
    package = griffe.load(PACKAGE, search_paths=[ROOT / "packages" / "epicsrs-native" / "python"])
    result: list[str] = []
    for module, prefix in ((package, ""), (package["compat"], "compat_")):
        for name in sorted(str(name) for name in module.exports or ()):
            result += lines(prefix + name, module[name])
    return "\n".join(result) + "\n"


def breakages(before: str, after: str) -> list[str]:
    """What the second stub no longer has of the first."""
    old, new = (griffe.visit(PACKAGE, filepath=Path(f"{PACKAGE}.pyi"), code=code) for code in (before, after))
    found = [breakage.explain(griffe.ExplanationStyle.ONE_LINE) for breakage in griffe.find_breaking_changes(old, new)]
    return [COLOUR.sub("", line) for line in found]


def main(what: str) -> None:
    """Compare, or write."""
    stub = current()
    if what == "write":
        SNAPSHOT.write_text(stub)
    elif found := breakages(SNAPSHOT.read_text(), stub):
        sys.exit("\n".join([*found, "code written for the names in ci/abi.txt would break"]))


if __name__ == "__main__":
    if sys.argv[1:] not in (["check"], ["write"]):
        sys.exit(__doc__)
    main(sys.argv[1])
