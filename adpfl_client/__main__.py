"""`python -m adpfl_client`: the same as the installed command `adpfl-client`."""

from adpfl_client.cli import main

if __name__ == "__main__":
    main()
