// The page of export.viewer.

import { age, counted, element, facts, figure, moment, number, placeholder, problem, table, text } from "./elements.js";

const FIRST_STEPS = 60;
const HISTORIES = { click: "Clicks", pay: "Payments", cart: "Cart" };
const OUTPUTS = {
  ctr: "probability of a click",
  ctcvr: "probability of click and conversion",
  long_visit: "probability of click and long visit",
  dwell: "seconds after a click",
};
const LOGITS = {
  cvr: "log-odds of a conversion after a click",
  visit: "log-odds of a long visit after a click",
  dwell: "log(1 + seconds) after a click",
};
const NARROW = matchMedia("(max-width: 700px)");

const find = document.getElementById("find");
const turn = document.getElementById("turn");
const rank = document.getElementById("rank");
const main = document.getElementById("main");
const keys = document.getElementById("keys");

let about = null;
let shown = null; // of a page: what is known of it so far
let leaving = new AbortController(); // ends the requests of what is shown when something else is asked for

function picture(row, item) {
  if (!item.picture) return placeholder("no picture");
  const image = element("img", { class: "picture", alt: "", loading: "lazy", decoding: "async", width: 96, height: 96 });
  image.addEventListener("error", () => image.replaceWith(placeholder("picture cannot be read")));
  image.src = `/pictures/${about.pictures}/${row}`;
  return image;
}

const title = (item) => item.title || item.id;

function itemCard(row, items, ...more) {
  const item = items[row];
  const about = `${title(item)}, ${item.category || "no category"}, ${item.id}`;
  return element("a", { class: "card", href: `#/item/${row}`, title: about },
    picture(row, item), text(title(item), { class: "title" }), ...more);
}

// Requests

