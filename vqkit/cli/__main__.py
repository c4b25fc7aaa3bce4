"""`python -m vqkit.cli`."""

from vqkit.cli import main

if __name__ == "__main__":
    main()
