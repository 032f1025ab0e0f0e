"""Should I steer this model or just prompt it?

The public names, listed in `__init__.pyi`. Each loads when it is first asked for, so that `import bench` and
`bench --help` take no time and no torch.
"""

import os

import lazy_loader

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Read when torch loads its threads. By default one that waits for another spins: with a neighbour on one of two cores
# that costs a factor of seven. One that sleeps at once wakes too late for the next product, which costs a sixth of the
# speed of a quiet machine; GNU's OpenMP can spin for some microseconds first, about as long as the wait between two.

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
