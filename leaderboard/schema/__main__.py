"""Write the published schema: `python -m leaderboard.schema`."""

from harness.files import write_bytes
from leaderboard.schema import PATH, text

if __name__ == "__main__":
    write_bytes(PATH, text().encode())
