"""``python -m forgec`` is the command ``forgec``."""

from .cli.main import main

if __name__ == "__main__":
    main()
