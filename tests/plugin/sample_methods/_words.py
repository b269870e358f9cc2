"""What several methods of this package share; the underscore says that it is none itself."""


def words(caption: str) -> int:
    """Number of words between white space."""
    return len(caption.split())
