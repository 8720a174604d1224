"""The limits of a city and of the board."""

BOARD_SIZE = 20
NAME_MAX = 200
"""In characters. The longest real name, Bangkok's ceremonial name, has 193."""
ID_MAX = 2**31 - 1
"""The maximum of PostgreSQL's `integer`."""
CHANGE_ID_MAX = 2**63 - 1
"""The maximum of PostgreSQL's `bigint`."""
POPULATION_MAX = 100_000_000
"""In people. More than twice the biggest city; the limit keeps absurd populations off the board."""
