#!/usr/bin/env python3
"""The commands of cityweb in a checkout."""

from cityweb.commands.cli import main

if __name__ == "__main__":
    main()
