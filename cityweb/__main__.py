"""`python -m cityweb` runs the same commands as `cityweb` and `python manage.py`."""

from cityweb.commands.cli import main

if __name__ == "__main__":  # pragma: no branch (nobody imports it)
    main()
