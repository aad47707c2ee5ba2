"""`python tests/simulation SEED…`: this folder is run by its path, since a package of its own name may be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
