"""Selection: the contract of a method, how one is found, and how it is run."""
