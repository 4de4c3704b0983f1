"""The equity history: sessions that close, the curve of their closes, and what it says."""
