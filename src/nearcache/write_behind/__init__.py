"""Write-behind: a value is readable at once and reaches its writer soon after."""

from .buffer import Buffer
from .queue import AsyncWriteBehind, WriteBehind

__all__ = ["AsyncWriteBehind", "Buffer", "WriteBehind"]
