"""The reference's selection methods. Each module is one method, found through the package's one entry point."""
