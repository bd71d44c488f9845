"""softIocPVX with access security, which has to be named before the IOC starts.

Usage: softioc.py P=prefix database...
"""

import runpy
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# The package by itself imports setuptools, which is most of an IOC's start; its runtime half needs none of that.
found = find_spec("setuptools_dso")
assert found is not None
package = sys.modules["setuptools_dso"] = ModuleType("setuptools_dso")
package.__path__ = list(found.submodule_search_locations or [])
runtime = import_module("setuptools_dso.runtime")
vars(package).update(find_dso=runtime.find_dso, dylink_prepare_dso=runtime.dylink_prepare_dso)
ioc = import_module("epicscorelibs.ioc")

macros, *databases = sys.argv[1:]
ioc.iocshRegisterCommon()
ioc.ioc(f"asSetSubstitutions {macros}")
ioc.ioc(f"asSetFilename {Path(__file__).parent.parent / 'access.acf'}")
sys.argv[1:] = ["-m", macros, *(word for database in databases for word in ("-d", database))]
runpy.run_module("pvxslibs.ioc", run_name="__main__", alter_sys=True)
