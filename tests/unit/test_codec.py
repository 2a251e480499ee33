"""What a step may return, how it comes back, and that sealed bytes open only where they belong."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import subprocess
import sys
import types
import uuid
from collections.abc import Awaitable, Iterator
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray.checkpoint.codec import (
    NESTING_MAX,
    EncryptingSeal,
    PlainSeal,
    Seal,
    decode_output,
    encode_output,
    output_type,
)
from agentraft_ray.errors import InvalidConfig, LogCorrupted, OutputNotEncodable


@dataclasses.dataclass
class Row:
    name: str
    when: Any = None


@dataclasses.dataclass(slots=True, frozen=True)
class Table:
    rows: list[Row]
    _note: str = ""


class Point(NamedTuple):
    x: int
    y: int


class Color(enum.Enum):
    RED = "red"


class Packed(msgspec.Struct, tag="packed", rename="camel"):
    page_count: int


class Report(pydantic.BaseModel):
    title: str = pydantic.Field(alias="Title")
    link: pydantic.HttpUrl | None = None
    rows: list[Row] = []

    @pydantic.computed_field
    @property
    def size(self) -> int:
        return len(self.rows)


class Note(pydantic.BaseModel):
    text: str


# --- plain data ------------------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=150, deadline=None)
def test_plain_data_comes_back_equal_and_writes_the_same_bytes_again(value: Any) -> None:
    data = encode_output(value)
    back = decode_output(data)
    assert back == value
    assert encode_output(back) == data


@given(plain, st.sampled_from([{1}, object(), 2**64, "\ud800", 1j]))
@settings(max_examples=100, deadline=None)
def test_whatever_is_around_it_a_bad_value_is_refused_with_its_path(value: Any, bad: Any) -> None:
    with pytest.raises(OutputNotEncodable) as caught:
        encode_output({"before": value, "bad": [value, bad]})
    assert caught.value.field == 'output["bad"][1]'


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_output_never_do_more_than_raise_log_corrupted(data: bytes) -> None:
    with contextlib.suppress(LogCorrupted):
        decode_output(data)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.0, -0.0, 5e-324, True, 1, 2**64 - 1, -(2**63)])
def test_numbers_keep_their_value_and_kind(value: Any) -> None:
    back = decode_output(encode_output(value))
    assert type(back) is type(value)
    assert math.copysign(1, back) == math.copysign(1, value)
    assert back == value


def test_nan_survives() -> None:
    assert math.isnan(decode_output(encode_output([math.nan]))[0])


def test_order_of_a_dict_is_kept() -> None:
    assert list(decode_output(encode_output({"z": 1, "a": 2, 3: 4}))) == ["z", "a", 3]


def test_tuples_come_back_as_lists() -> None:
    assert decode_output(encode_output((1, (2,)))) == [1, [2]]


def test_dates_decimals_uuids_and_enums_are_written_as_text_or_value() -> None:
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert decode_output(encode_output(moment)) == moment
    value = [dt.date(2026, 1, 2), decimal.Decimal("1.50"), uuid.UUID(int=5), Color.RED, dt.datetime(2026, 1, 2)]  # noqa: DTZ001
    assert decode_output(encode_output(value)) == ["2026-01-02", "1.50", str(uuid.UUID(int=5)), "red", "2026-01-02T00:00:00"]


def test_subclasses_of_plain_types_lose_their_class_and_keep_their_value() -> None:
    class Text(str):  # noqa: SLOT000
        def __str__(self) -> str:
            return "something else"

    class Count(int):
        pass

    class Share(float):
        pass

    class Data(bytes):
        pass

    back = decode_output(encode_output([Text("a"), Count(3), Share(0.5), Data(b"x"), {Text("k"): 1}]))
    assert back == ["a", 3, 0.5, b"x", {"k": 1}]
    assert [type(item) for item in back[:4]] == [str, int, float, bytes]


def test_decoding_makes_fresh_objects_each_time() -> None:
    data = encode_output({"rows": [[1]]})
    one, other = decode_output(data), decode_output(data)
    one["rows"][0].append(2)
    assert other == decode_output(data) == {"rows": [[1]]}


# --- refused by name -------------------------------------------------------------------------------------------------------

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({"rows": [0, 1, 2, Row("a", {1, 2})]}, 'output["rows"][3].when', "sorted list"),
        (frozenset(), "output", "sorted list"),
        (types.MappingProxyType({}), "output", "plain data"),
        ({"a": [object()]}, 'output["a"][0]', "object"),
        ([numpy.zeros(2)], "output[0]", ".tolist()"),
        ([numpy.int64(2)], "output[0]", ".tolist()"),
        ({"n": 2**64}, 'output["n"]', "64 bits"),
        ({"n": -(2**63) - 1}, 'output["n"]', "64 bits"),
        ({2**70: 1}, "output", "64 bits"),
        (["ok", "\ud800"], "output[1]", "lone surrogate"),
        ({"\udfff": 1}, "output", "lone surrogate"),
        ([{None: 1}], "output[0]", "keys must be str or int"),
        ([{(1, 2): 1}], "output[0]", "keys must be str or int"),
        ({1.5: 1}, "output", "keys must be str or int"),
        ({dt.date(2026, 1, 1): 1}, "output", "keys must be str or int"),
        (Table([Row("a"), Row("b", open)]), "output.rows[1].when", "return"),
        (Point(1, {2}), "output.y", "sorted list"),  # type: ignore[arg-type]
        (Note.model_construct(text={1}), "output.text", "sorted list"),
        ((item for item in "abc"), "output", "collect it into a list"),
        (iter([1]), "output", "collect it into a list"),
        (1 + 2j, "output", "two parts"),
        (Row, "output", "cannot be"),
        ([msgspec.Raw(b"\x01")], "output[0]", "cannot be stored"),
        ([msgspec.msgpack.Ext(5, b"")], "output[0]", "cannot be stored"),
        (ValueError("no"), "output", "ValueError"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_path_and_what_to_do(value: Any, field: str, words: str) -> None:
    with pytest.raises(OutputNotEncodable) as caught:
        encode_output(value)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert str(caught.value).startswith(field)


async def test_a_coroutine_is_refused_with_the_advice_to_await_it() -> None:
    async def later() -> None: ...

    waiting = later()
    with pytest.raises(OutputNotEncodable, match="await it"):
        encode_output({"x": waiting})
    await waiting


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 5_000, 200_000])
def test_too_deep_nesting_is_refused(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    with pytest.raises(OutputNotEncodable, match="levels deep"):
        encode_output(value)
    while isinstance(value, list):  # a deep list must not be freed by recursion either
        value = value.pop()


def test_the_deepest_allowed_nesting_comes_back() -> None:
    value: Any = 1
    for _ in range(NESTING_MAX - 1):
        value = {"a": value}
    assert decode_output(encode_output(value)) == value


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.extend([loop, loop])
    with pytest.raises(OutputNotEncodable, match="contains itself"):
        encode_output({"a": loop})
    row = Row("a")
    row.when = row
    with pytest.raises(OutputNotEncodable, match="contains itself"):
        encode_output(row)


def test_a_secret_is_refused_and_not_shown() -> None:
    class Login(pydantic.BaseModel):
        word: pydantic.SecretStr

    with pytest.raises(OutputNotEncodable) as caught:
        encode_output(Login(word=pydantic.SecretStr("hunter2")))
    assert caught.value.field == "output.word"
    assert "hunter2" not in str(caught.value)


# --- typed -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Row("a", 1), Row),
        (Table([Row("a"), Row("b", "c")], "n"), Table),
        (Point(1, 2), Point),
        (Packed(3), Packed),
        (Report(Title="t", link="https://example.org/a", rows=[Row("a")]), Report),  # type: ignore[arg-type]
        ([Report(Title="t")], list[Report]),
        ({"a": Row("b")}, dict[str, Row]),
        (None, Row | None),
        (Note(text="n"), Report | Note),
        (Table([Row("a", Note(text="n").model_dump())]), Table),
    ],
)
def test_models_are_written_as_data_and_come_back_through_their_type(value: Any, kind: Any) -> None:
    data = encode_output(value)
    assert decode_output(data, kind) == value
    assert type(decode_output(data, kind)) is type(value)
    for name in (b"Row", b"Table", b"Point", b"Report", b"Note", b"module", b"test_codec"):
        assert name not in data


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Open(pydantic.BaseModel, extra="allow", alias_generator=str.upper):
    data: bytes = b""
    when: dt.datetime | None = None


@pytest.mark.parametrize(
    "value", [Numbers([1, 2]), Open(DATA=b"\xff", WHEN=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), more=[1])], ids=["root", "extra"]
)
def test_unusual_pydantic_models_come_back_too(value: Any) -> None:
    assert decode_output(encode_output(value), type(value)) == value


def test_without_a_type_models_come_back_as_plain_data() -> None:
    assert decode_output(encode_output(Table([Row("a", 1)], "n"))) == {"rows": [{"name": "a", "when": 1}], "_note": "n"}
    assert decode_output(encode_output(Report(Title="t"))) == {"title": "t", "link": None, "rows": []}
    assert decode_output(encode_output(Point(1, 2))) == [1, 2]


@pytest.mark.parametrize(
    ("value", "kind", "field"),
    [
        ({"rows": [{"name": "a"}, {"name": 5}]}, Table, "output.rows[1].name"),
        ({"title": 5}, Report, "output.title"),
        ("text", Row, "output"),
        ({"text": 5}, Report | Note, None),
    ],
)
def test_data_that_does_not_fit_the_annotation_is_refused_with_the_place(value: Any, kind: Any, field: str | None) -> None:
    with pytest.raises(OutputNotEncodable, match="does not fit the return annotation") as caught:
        decode_output(encode_output(value), kind)
    assert field is None or caught.value.field == field


def test_output_type_is_the_annotation_where_a_class_would_be_lost() -> None:
    def typed(ctx: Any) -> Report: ...  # type: ignore[empty-body]
    async def typed_async(ctx: Any) -> list[Row] | None: ...  # type: ignore[return]
    def plain_text(ctx: Any) -> str: ...  # type: ignore[empty-body]
    def plain_dict(ctx: Any) -> dict[str, Any]: ...  # type: ignore[empty-body]
    def unresolvable(ctx: Any) -> Missing: ...  # type: ignore[name-defined] # noqa: F821
    def two(ctx: Any) -> Row | Table: ...  # type: ignore[empty-body]
    def silent(ctx): ...  # type: ignore[no-untyped-def]

    def promised(ctx: Any) -> Awaitable[Row]: ...  # type: ignore[empty-body]
    def yielding(ctx: Any) -> Iterator[Row]: ...  # type: ignore[empty-body]
    def kind(ctx: Any) -> type[Row]: ...  # type: ignore[empty-body]

    class Made:
        def __call__(self, ctx: Any) -> Point: ...  # type: ignore[empty-body]

    assert output_type(typed) is Report
    assert output_type(typed_async) == list[Row] | None
    assert output_type(Made()) is Point
    for fn in (plain_text, plain_dict, unresolvable, two, silent, promised, yielding, kind, lambda ctx: 1, len, print, str, dict):
        assert output_type(fn) is None


def test_pydantic_and_cryptography_are_not_imported_unless_somebody_uses_them() -> None:
    code = (
        "import sys; from agentraft_ray.checkpoint.codec import *; decode_output(encode_output({'a': [1]})); PlainSeal();"
        "print([m for m in ('pydantic', 'cryptography', 'redis', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- seals -----------------------------------------------------------------------------------------------------------------

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
DIGEST = b"d" * 32


def test_a_plain_seal_changes_nothing() -> None:
    seal: Seal = PlainSeal()
    assert seal.open("r", 3, seal.seal("r", 3, b"x")) == b"x"
    assert seal.open_blob("r", DIGEST, seal.seal_blob("r", DIGEST, b"x")) == b"x"
    assert seal.blob_name(DIGEST) == DIGEST
    assert seal.blob_names(DIGEST) == (DIGEST,)


@given(st.binary(max_size=200), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_sealed_bytes_open_to_what_was_sealed_and_hide_it(data: bytes, index: int) -> None:
    seal: Seal = EncryptingSeal(NEW)
    sealed = seal.seal("run", index, data)
    assert seal.open("run", index, sealed) == data
    assert sealed != seal.seal("run", index, data)
    assert len(data) < 4 or data not in sealed


def test_sealed_bytes_open_in_their_own_place_only() -> None:
    seal = EncryptingSeal(NEW)
    record, blob = seal.seal("run", 5, b"secret"), seal.seal_blob("run", DIGEST, b"secret")
    attempts = [
        lambda: seal.open("run", 6, record),
        lambda: seal.open("other", 5, record),
        lambda: seal.open("run", 5, blob),
        lambda: seal.open_blob("run", b"e" * 32, blob),
        lambda: seal.open_blob("other", DIGEST, blob),
        lambda: seal.open_blob("run", DIGEST, record),
        lambda: seal.open("run", 5, b""),
        lambda: seal.open("run", 5, b"plain bytes that nobody sealed at all, long enough"),
        lambda: EncryptingSeal(OLD).open("run", 5, record),
        lambda: PlainSeal().open("run", 5, record),
        lambda: PlainSeal().open_blob("run", DIGEST, blob),
    ]
    for attempt in attempts:
        with pytest.raises(LogCorrupted) as caught:
            attempt()
        assert "run" in str(caught.value) or "other" in str(caught.value)


def test_every_changed_bit_is_noticed() -> None:
    seal = EncryptingSeal(NEW)
    sealed = seal.seal("run", 0, b"ab")
    for position in range(len(sealed)):
        forged = bytearray(sealed)
        forged[position] ^= 1
        with pytest.raises(LogCorrupted):
            seal.open("run", 0, bytes(forged))


def test_after_a_change_of_keys_old_records_still_open_and_new_ones_use_the_new_key() -> None:
    old, both, new = EncryptingSeal(OLD), EncryptingSeal([NEW, OLD]), EncryptingSeal(NEW)
    assert both.open("run", 0, old.seal("run", 0, b"x")) == b"x"
    assert new.open("run", 0, both.seal("run", 0, b"x")) == b"x"
    assert both.blob_names(DIGEST) == (new.blob_name(DIGEST), old.blob_name(DIGEST))
    assert both.blob_name(DIGEST) == new.blob_name(DIGEST)
    with pytest.raises(LogCorrupted, match="key that was not given"):
        new.open("run", 0, old.seal("run", 0, b"x"))


def test_keys_that_share_a_key_id_are_both_tried() -> None:
    first = os.urandom(32)
    want = EncryptingSeal(first)._ids[0]
    second = next(key for key in (os.urandom(32) for _ in range(100_000)) if EncryptingSeal(key)._ids[0] == want)
    both = EncryptingSeal([first, second])
    assert both.open("run", 0, EncryptingSeal(second).seal("run", 0, b"x")) == b"x"


def test_keys_may_be_base64_text() -> None:
    sealed = EncryptingSeal(NEW).seal("run", 0, b"x")
    for text in (
        base64.b64encode(NEW).decode(),
        base64.urlsafe_b64encode(NEW),
        base64.b64encode(NEW).decode().rstrip("=") + "\n",
    ):
        assert EncryptingSeal(text).open("run", 0, sealed) == b"x"


@pytest.mark.parametrize("key", [b"", b"short", "not base64 !!", base64.b64encode(b"x" * 31), [], "é" * 32, b"\xff" * 33])
def test_bad_keys_are_refused_without_showing_them(key: Any) -> None:
    with pytest.raises(InvalidConfig) as caught:
        EncryptingSeal(key)
    if key:
        assert str(key) not in str(caught.value)


def test_the_key_is_not_in_the_repr() -> None:
    assert repr(EncryptingSeal(NEW)) == "EncryptingSeal(1 key(s))"


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(InvalidConfig, match=r"agentraft_ray\[encryption\]"):
        EncryptingSeal(NEW)


def test_a_timestamp_that_is_none_is_damage_and_not_a_misfit() -> None:
    with pytest.raises(LogCorrupted):
        decode_output(b"\xd4\xff\x00")
