"""The portfolio router: a gRPC server that trading strategies trade through."""
