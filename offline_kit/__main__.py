"""`python -m offline_kit` and the console script."""

from offline_kit.cli.main import main

if __name__ == "__main__":
    main()
