"""What the equity history says of a strategy, or of the whole. Pure: figures in, figures out."""
