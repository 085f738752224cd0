from beam_pipelines.shell.html_page import html_page, html_table
from tests.browser import MARKUP, Elements, check_self_contained, covered, needs_chromium, rendered, screenshot


def test_texts_stay_texts():
    elements = check_self_contained(html_page(MARKUP, "<p>body</p>", heading=MARKUP, notice=MARKUP))
    assert elements.texts.count(MARKUP) == 2  # title and heading
    assert f" {MARKUP}" in elements.texts  # the notice
    assert elements.of("p") == [{"class": "notice"}, {}]


def test_the_heading_is_the_title_and_no_notice_is_no_banner():
    elements = check_self_contained(html_page("Pages", ""))
    assert elements.texts.count("Pages") == 2
    assert not elements.of("p")


def test_tables_have_headings_and_texts():
    elements = Elements(html_table([["", "AUC"], [MARKUP, "0.5"], ["b", MARKUP]]))
    assert elements.unbalanced == []
    assert elements.rows == [["", "AUC"], [MARKUP, "0.5"], ["b", MARKUP]]
    assert [cell["scope"] for cell in elements.of("th")] == ["col", "col", "row", "row"]


@needs_chromium
def test_a_page_overrides_the_style_and_wide_tables_scroll(tmp_path):
    page = tmp_path / "page.html"
    wide = html_table([["", *("column " * 3 for _ in range(60))], ["row", *("1" for _ in range(60))]])
    page.write_text(html_page("Title", f"<b>bold</b>{wide}", "b { background: #0a64c8; }", notice="made up"))
    assert len(rendered(page).of("td")) == 60
    pixels = screenshot(page, 600, 400)
    assert covered(pixels, (10, 100, 200)) > 100
    assert covered(pixels, (255, 244, 214)) > 5000  # the notice
