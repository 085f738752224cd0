"""A figure of what clicked candidates are reconstructed from: the attention weights over users' latest clicks."""

from collections.abc import Mapping, Sequence

import numpy as np

from beam_pipelines.shell.html_page import html_page
from models.data.pages import PADDING
from models.data.shown_pictures import inline_picture


def attention_figure(
    pages: Mapping[str, np.ndarray],
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    weights: np.ndarray,
    cosines: np.ndarray,
) -> str:
    """Draws for each page a table: the user's latest clicks above, candidates on the left, the weights between them.

    Args:
        pages: `candidate_picture`, `(pages, candidates)`, and `click_picture`, `(pages, clicks)`, newest first: places
            in `pictures`, -1 = padding; `clicked`, bool `(pages, candidates)`.
        pictures: uint8 `(height, width, 3)` each.
        captions: of the pictures.
        weights: `(pages, candidates, clicks)`; a candidate's sum to 1.
        cosines: `(pages, candidates)`, of a candidate's embedding with its reconstruction.

    Returns:
        HTML that needs nothing else: no script, nothing loaded from anywhere.

    Reference: COURIER, figure 1.
    """
    shape = (*pages["candidate_picture"].shape, pages["click_picture"].shape[1])
    if weights.shape != shape or cosines.shape != shape[:2]:
        raise ValueError(
            f"`weights` must have shape {shape} and `cosines` {shape[:2]}. Received: {weights.shape}, {cosines.shape}"
        )
    images = [inline_picture(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    shown = "".join(
        _page(number, pages["candidate_picture"][i], pages["clicked"][i], pages["click_picture"][i], w, c, images)
        for number, (i, w, c) in enumerate(zip(range(shape[0]), weights, cosines, strict=True), start=1)
    )
    body = f"""<p class="legend">Each table is a page that the encoder did not learn from. Above are the user's latest
clicks before it, newest first; on the left are candidates of the page. A row's bars are the weights with which the
candidate is reconstructed from the clicks; they sum to 100&nbsp;%. The <span class="most">largest</span> is repeated
beside the candidate. <i>Fit</i> is the cosine of the candidate with its reconstruction: learning raises it for
<span class="mark clicked">clicked</span> candidates above the others.</p>
{shown}"""
    title = "User intention reconstruction"
    return html_page(title, body, _STYLE, heading="What clicks are reconstructed from")


def _page(
    number: int,
    candidates: np.ndarray,
    clicked: np.ndarray,
    clicks: np.ndarray,
    weights: np.ndarray,
    cosines: np.ndarray,
    images: Sequence[str],
) -> str:
    valid = np.flatnonzero(clicks != PADDING)
    history = "".join(f'<td class="click">{images[clicks[step]]}</td>' for step in valid)
    rows = "".join(
        _candidate(images[picture], clicked[row], cosines[row], weights[row, valid], [images[c] for c in clicks[valid]])
        for row, picture in enumerate(candidates)
        if picture != PADDING
    )
    return (
        f'<article><h2>Page {number}</h2><div class="scroll"><table>'
        f'<thead><tr><th scope="col">clicked before <span>newest first</span></th>{history}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></article>"
    )


def _candidate(image: str, clicked: bool, cosine: float, weights: np.ndarray, clicks: Sequence[str]) -> str:
    most = int(np.argmax(weights))
    cells = "".join(
        f'<td class="{"weight most" if step == most else "weight"}"><div class="bar">'
        f'<i style="height:{weight:.1%}"></i></div><b>{weight:.0%}</b></td>'
        for step, weight in enumerate(weights)
    )
    mark = '<span class="mark clicked">clicked</span>' if clicked else '<span class="mark">not clicked</span>'
    return (
        f'<tr><th scope="row"><div class="pair"><div>{image}</div>'
        f'<div class="arrow">←</div><div class="closest">{clicks[most]}</div></div>{mark} <small>fit {cosine:.2f}'
        f"</small></th>{cells}</tr>"
    )


_STYLE = """
:root { --click: #12823b; --bar: #9db7e6; --most: #3267c8; --cell: 68px; }
body { max-width: 1040px; }
h1 { margin: 0 0 8px; } h2 { font-size: 14px; margin: 0 0 6px; }
.legend { max-width: 90ch; margin: 0 0 14px; }
.legend .most { color: var(--most); font-weight: 600; }
article { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  margin-bottom: 14px; }
th, td { padding: 5px 4px; vertical-align: bottom; text-align: center; border: 0; }
th { position: sticky; left: 0; background: var(--paper); min-width: 172px; padding-right: 14px; color: var(--muted);
  font-weight: normal; }
th:first-child { padding-left: 4px; }
thead th span { display: block; font-size: 12px; }
tbody tr { border-top: 1px solid var(--line); }
img { display: block; border-radius: 6px; object-fit: contain; }
.click img { width: var(--cell); height: calc(1.45 * var(--cell)); }
.pair { display: flex; align-items: center; gap: 6px; margin-bottom: 5px; }
.pair img { width: 64px; height: 92px; }
.closest img { outline: 2px solid var(--most); }
.arrow { color: var(--most); font-size: 18px; }
.bar { width: 65%; height: 88px; margin: 0 auto; background: #f0f2f6; border-radius: 4px; display: flex;
  align-items: flex-end; }
.bar i { width: 100%; background: var(--bar); border-radius: 4px; }
.weight b { font-weight: normal; font-size: 12px; color: var(--muted); font-variant-numeric: tabular-nums; }
.most .bar i { background: var(--most); } .weight.most b { color: var(--most); font-weight: 600; }
.mark { border-radius: 4px; padding: 0 5px; font-size: 11px; font-weight: 600; background: #e6e9ef; }
.mark.clicked { background: var(--click); color: #fff; }
small { font-size: 12px; }
@media (max-width: 980px) { :root { --cell: clamp(24px, calc((100vw - 330px) / 10), 60px); } }
@media (max-width: 640px) { :root { --cell: clamp(24px, calc((100vw - 216px) / 10), 44px); }
  article { padding: 10px; } img { border-radius: 4px; }
  th { min-width: 118px; padding-right: 6px; font-size: 12px; } th, td { padding: 4px 2px; }
  th:first-child { padding-left: 2px; }
  .pair { gap: 3px; } .pair img { width: 44px; height: 64px; } .arrow { font-size: 14px; }
  .bar { width: 80%; height: 60px; } .weight b, small { font-size: 10.5px; } .mark { font-size: 10px; } }
"""
