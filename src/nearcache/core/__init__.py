"""The policy: what is fresh, who loads, what may be stored. No I/O, no event loop, no server."""
