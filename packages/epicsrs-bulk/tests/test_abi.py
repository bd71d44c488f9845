import importlib

import pytest

import epicsrs_native


def test_import_accepts_the_installed_native():
    importlib.import_module("epicsrs_bulk")


def test_a_native_of_another_abi_is_refused_with_both_versions_and_its_folder():
    with pytest.raises(ImportError) as refusal:
        epicsrs_native.require_abi(9, 0, "epicsrs-bulk")

    assert str(refusal.value) == (
        "epicsrs-bulk needs epicsrs-native>=9.0,<10; "
        f"found {epicsrs_native.__version__} at {epicsrs_native.__path__[0]}"
    )
