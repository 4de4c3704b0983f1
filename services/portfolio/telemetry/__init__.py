"""What a router tells of itself: traces of calls, and figures that need reading."""
