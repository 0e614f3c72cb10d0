"""`python -m pgflo`: the same as the `pgflo` script."""

from pgflo.cli import main

if __name__ == "__main__":
    main()
