"""The peer: the same REST API as one would write it with FastAPI and the SQLAlchemy ORM."""
