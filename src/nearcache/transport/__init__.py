"""Ways to a server: one pipelined connection per loop, an embedded server, or no server at all."""
