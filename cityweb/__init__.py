"""cityweb: the public leaderboard of the world's biggest cities."""

__version__ = "1.0.0"
