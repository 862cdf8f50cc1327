"""`python -m xecml.simulation.validation`."""

import sys

from xecml.simulation.validation.report import main

if __name__ == "__main__":
    sys.exit(main())
