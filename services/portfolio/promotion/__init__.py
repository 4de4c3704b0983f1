"""Who trades LIVE: the rule, its decisions, and the paper twin of who does."""
