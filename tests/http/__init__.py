"""Tests of the HTTP room."""  # noqa: A005 - a package of tests shadows nothing
