"""What the command `bench` starts, under a name that no folder of a user's has: in its process the program's own
packages come first, whatever `bench.py` or `bench` folder lies on the path."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from bench.cli import main as command

    command()


if __name__ == "__main__":
    main()
