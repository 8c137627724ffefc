"""`python -m adpfl_server`: the same as the command `adpfl-server`."""

from adpfl_server.cli import main

if __name__ == "__main__":
    main()
