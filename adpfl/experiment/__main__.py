"""`python -m adpfl.experiment` is the command `adpfl`."""

from adpfl.experiment.cli import main

if __name__ == "__main__":
    main()
