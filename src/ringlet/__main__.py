"""`python -m ringlet`: the command line."""

from ringlet.launcher.cli import main

if __name__ == "__main__":
    main()
