"""The public API as a type checker sees it; never run."""

import nearcache

version: str = nearcache.__version__
