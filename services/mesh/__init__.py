"""The local mesh: PostgreSQL, the router, Envoy and the strategies on one machine (`make up`)."""
