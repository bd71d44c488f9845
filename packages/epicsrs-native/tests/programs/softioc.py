"""softIocPVX with access security, which has to be named before the IOC starts.

Usage: softioc.py P=prefix database...
"""

import runpy
import sys
from pathlib import Path

from epicscorelibs import ioc

macros, *databases = sys.argv[1:]
ioc.iocshRegisterCommon()
ioc.ioc(f"asSetSubstitutions {macros}")
ioc.ioc(f"asSetFilename {Path(__file__).parent.parent / 'access.acf'}")
sys.argv[1:] = ["-m", macros, *(word for database in databases for word in ("-d", database))]
runpy.run_module("pvxslibs.ioc", run_name="__main__", alter_sys=True)
