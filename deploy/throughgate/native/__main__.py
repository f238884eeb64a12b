"""`python -m throughgate.native`: fetch and make ready all that the first start would have to, so that it
needs no network.
"""

import sys

from throughgate.native import kafka, postgres
from throughgate.native.process import NativeError

try:
    postgres.prepare()
    kafka.prepare()
except NativeError as e:
    sys.exit(str(e))
