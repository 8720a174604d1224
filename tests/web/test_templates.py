"""The templates, and how they are rendered, on the parsed document."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from selectolax.lexbor import LexborNode

from cityweb.postgres.cities import BoardRow, Landing, Leaders, Stored
from cityweb.submissions import ENTERED, FIELDS
from cityweb.web import templates
from cityweb.web.board import Form, Snapshot
from tests.pages import TEMPLATES, one, parse, text

HTMX = Path("static/htmx-4.0.1.min.js")

BOARD = Snapshot(
    Leaders(
        (
            BoardRow(7, "Tokyo", 37_400_068, "", 1, new=False),
            BoardRow(3, "القاهرة", 20_076_000, "", 2, new=True),
            BoardRow(9, '<script>alert(1)</script> & "Sons"', 20_076_000, "", 2, new=False),
            BoardRow(4, "Greenhorn", 0, "", 4, new=False),
        ),
        total=4,
        newest='<script>alert(1)</script> & "Sons"',
        newest_at=datetime(2026, 11, 27, 14, 1, tzinfo=UTC),
    ),
    TEMPLATES,
)
STALE = replace(BOARD, as_of=datetime(2026, 11, 27, 14, 3, 7, tzinfo=UTC))
EMPTY = dict.fromkeys(ENTERED, "")
TWO_ERRORS = Form(
    values=EMPTY | {"name": ' "x"><b>', "population": "12x"},
    errors={
        "name": "City names must include a letter or a number.",
        "population": "Write the number in full, like 13,960,000, or as 13.96 million.",
    },
)
DUPLICATE = Form(
    values=EMPTY | {"name": "tokyo", "population": "1"},
    errors={"name": "Tokyo is already on the list, with 37,400,068 people."},
    stored=Stored(7, "Tokyo", 37_400_068, ""),
)
BOARD_TOKYO = Stored(7, "Tokyo", 37_400_068, "")
OSAKA = Landing(Stored(10, "Osaka", 5, ""), rank=10)
TRAPPED = Form(values=EMPTY | {"name": "Osaka", "population": "1"}, errors={"topic": "Leave this field empty."})


def rendered(template: str, **context: object) -> LexborNode:
    return parse(TEMPLATES.render(template, **context))


WHOLE = {"board": BOARD, "form": Form(), "landed": None, "problem": "", "live": True}


def page(**context: object) -> LexborNode:
    return rendered("page.html", **WHOLE | context)


def error_page() -> LexborNode:
    return rendered(
        "error.html", title="No such page", sentence="There is no page here.", request_id=None, entered=None, link=None
    )


def texts(soup: LexborNode, selector: str) -> list[str]:
    return [text(element) for element in soup.css(selector)]


# Rendering


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        TEMPLATES.render("_board.html")


def test_the_same_template_and_context_give_the_same_bytes() -> None:
    assert TEMPLATES.render("_board.html", board=BOARD) == TEMPLATES.render("_board.html", board=BOARD)


# The page


def test_the_page_has_one_heading_one_main_and_a_language() -> None:
    soup = page()
    assert one(soup, "main#main h1").text() == "The world's biggest cities"
    assert texts(soup, "h1, h2, h3") == ["The world's biggest cities", "Add a city", "What counts as a city?"]
    assert one(soup, "html").attrs.get("lang") == "en"


def test_the_heading_the_facts_the_links_the_board_and_the_form_stand_in_this_order() -> None:
    found = page().css("h1, #state, .jump, .rows, #city-form, #what-counts-h, footer")
    assert [element.attrs.get("id") or element.attrs["class"] for element in found[1:]] == [
        "state", "jump", "rows", "city-form", "what-counts-h", "foot",
    ]  # fmt: skip
    assert found[0].tag == "h1"


def test_the_navigation_says_where_the_visitor_is() -> None:
    assert texts(page(), ".site nav a") == ["Top 20", "All cities", "Data"]
    assert texts(page(), "[aria-current=page]") == ["Top 20"]
    assert not error_page().css("[aria-current]")


@pytest.mark.parametrize(
    ("context", "title"),
    [
        ({}, "The world's biggest cities"),
        ({"landed": OSAKA}, "Osaka is number 10, with 5 people - The world's biggest cities"),
        ({"landed": replace(OSAKA, rank=0)}, "Osaka was added, with 5 people - The world's biggest cities"),
        ({"form": TWO_ERRORS}, "Error: The world's biggest cities"),
        ({"form": TWO_ERRORS, "landed": OSAKA}, "Error: The world's biggest cities"),
        ({"problem": "The city was not saved."}, "Error: The world's biggest cities"),
    ],
)
def test_the_title_says_the_news_first(context: dict[str, object], title: str) -> None:
    assert one(page(**context), "title").text() == title


@pytest.mark.parametrize(
    ("landed", "board", "message", "link"),
    [
        (Landing(BOARD_TOKYO, rank=1), BOARD, "Tokyo is number 1, with 37,400,068 people. See it", "#city-7"),
        (
            replace(OSAKA, rank=21),
            BOARD,
            "Osaka is number 21, with 5 people. Number 20 has 0 people. See it",
            "/cities/10",
        ),
        # It has as many people as the last row, but was added later.
        (OSAKA, BOARD, "Osaka is number 10, with 5 people. See it", "/cities/10"),
        # A stale board may lack a city that belongs on it.
        (replace(OSAKA, rank=21), STALE, "Osaka is number 21, with 5 people. See it", "/cities/10"),
        (replace(OSAKA, rank=0), STALE, "Osaka was added, with 5 people. See it", "/cities/10"),
    ],
)
def test_the_message_about_an_added_city_takes_the_focus_and_leads_to_it(
    landed: Landing, board: Snapshot, message: str, link: str
) -> None:
    found = one(page(landed=landed, board=board), "#status > p[tabindex='-1'][autofocus]")
    assert text(found) == message
    assert one(found, "a").attrs.get("href") == link


def test_both_regions_are_there_and_empty_to_the_last_space() -> None:
    soup = page()
    assert one(soup, "#problem[role=alert]").inner_html == ""
    assert one(soup, "#status[role=status][aria-atomic=true]").inner_html == ""


def test_a_problem_is_told_in_its_region() -> None:
    found = texts(page(problem="The city was not saved."), "#problem > #problem-text[tabindex='-1'][autofocus] > p")
    assert found == ["The city was not saved."]


def test_a_stale_page_says_of_when_the_board_is() -> None:
    assert texts(page(), "#stale") == [""]
    soup = page(board=STALE)
    assert "Showing the board as of 14:03 UTC on 27 November 2026. Cities can't be added right now." in text(
        one(soup, "#stale")
    )
    assert one(soup, "#stale time").attrs.get("datetime") == "2026-11-27T14:03:07+00:00"
    assert not soup.css(".live-word")
    assert texts(soup, "#state") == ['4 cities. Newest: <script>alert(1)</script> & "Sons"']


def test_a_time_of_today_has_no_date() -> None:
    now = datetime.now(UTC)
    assert templates.clock(now) in {f"{now:%H:%M} UTC", f"{now:%H:%M} UTC on {templates.day(now)}"}
    assert templates.clock(now.replace(year=2025)).endswith(" 2025")


@pytest.mark.parametrize("family", ["4xx", "5xx"])
def test_an_error_answer_to_htmx_goes_to_the_problem_region(family: str) -> None:
    rule = one(page(), "body").attrs.get(f"hx-status:{family}:inherited")
    assert rule == "swap:'innerHTML ignoreTitle:true' target:#problem select:#problem-text"


# One template for each piece


def test_the_page_contains_the_board_as_it_is_streamed() -> None:
    assert TEMPLATES.render("_board.html", board=BOARD).strip() in TEMPLATES.render("page.html", **WHOLE)


@pytest.mark.parametrize("form", [Form(), TWO_ERRORS, DUPLICATE, TRAPPED])
def test_the_page_contains_the_form_as_htmx_gets_it(form: Form) -> None:
    assert TEMPLATES.render("_city_form.html", form=form, board=BOARD).strip() in TEMPLATES.render(
        "page.html", **WHOLE | {"form": form}
    )


@pytest.mark.parametrize(
    ("template", "context", "name"),
    [("_board.html", {"board": BOARD}, "board"), ("_city_form.html", {"form": TWO_ERRORS}, "city-form")],
)
def test_a_partial_is_exactly_its_element(template: str, context: dict[str, object], name: str) -> None:
    body = one(rendered(template, **context), "body")
    assert [child.attrs.get("id") for child in body.iter()] == [name]
    assert body.text(deep=False).strip() == ""


@pytest.mark.parametrize(
    "context",
    [
        pytest.param({}, id="plain"),
        pytest.param({"form": TWO_ERRORS}, id="rejected"),
        pytest.param({"form": DUPLICATE}, id="duplicate"),
        pytest.param({"form": TRAPPED}, id="trapped"),
        pytest.param({"live": False, "board": STALE, "landed": OSAKA}, id="stale"),
    ],
)
def test_no_id_is_used_twice_and_every_reference_has_its_target(context: dict[str, object]) -> None:
    document = page(**context)
    ids = Counter(str(element.attrs["id"]) for element in document.css("[id]"))
    assert [name for name, times in ids.items() if times > 1] == []
    references = [str(element.attrs["href"])[1:] for element in document.css("a[href^='#']")]
    references += [str(element.attrs["for"]) for element in document.css("[for]")]
    references += " ".join(
        str(element.attrs["aria-describedby"]) for element in document.css("[aria-describedby]")
    ).split()
    references += [str(element.attrs["aria-labelledby"]) for element in document.css("[aria-labelledby]")]
    assert [name for name in references if name not in ids] == []


# The board


def test_the_table_has_a_caption() -> None:
    soup = rendered("_board.html", board=BOARD)
    assert texts(soup, "#board table > caption") == ["Top 20 cities by population"]


def test_columns_and_rows_have_headers() -> None:
    soup = rendered("_board.html", board=BOARD)
    assert texts(soup, "thead th[scope=col]") == ["Rank", "City", "Population"]
    assert len(soup.css("tbody tr > th[scope=row]")) == len(BOARD.leaders.rows)


def test_each_row_shows_rank_name_population_and_bar() -> None:
    cells = one(rendered("_board.html", board=BOARD), "#city-3")
    assert [cell.tag for cell in cells.iter()] == ["td", "th", "td", "td"]
    assert texts(cells, ".rank") == ["2"]
    assert texts(cells, "a[href='/cities/3'] > bdi") == ["القاهرة"]
    assert texts(cells, ".number") == ["20,076,000"]
    assert one(cells, ".bar[aria-hidden=true] path").attrs.get("d") == "M0 0h53.7v1H0z"


@pytest.mark.parametrize(
    ("populations", "bars"),
    [
        ((9, 5, 1), ["M0 0h100.0v1H0z", "M0 0h55.6v1H0z", "M0 0h11.1v1H0z"]),
        ((10, 5), ["M0 0h100.0v1H0z", "M0 0h50.0v1H0z"]),
        ((11, 5, 1), ["M0 0h92v1H0zM94 0h6v1h-6z", "M0 0h100.0v1H0z", "M0 0h20.0v1H0z"]),
        ((5, 0), ["M0 0h100.0v1H0z", "M0 0h0.0v1H0z"]),
        ((5,), ["M0 0h100.0v1H0z"]),
        ((0,), ["M0 0h0.0v1H0z"]),
    ],
)
def test_bars_have_one_scale_and_a_bar_of_more_than_twice_the_next_is_broken(
    populations: tuple[int, ...], bars: list[str]
) -> None:
    rows = tuple(BoardRow(n, "A", people, "", n, new=False) for n, people in enumerate(populations, 1))
    board = replace(BOARD, leaders=replace(BOARD.leaders, rows=rows))
    assert [path.attrs.get("d") for path in rendered("_board.html", board=board).css(".bar path")] == bars


def test_only_a_new_row_is_marked_and_says_so_in_a_word() -> None:
    soup = rendered("_board.html", board=BOARD)
    assert [row.attrs.get("id") for row in soup.css("tr.new")] == ["city-3"]
    assert texts(soup, "tr small") == ["New"]


# The form


def test_the_form_works_without_and_with_htmx() -> None:
    form = one(rendered("_city_form.html", form=Form()), "form")
    assert (form.attrs.get("action"), form.attrs.get("method")) == ("/cities/", "post")
    assert (form.attrs.get("hx-post"), form.attrs.get("hx-sync")) == ("/cities/", "this:drop")
    assert form.attrs.get("hx-status:422") == "swap:outerMorph"


@pytest.mark.parametrize(
    ("name", "label"), [("name", "City name"), ("population", "Population"), ("topic", "Leave this empty")]
)
@pytest.mark.parametrize("form", [Form(), TWO_ERRORS, TRAPPED])
def test_every_field_has_its_label(form: Form, name: str, label: str) -> None:
    soup = rendered("_city_form.html", form=form)
    assert one(soup, f"input[name={name}]").attrs.get("id") == name
    assert texts(soup, f"label[for={name}]") == [label]


def test_the_page_of_a_city_shows_every_field() -> None:
    template = (templates.TEMPLATES / "city.html").read_text()
    assert [field for field in FIELDS if f"{{{{ city.{field}" not in template] == []


def test_a_fresh_form_is_quiet() -> None:
    soup = rendered("_city_form.html", form=Form())
    assert not soup.css("[autofocus], [aria-invalid], .error, .error-summary")
    assert one(soup, "#population").attrs.get("aria-describedby") == "population-hint"
    assert texts(soup, "#population-hint") == ["Like 13,960,000 or 13.96 million"]


def test_the_browser_checks_nothing_and_cuts_nothing() -> None:
    soup = rendered("_city_form.html", form=Form())
    assert not soup.css("[required], [maxlength], [placeholder], [type=number]")
    assert "novalidate" in one(soup, "form").attrs


def test_the_summary_takes_the_focus_and_links_to_each_field() -> None:
    summary = one(rendered("_city_form.html", form=TWO_ERRORS), "h2 + #error-summary[tabindex='-1'][autofocus]")
    assert texts(summary, "[role=alert] > h3") == ["There is a problem"]
    assert [(link.attrs.get("href"), link.text()) for link in summary.css("a")] == [
        ("#name", "City names must include a letter or a number."),
        ("#population", "Write the number in full, like 13,960,000, or as 13.96 million."),
    ]


def test_label_hint_error_and_field_stand_in_this_order() -> None:
    box = one(rendered("_city_form.html", form=TWO_ERRORS), ".field:has(#population)")
    assert [child.attrs.get("id", child.tag) for child in box.iter()] == [
        "label",
        "population-hint",
        "population-error",
        "population",
    ]


def test_a_stored_city_is_linked_wherever_it_stands() -> None:
    outside = Form(DUPLICATE.values, DUPLICATE.errors, stored=Stored(8, "Tokyo", 37_400_068, ""))
    soup = rendered("_city_form.html", form=outside, board=BOARD)
    assert not soup.css("a[href^='#city-']")
    assert texts(soup, ".error-summary a[href='/cities/8']") == ["See Tokyo"]
    assert texts(soup, "#name-error + p > a[href='/cities/8']") == ["See Tokyo"]


def test_the_trap_is_out_of_reach() -> None:
    trap = one(rendered("_city_form.html", form=Form()), ".vh[aria-hidden=true] input")
    assert (trap.attrs.get("name"), trap.attrs.get("tabindex")) == ("topic", "-1")


def test_a_person_who_fell_into_the_trap_can_see_it_and_finds_it_empty() -> None:
    soup = rendered("_city_form.html", form=TRAPPED)
    assert not soup.css("[aria-hidden]")
    topic = one(soup, ".field > #topic[aria-describedby=topic-error]")
    assert "tabindex" not in topic.attrs
    assert "value" not in topic.attrs
    assert [link.attrs.get("href") for link in soup.css(".error-summary a")] == ["#topic"]


# The error page


def test_an_error_page_is_whole_and_has_its_own_heading() -> None:
    soup = error_page()
    assert texts(soup, "h1") == ["No such page"]
    assert texts(soup, "title") == ["No such page - cityweb"]
    assert [link.attrs.get("href") for link in soup.css("main > p > a")] == ["/", "/cities"]


def test_the_problem_text_is_paragraphs_only() -> None:
    soup = error_page()
    assert texts(soup, "#problem-text > p") == ["There is no page here."]
    assert {element.tag for element in soup.css("#problem-text *")} == {"p"}


# What the pages load


def test_the_page_takes_no_other_htmx() -> None:
    digest = hashlib.sha384((templates.TEMPLATES.parent / HTMX).read_bytes()).digest()
    script = one(page(), "script[integrity]")
    assert script.attrs.get("integrity") == f"sha384-{base64.b64encode(digest).decode()}"
    assert str(script.attrs.get("src")).startswith(f"/{HTMX.as_posix()}")


def test_the_stylesheet_names_nothing_outside() -> None:
    css = (templates.TEMPLATES.parent / "static/site.css").read_text(encoding="utf-8")
    assert re.findall(r"url\(|@import|https?:", css) == []
