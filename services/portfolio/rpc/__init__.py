"""The transport: gRPC servicers, and what stands around every call. No ledger rule is here."""

import os

# gRPC reads it once, when it is imported, which nothing does before this package. With its handlers
# of fork() it would write a line to stderr for each process that the router starts; such a process
# becomes another program at once, and needs none of them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Of each handshake that fails it would write a line to stderr that is no log line of ours.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
