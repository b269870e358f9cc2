"""The leaderboard: verify entries, rank them, build the site. Nothing of an entry is ever imported or run."""