async function ask(path) {
  const response = await fetch(`/api/${path}`, { signal: leaving.signal });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const path = (...parts) => parts.map((part) => encodeURIComponent(part)).join("/");

function show(name, ...content) {
  document.title = `${name} – page viewer`;
  main.replaceChildren(...content);
  main.setAttribute("aria-busy", "false");
  document.documentElement.dataset.rendered = location.hash;
}

// Pages

async function showPage(split, index) {
  const page = await ask(path("pages", split, index));
  turn.elements.split.value = split;
  turn.elements.number.value = index;
  document.getElementById("pages").textContent = ` of 0–${page.pages - 1}`;
  const order = page.shown.map((_, n) => n).sort((m, n) => page.shown[m].position - page.shown[n].position);
  const clicked = order.find((n) => page.shown[n].clicked === 1);
  const state = { page, split, index, order, scores: {}, explanation: null, selected: clicked ?? order[0] ?? null };
  shown = state;
  const clicks = page.shown.filter((candidate) => candidate.clicked === 1).length;
  state.columns = element("div", { class: "columns", "data-seen": "0" });
  state.details = element("section", { class: "details", "aria-labelledby": "details", id: "why" });
  state.histories = Object.keys(HISTORIES).map((name) => historySection(state, name));
  show(`Page ${page.page_id}`,
    element("h1", { tabindex: -1 }, "Page ", text(page.page_id)),
    facts([
      ["User", element("a", { href: `#/user/${page.user}` }, text(page.user_id))],
      ["Time", moment(page.time)],
      ["Query", page.query ? text(page.query) : "none"],
      ["Candidates", `${number(page.shown.length)}, ${number(clicks)} clicked`],
    ]),
    element("div", { class: "page" },
      element("section", { class: "candidates", "aria-labelledby": "candidates" },
        element("h2", { id: "candidates" }, "Candidates"), columnChoice(state), state.columns),
      state.details),
    ...state.histories);
  drawColumns(state);
  drawDetails(state);
  askForScores(state);
  ask(path("explanation", split, index))
    .then((explanation) => { state.explanation = explanation; drawDetails(state); markSteps(state); })
    .catch((error) => unlessLeft(error, () => { state.explanation = { error: error.message }; drawDetails(state); }))
    .finally(() => { document.documentElement.dataset.explained = location.hash; });
}

function askForScores(state) {
  for (const side of ["a", "b"]) {
    delete state.scores[side];
    const choice = rank.elements[side].value;
    if (!choice) continue;
    state.scores[side] = { choice };
    ask(path("scores", state.split, state.index, choice))
      .then((answer) => ({ choice, ...answer, ...ranked(state, answer) }))
      .catch((error) => unlessLeft(error, () => ({ choice, error: error.message })))
      .then((scores) => {
        if (!scores || rank.elements[side].value !== choice) return;
        state.scores[side] = scores;
        drawColumns(state);
        drawDetails(state);
      });
  }
  drawColumns(state);
  drawDetails(state);
}

function ranked(state, answer) {
  if (answer.error) return {};
  const ctr = answer.outputs.ctr;
  const order = [...state.order].sort((m, n) => ctr[n] - ctr[m]);
  const rankOf = [];
  order.forEach((candidate, place) => { rankOf[candidate] = place + 1; });
  return { order, rankOf };
}

const columnsOf = (state) => [
  { name: "As shown", order: state.order },
  ...["a", "b"].filter((side) => state.scores[side]).map((side) => {
    const scores = state.scores[side];
    const version = scores.version && scores.choice !== `version ${scores.version}` ? ` (version ${scores.version})` : "";
    return { name: `${side.toUpperCase()}: ${scores.choice}${version}`, side, ...scores };
  }),
];

function columnChoice(state) {
  return element("div", { class: "choice", role: "group", "aria-label": "Order that is shown" },
    ["As shown", "A", "B"].map((name, n) => element("button", {
      type: "button", "aria-pressed": String(n === 0),
      click: (event) => {
        state.columns.dataset.seen = n;
        for (const button of event.target.parentNode.children) button.ariaPressed = String(button === event.target);
      },
    }, name)));
}

function drawColumns(state) {
  const focused = document.activeElement?.closest?.("[data-candidate]");
  const place = focused && [focused.closest("section").dataset.column, focused.dataset.candidate];
  const columns = columnsOf(state);
  [...main.querySelectorAll(".choice button")].forEach((button, n) => { button.hidden = n >= columns.length; });
  if (state.columns.dataset.seen >= columns.length) main.querySelector(".choice button").click();
  state.columns.replaceChildren(...columns.map((column, n) => {
    let content = element("p", { class: "muted" }, "Waiting for the server…");
    if (column.error) content = problem(column.error);
    else if (column.order) {
      content = element("ol", {}, column.order.map((candidate, index) => candidateRow(state, column, candidate, index)));
    }
    return element("section", { "data-column": n }, element("h3", {}, column.name), content);
  }));
  if (place) {
    state.columns.querySelector(`[data-column="${place[0]}"] [data-candidate="${place[1]}"]`)?.focus({ preventScroll: true });
  }
}

function candidateRow(state, column, candidate, index) {
  const { item: row, position, clicked, converted } = state.page.shown[candidate];
  const item = state.page.items[row];
  const marks = [];
  if (clicked === 1) marks.push(element("span", { class: "mark clicked" }, "clicked"));
  if (converted === 1) marks.push(element("span", { class: "mark converted" }, "converted"));
  const moved = column.side ? state.order.indexOf(candidate) - index : 0;
  return element("li", {}, element("button", {
    type: "button", class: "candidate", "data-candidate": candidate, "aria-pressed": String(candidate === state.selected),
    click: () => {
      select(state, candidate);
      if (NARROW.matches) state.details.scrollIntoView({ block: "start" });
    },
  },
  element("span", { class: "place" }, column.side ? index + 1 : position), picture(row, item),
  element("span", { class: "texts" }, text(title(item), { class: "title" }), element("span", { class: "marks" }, marks)),
  column.side ? element("span", { class: "score" }, figure(column.outputs.ctr[candidate]),
    moved ? element("small", { class: "muted" }, `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}`) : null) : null));
}

function select(state, candidate) {
  state.selected = candidate;
  for (const button of state.columns.querySelectorAll("[data-candidate]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.candidate) === candidate));
  }
  drawDetails(state);
  markSteps(state);
  document.getElementById("said").textContent = title(state.page.items[state.page.shown[candidate].item]);
}

// Why a candidate is where it is

function drawDetails(state) {
  const { page, selected } = state;
  if (selected === null) {
    state.details.replaceChildren(element("h2", { id: "details" }, "No candidates"));
    return;
  }
  const candidate = page.shown[selected];
  const item = page.items[candidate.item];
  const outcome = [`position ${candidate.position}`, candidate.clicked === 1 ? "clicked" : "not clicked"];
  if (candidate.converted === 1) outcome.push("converted");
  if (candidate.dwell > 0) outcome.push(`${figure(candidate.dwell)} s`);
  for (const side of ["a", "b"]) {
    const place = state.scores[side]?.rankOf?.[selected];
    if (place) outcome.push(`${side.toUpperCase()}: ${place} of ${page.shown.length}`);
  }
  state.details.replaceChildren(
    element("div", { class: "head" }, picture(candidate.item, item), element("div", {},
      element("h2", { id: "details" }, text(title(item))),
      element("p", { class: "muted" }, text(item.id), item.category ? [" · ", text(item.category)] : ""),
      element("p", {}, outcome.join(" · ")),
      element("p", {}, element("a", { href: `#/item/${candidate.item}` }, "Cluster, neighbours, counts of this item")))),
    element("h3", {}, "Slices"),
    element("ul", { class: "slices" }, page.slices[selected].map((slice) => element("li", { dir: "auto" }, slice))),
    element("h3", {}, "The score's parts"), ...parts(state),
    element("h3", {}, "What attracts its attention"), ...attention(state));
}

function parts(state) {
  const { explanation, selected } = state;
  const sides = ["a", "b"].filter((side) => state.scores[side]?.outputs);
  const head = ["", ...(about.ranker ? ["--model"] : []), ...sides.map((side) => side.toUpperCase())];
  const known = explanation?.parts;
  const blank = sides.map(() => "");
  const rows = [];
  if (known) {
    rows.push(["log-odds of a click, from the last layer", figure(known.logits.ctr[selected]), ...blank]);
    if (known.negative_rate < 1) {
      const left = `for the ${(100 * known.negative_rate).toFixed(0)} % of unclicked candidates in training`;
      rows.push([`corrected ${left}`, figure(known.corrected[selected]), ...blank]);
    }
    const how = known.calibration === "none" ? "not calibrated" : `calibrated (${known.calibration})`;
    rows.push([how, figure(known.calibrated[selected]), ...blank]);
    for (const [name, words] of Object.entries(LOGITS)) {
      if (known.logits[name]) rows.push([words, figure(known.logits[name][selected]), ...blank]);
    }
  }
  for (const [name, words] of Object.entries(OUTPUTS)) {
    const cells = [...(about.ranker ? [known?.outputs[name]?.[selected]] : []),
      ...sides.map((side) => state.scores[side].outputs[name]?.[selected])];
    if (cells.some((cell) => cell !== undefined)) rows.push([words, ...cells.map(figure)]);
  }
  const said = [];
  if (explanation?.error) said.push(problem(explanation.error));
  else if (about.ranker && !explanation) said.push(element("p", { class: "muted" }, "Looking into the ranker…"));
  if (rows.length) said.push(table(head, rows));
  if (!about.ranker) {
    said.push(element("p", { class: "muted" }, "What comes before these is not known: start the viewer with --model RUN."));
  }
  if (known?.members > 1) said.push(element("p", { class: "muted" }, `Means over ${known.members} members.`));
  for (const side of sides) {
    const difference = known && largestDifference(known.outputs.ctr, state.scores[side].outputs.ctr);
    if (known && difference > 1e-5) {
      said.push(element("p", { class: "muted" }, `${side.toUpperCase()} is not this run: scores of this page differ by up ` +
        `to ${difference.toFixed(4)}.`));
    }
  }
  return said;
}

const largestDifference = (some, others) => Math.max(0, ...some.map((value, n) => Math.abs(value - others[n])));

function attention(state) {
  const { page, explanation, selected } = state;
  const said = [];
  if (!about.ranker) {
    said.push(element("p", { class: "muted" }, "No attention weights: start the viewer with --model RUN."));
  }
  if (!about.vectors) {
    said.push(element("p", { class: "muted" }, "No cosines: start the viewer with --embeddings, or a ranker that has some."));
  }
  if (!explanation) return [...said, element("p", { class: "muted" }, "Looking…")];
  if (explanation.error) return said;
  const unread = [];
  for (const [name, words] of Object.entries(HISTORIES)) {
    const history = explanation.histories[name];
    if (!history.length) continue;
    if (about.ranker && !history.attends) unread.push(words.toLowerCase());
    const { steps, counts } = history.candidates[selected];
    const same = Object.entries(counts).map(([what, count]) => `${number(count)} of the same ${what}`);
    const unseen = history.attends && history.read < history.length ? `, the newest ${number(history.read)} of them read` : "";
    said.push(
      element("h4", {}, `${words}: ${counted(history.length, "step")}${unseen}`),
      element("p", { class: "muted" }, same.join(" · ")),
      element("ol", { class: "steps" }, steps.map((step) => attendedStep(page, name, step, largestWeight(steps)))));
  }
  if (unread.length) said.push(element("p", { class: "muted" }, `This ranker attends to no single ${unread.join(", ")}.`));
  if (page.shown.length && !Object.values(explanation.histories).some((history) => history.length)) {
    said.push(element("p", { class: "muted" }, "The user had no history."));
  }
  return said;
}

const largestWeight = (steps) => Math.max(1e-9, ...steps.map((step) => step.whole ?? 0));

function attendedStep(page, name, step, largest) {
  const { items, ages } = page.histories[name];
  const row = items[step.step];
  const weights = [];
  if (step.whole !== null) {
    weights.push(element("meter", { min: 0, max: largest, value: step.whole, "aria-label": "Share of the attention" }),
      element("b", {}, `${(100 * step.whole).toFixed(1)} %`));
  }
  if (step.recent !== null) weights.push(element("span", { title: "weight in the activation unit" }, `unit ${figure(step.recent)}`));
  if (step.cosine !== null) weights.push(element("span", { title: `of ${about.vectors}` }, `cosine ${step.cosine.toFixed(3)}`));
  const same = step.same.map((what) => element("span", { class: "mark" }, `same ${what}`));
  return element("li", {}, itemCard(row, page.items, element("span", { class: "muted" },
    `step ${step.step + 1}, ${age(ages[step.step])} before`)), element("div", { class: "weights" }, weights, same));
}

// Histories

function historySection(state, name) {
  const { items, ages } = state.page.histories[name];
  const list = element("ol", { class: "history", "data-history": name });
  const section = element("section", { "aria-labelledby": `history-${name}` },
    element("h2", { id: `history-${name}` }, `${HISTORIES[name]} before: ${number(items.length)}`), list);
  const add = (from, to) => {
    const rows = items.slice(from, to);
    list.append(...rows.map((row, n) => element("li", { "data-step": from + n },
      itemCard(row, state.page.items, element("span", { class: "muted" }, age(ages[from + n]))))));
  };
  add(0, FIRST_STEPS);
  if (!items.length) section.append(element("p", { class: "muted" }, "None."));
  if (items.length > FIRST_STEPS) {
    const more = element("button", {
      type: "button",
      click: () => {
        add(FIRST_STEPS, items.length);
        more.remove();
        markSteps(state);
        list.children[FIRST_STEPS].firstChild.focus();
      },
    }, `Show all ${number(items.length)}`);
    section.append(more);
  }
  return section;
}

function markSteps(state) {
  for (const marked of main.querySelectorAll(".attended")) {
    marked.classList.remove("attended");
    marked.querySelector(".weight")?.remove();
  }
  if (!state.explanation?.histories || state.selected === null) return;
  for (const [name, history] of Object.entries(state.explanation.histories)) {
    for (const step of history.candidates[state.selected].steps) {
      const place = main.querySelector(`[data-history="${name}"] > [data-step="${step.step}"]`);
      if (!place || step.whole === null) continue;
      place.classList.add("attended");
      place.firstChild.append(element("span", { class: "weight" }, `${(100 * step.whole).toFixed(1)} %`));
    }
  }
}

// Users, items, searches

function pageList(pages) {
  return element("ul", { class: "list" }, pages.map((page) => element("li", {},
    element("a", { href: `#/${path("page", page.split, page.number)}` }, text(page.page_id)),
    element("span", { class: "muted" },
      `${page.split} ${number(page.number)} · ${moment(page.time)} · ${counted(page.candidates, "candidate")}, ` +
      `${number(page.clicks)} clicked`))));
}

async function showUser(row) {
  const user = await ask(path("users", row));
  const { user_id: id, ...details } = user.details;
  show(`User ${id}`,
    element("h1", { tabindex: -1 }, "User ", text(id)),
    facts(Object.entries(details)),
    element("section", {}, element("h2", {}, counted(user.count, "page")),
      user.count > user.pages.length ? element("p", { class: "muted" }, `The newest ${user.pages.length} of them.`) : null,
      pageList(user.pages)));
}

async function showItem(row) {
  const item = await ask(path("items", row));
  const { item_id: id, title: name, ...details } = item.details;
  const cards = (rows, more) => element("ol", { class: "history" },
    rows.map((other, n) => element("li", {}, itemCard(other, item.items, more?.(n)))));
  const training = item.seen === null ? [] : [["Training of --model", item.seen ? "seen" : "not seen"]];
  const rates = Object.entries(item.counts).map(([split, { shown: times, clicked }]) =>
    [split, number(times), number(clicked), times ? `${(100 * clicked / times).toFixed(2)} %` : "–"]);
  const section = (heading, ...content) => element("section", {}, element("h2", {}, heading), ...content);
  show(`Item ${id}`,
    element("h1", { tabindex: -1 }, "Item ", text(name || id)),
    element("section", { class: "head" }, picture(row, item.items[row]),
      facts([["ID", text(id)], ...Object.entries(details), ...training])),
    section("Shown and clicked", table(["split", "shown", "clicked", "share"], rates)),
    section(item.cluster ? `Cluster ${item.cluster.id}: ${counted(item.cluster.size, "item")}` : "Cluster",
      item.cluster ? cards(item.cluster.items) : element("p", { class: "muted" }, item.knows_clusters
        ? "The item is in none." : "Not known: start the viewer with --clusters, or a ranker that has some.")),
    section("Nearest neighbours", item.neighbours.length
      ? cards(item.neighbours.map((each) => each.item),
        (n) => element("span", { class: "muted" }, `cosine ${item.neighbours[n].cosine.toFixed(3)}`))
      : element("p", { class: "muted" }, item.knows_neighbours
        ? "The item has no picture." : "Not known: start the viewer with --embeddings, or a ranker that has some.")));
}

async function showFound(kind, words) {
  find.elements.kind.value = kind;
  find.elements.text.value = words;
  const { found, more, items } = await ask(path("find", kind, words));
  if (found.length === 1) {
    const [only] = found;
    location.replace(kind === "page" ? `#/${path("page", only.split, only.number)}` : `#/${kind}/${only.row}`);
    return;
  }
  const count = found.length ? `${more ? "The first " : ""}${counted(found.length, kind)}` : `No ${kind}`;
  let list = pageList(kind === "page" ? found : []);
  if (kind === "user") {
    list = element("ul", { class: "list" }, found.map((user) => element("li", {},
      element("a", { href: `#/user/${user.row}` }, text(user.id)))));
  } else if (kind === "item") {
    list = element("ol", { class: "history" }, found.map(({ row, id }) =>
      element("li", {}, itemCard(row, items, text(id, { class: "muted" })))));
  }
  show(`Find ${words}`, element("h1", { tabindex: -1 }, `${count}: `, text(words)), element("section", {}, list));
}

// Where to go

function unlessLeft(error, otherwise) {
  return error.name === "AbortError" ? undefined : otherwise();
}

async function go() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place on the page
  leaving.abort();
  leaving = new AbortController();
  shown = null;
  main.setAttribute("aria-busy", "true");
  let [kind, ...rest] = location.hash.slice(2).split("/");
  try {
    rest = rest.map(decodeURIComponent);
    if (kind === "page") await showPage(rest[0], Number(rest[1]));
    else if (kind === "user") await showUser(rest[0]);
    else if (kind === "item") await showItem(rest[0]);
    else if (kind === "find") await showFound(rest[0], rest[1]);
    else {
      location.replace(`#/${path("page", turn.elements.split.value, 0)}`);
      return;
    }
    scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  } catch (error) {
    unlessLeft(error, () => show("Not there",
      element("h1", { tabindex: -1 }, "Not there"), problem(error.message)));
  }
}

const toPage = (index) => { location.hash = `#/${path("page", turn.elements.split.value, index)}`; };

function turnTo(step) {
  const { split, number: field } = turn.elements;
  const last = about.splits[split.value] - 1;
  const index = shown && shown.split === split.value ? shown.index + step : Number(field.value) || 0;
  toPage(Math.min(Math.max(index, 0), last));
}

const toRandom = () => toPage(Math.floor(Math.random() * about.splits[turn.elements.split.value]));

function moveSelection(step) {
  if (!shown || shown.selected === null) return;
  const column = document.activeElement?.closest?.("[data-column]") ??
    shown.columns.children[NARROW.matches ? Number(shown.columns.dataset.seen) : 0] ?? shown.columns.children[0];
  const buttons = [...column.querySelectorAll("[data-candidate]")];
  const at = buttons.findIndex((button) => Number(button.dataset.candidate) === shown.selected);
  const next = buttons[at + step];
  if (!next) return;
  select(shown, Number(next.dataset.candidate));
  next.focus();
}

const KEYS = {
  n: () => turnTo(1),
  p: () => turnTo(-1),
  r: toRandom,
  j: () => moveSelection(1),
  k: () => moveSelection(-1),
  i: () => { if (shown && shown.selected !== null) location.hash = `#/item/${shown.page.shown[shown.selected].item}`; },
  u: () => { if (shown) location.hash = `#/user/${shown.page.user}`; },
  "/": () => find.elements.text.focus(),
  "?": () => keys.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open || !document.getElementById("use-keys").checked) return;
  if (event.target.matches("input, select, textarea")) return;
  if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

find.addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `#/${path("find", find.elements.kind.value, find.elements.text.value)}`;
});
turn.addEventListener("submit", (event) => {
  event.preventDefault();
  toPage(Number(turn.elements.number.value));
});
turn.elements.split.addEventListener("change", () => toPage(0));
turn.elements.previous.addEventListener("click", () => turnTo(-1));
turn.elements.next.addEventListener("click", () => turnTo(1));
turn.elements.random.addEventListener("click", toRandom);
rank.addEventListener("submit", (event) => event.preventDefault());
for (const side of ["a", "b"]) {
  rank.elements[side].addEventListener("change", () => {
    sessionStorage.setItem(side, rank.elements[side].value);
    if (shown) askForScores(shown);
  });
}
document.getElementById("help").addEventListener("click", () => keys.showModal());
addEventListener("hashchange", go);

function versionText(choice) {
  const version = about.versions[choice.replace("version ", "")];
  if (!version?.image_feature) return choice;
  return `${choice} (${version.image_feature}${version.is_model ? ", --model" : ""})`;
}

async function begin() {
  about = await ask("about");
  const notice = document.getElementById("notice");
  if (about.notice) {
    notice.textContent = `Notice: ${about.notice}`;
    notice.hidden = false;
  }
  const splits = Object.keys(about.splits);
  turn.elements.split.append(...splits.map((split) => element("option", {}, split)));
  turn.elements.split.value = splits.includes("test") ? "test" : splits[0];
  for (const side of ["a", "b"]) {
    const options = about.choices.map((choice) => element("option", { value: choice }, versionText(choice)));
    if (side === "b") options.unshift(element("option", { value: "" }, "none"));
    rank.elements[side].append(...options);
    const kept = sessionStorage.getItem(side);
    if (kept !== null && (kept === "" || about.choices.includes(kept))) rank.elements[side].value = kept;
  }
  await go();
}

begin().catch((error) => show("Not there", problem(`The viewer does not answer: ${error.message}`)));
