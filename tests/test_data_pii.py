"""Personal data: what must be found, what must not, and that no text makes the patterns crawl."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.pii import KINDS, find_pii, luhn

FOUND = {
    "e-mail": [
        "write to jane.doe+work@mail.example.co.uk please",
        "JANE@EXAMPLE.COM",
        "it is o'neil@example.org.",
        "jane (at) example (dot) com",
        "jane[at]example.com",
        "jane at gmail dot com",
    ],
    "phone number": [
        "+44 20 7946 0958",
        "+1 (555) 010-9999 after six",
        "call (555) 123-4567",
        "555-123-4567",
        "555.123.4567",
        "1-800-555-0199",
        "06 12 34 56 78",
        "020 7946 0958",
        "0171/1234567",
        "my phone number is 5551234567",
        "tel. 555-0199",
        "+4915112345678",
    ],
    "card number": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "5555555555554444",
        "378282246310005",
        "order 12 card 4111 1111 1111 1111 thanks",
        "6011000990139424",
    ],
    "IBAN": [
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "FR14 2004 1010 0505 0001 3M02 606 BEFORE Friday",
        "nl91abna0417164300",
    ],
    "social security number": ["123-45-6789", "my SSN is 123456789", "Social Security number: 123 45 6789"],
    "street address": [
        "221B Baker Street",
        "I live at 1600 Pennsylvania Avenue NW",
        "1600 N. Main St.",
        "12 baker street",
        "P.O. Box 123",
        "Hauptstraße 5",
        "12 rue de la Paix",
        "Calle Mayor 5",
        "Via Giuseppe Verdi, 10",
    ],
    "IP address": [
        "8.8.8.8",
        "from 192.168.0.17.",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "fe80::1ff:fe23:4567:890a",
    ],
}

CLEAN = [
    "In 1969 two men walked on the moon; by 1972 there were 12.",
    "The meeting is on 2024-01-02 at 10:30:45, moved from 03/04/2023 and 5.6.2021.",
    "Add 123 456 789 and 987 654 321, then divide by 1000000.",
    "Pi is 3.14159265358979 and e is 2.718281828.",
    "Order #12345678 costs $1,234.56 and arrives in 3-5 days.",
    "Upgrade from version 1.2.3.4 to v2.0.0.1, then restart 127.0.0.1 or 0.0.0.0.",
    "12 people on the street, 3 ways to cook rice, 5 of the road trips",
    "std::vector<int> a::b and 12:30:45",
    "Call the function with 1000000 and print the result.",
    "Who is at the door? Meet me at noon dot",
    "4111 1111 1111 1112 is not a card, and 1234567890123 is a barcode.",
    "DE89 3704 0044 0532 0130 01 fails its check digits.",
    "The score was 21-15, 21-18; ISBN 978-3-16-148410-0.",
    "@someone said hi to user@localhost",
    "000-12-3456 and 666-12-3456 and 912-34-5678 were never issued",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_is_found_and_nothing_else_with_it(kind: str, text: str) -> None:
    found = find_pii(text)
    assert [pii.kind for pii in found] == [kind]
    assert 0 <= found[0].start < found[0].end <= len(text)


@pytest.mark.parametrize("text", CLEAN)
def test_is_let_through(text: str) -> None:
    assert find_pii(text) == ()


def test_finds_are_in_order_and_do_not_overlap() -> None:
    text = "8.8.8.8, jane@example.com, 4111 1111 1111 1111, +44 20 7946 0958, 221B Baker Street"
    found = find_pii(text)
    assert [pii.kind for pii in found] == [
        "IP address",
        "e-mail",
        "card number",
        "phone number",
        "street address",
    ]
    assert all(one.end <= two.start for one, two in pairwise(found))
    assert text[found[2].start : found[2].end] == "4111 1111 1111 1111"


def test_a_card_after_other_digit_groups_is_cut_out_exactly() -> None:
    text = "1234 5678 4111 1111 1111 1111 99"
    (pii,) = find_pii(text)
    assert text[pii.start : pii.end] == "4111 1111 1111 1111"


def test_luhn_by_hand() -> None:
    assert luhn("79927398713")  # the worked example of ISO/IEC 7812
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")


def test_every_kind_is_tested() -> None:
    assert set(FOUND) == set(KINDS)


@pytest.mark.parametrize("piece", ["1 ", "a.", "1-", "A1", "a@", "1:", "0 1", "Aa ", "+1 ", "call 1", "(", "DE12 "])
def test_long_texts_take_no_long_time(piece: str) -> None:
    start = time.process_time()
    find_pii(piece * (20_000 // len(piece)))
    assert time.process_time() - start < 2


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="0123456789 -.+@abcDE:()/\n", max_size=80))
def test_any_text_gives_ordered_disjoint_spans(text: str) -> None:
    found = find_pii(text)
    assert all(0 <= pii.start < pii.end <= len(text) for pii in found)
    assert all(one.end <= two.start for one, two in pairwise(found))


MANY = {
    "emails": "ab@cd.ef ",
    "mail-like": "a.b@c-",
    "cards": "4111-1111-1111-1111 ",
    "groups": "4444-",
    "ibans": "GB82WEST12345698765432 ",
    "ssns": "123-45-6789 ",
    "ips": "8.8.8.8 ",
    "colons": "a:",
    "phones": "+44 20 7946 0958 ",
    "phone-like": " 1",
    "calls": "call 1-2 ",
    "dates": "1/1/",
    "streets": "12 Baker Street, ",
    "capitals": "1 A'1",
    "rues": "1 rue A'",
    "vias": "Via A-",
}


@pytest.mark.attack("texts that slow the search for personal data down")
@pytest.mark.parametrize("name", MANY)
def test_time_grows_with_the_text_and_not_with_its_square(name: str) -> None:
    def seconds(size: int) -> float:
        text = MANY[name] * (size // len(MANY[name]))
        best = float("inf")
        for _ in range(2):
            start = time.process_time()  # of this process alone, however busy the machine is
            find_pii(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(64_000) < 16 * seconds(8_000) + 0.1  # 8 times where linear, 64 where quadratic
