"""Selection methods of the reference and of the literature. Each module is one, found through the one entry point."""
