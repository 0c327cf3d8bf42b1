"""`python -m cutaway` is the `cutaway` command."""

from cutaway.cli import app

if __name__ == "__main__":
    app()
