"""Should I steer this model or just prompt it?

The public names, listed in `__init__.pyi`. Each loads when it is first asked for, so that `import bench` and
`bench --help` take no time and no torch.
"""

import os

import lazy_loader

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when torch loads its threads. By default one that waits for another spins: with a neighbour on one of two cores
# that costs a factor of seven.

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
