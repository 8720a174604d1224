"""cityweb: the public leaderboard of the world's biggest cities."""
