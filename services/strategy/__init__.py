"""The five strategies, one small file each, and the entry point that runs one by its name."""
