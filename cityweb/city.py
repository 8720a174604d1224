"""What a city is: its limits."""

BOARD_SIZE = 20
NAME_MAX = 200
"""Characters. The longest real name, Bangkok's ceremonial one, has 193."""
ID_MAX = 2**31 - 1
"""The biggest id that a city can have."""
POPULATION_MAX = 100_000_000
"""People. More than twice the biggest city there is, so that one absurd row never owns the board."""
