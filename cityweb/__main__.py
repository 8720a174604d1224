"""`python -m cityweb`: the commands, as `cityweb` and `python manage.py` run them."""

from cityweb.commands.cli import main

if __name__ == "__main__":
    main()
