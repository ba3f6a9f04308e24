"""Keys: the sanitised text is exactly as specified, and no two pairs of namespace and key share a stored key."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearcache import InvalidArgument, InvalidKey, InvalidNamespace, sanitize_key
from nearcache.core.keys import MAX_KEY, Namespace

TEXT = st.text(st.characters(), min_size=1, max_size=60) | st.text("ab:._-~/ *", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("key", "sanitized"),
    [
        ("user:123", "user:123"),
        ("user/123<script>", "user_123_script"),
        ("_own_", "_own_"),
        ("/_", "_"),
        ("<a>", "a"),
        ("a  \n b", "a_b"),
        ("///", ""),
        ("x" * 300, "x" * 200),
        ("ключ:1", ":1"),
        ("a\x00b", "a_b"),
        ("\x00", ""),
    ],
)
def test_sanitize_key(key: str, sanitized: str) -> None:
    assert sanitize_key(key) == sanitized


@settings(deadline=None)
@given(TEXT)
def test_sanitized_keys_are_in_the_alphabet_and_stay_as_they_are(key: str) -> None:
    sanitized = sanitize_key(key)
    assert re.fullmatch(r"[A-Za-z0-9:._-]{0,200}", sanitized)
    assert sanitized == "" or sanitize_key(sanitized) == sanitized


def test_plain_keys_are_stored_as_they_are() -> None:
    assert Namespace("session").key("user:123") == b"session:user:123"
    assert Namespace("session", "shop:").key("user:123") == b"shop:session:user:123"


def test_changed_keys_carry_a_digest() -> None:
    stored = Namespace("app").key("user/123<script>")
    assert re.fullmatch(rb"app:user_123_script~[0-9a-f]{32}", stored)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_no_two_pairs_share_a_stored_key(space: str, key: str, other_space: str, other_key: str) -> None:
    assume((space, key) != (other_space, other_key))
    assert Namespace(space).key(key) != Namespace(other_space).key(other_key)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT)
def test_a_namespace_head_is_no_beginning_of_anothers_keys(space: str, other: str, key: str) -> None:
    """``clear`` removes whatever begins with the head."""
    assume(space != other)
    assert not Namespace(other).key(key).startswith(Namespace(space).head)
    assert not Namespace(other).counter.startswith(Namespace(space).head)
    assert Namespace(space).key(key).startswith(Namespace(space).head)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_nothing_a_caller_types_names_a_counter(space: str, other: str, key: str, tag: str) -> None:
    site = Namespace(space)
    assert Namespace(other).key(key) not in {site.counter, site.tag_counter(site.tag(tag))}


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_no_two_pairs_share_a_tag_counter(space: str, tag: str, other_space: str, other_tag: str) -> None:
    assume((space, tag) != (other_space, other_tag))
    site, other = Namespace(space), Namespace(other_space)
    assert site.tag_counter(site.tag(tag)) not in {other.tag_counter(other.tag(other_tag)), other.counter}


@settings(deadline=None)
@given(TEXT)
def test_a_tag_fits_into_an_envelope_and_is_itself_when_it_can_be(tag: str) -> None:
    stored = Namespace("app").tag(tag)
    assert len(stored) <= MAX_KEY + 33 <= 255
    assert (stored == tag.encode("utf-8", "surrogatepass")) == bool(re.fullmatch(r"[A-Za-z0-9:._-]{1,200}", tag))


@settings(deadline=None)
@given(TEXT, TEXT)
def test_stored_keys_have_no_character_that_means_something_to_scan(space: str, key: str) -> None:
    assert len(Namespace(space).key(key)) <= 2 * (MAX_KEY + 33) + 1
    assert not set(Namespace(space).head) & set(b"*?[]\\^")


@pytest.mark.parametrize("key", ["", None, 5, b"x", ["x"]])
def test_what_is_no_key(key: object) -> None:
    with pytest.raises(InvalidKey, match="must"):
        sanitize_key(key)  # type: ignore[arg-type]
    with pytest.raises(InvalidKey, match="must"):
        Namespace("app").key(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", None, 5, b"x"])
def test_what_is_no_namespace(name: object) -> None:
    with pytest.raises(InvalidNamespace, match="must"):
        Namespace(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("tag", ["", None, 5, b"x"])
def test_what_is_no_tag(tag: object) -> None:
    with pytest.raises(InvalidArgument, match="must"):
        Namespace("app").tag(tag)  # type: ignore[arg-type]
