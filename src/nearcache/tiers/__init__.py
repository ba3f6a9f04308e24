"""The tiers an entry can be in: this process (memory) and the server (remote)."""
