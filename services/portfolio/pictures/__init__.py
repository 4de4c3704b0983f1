"""The pictures: the frontier, the equity curves and the weights, as figures and as pages."""
