// Elements and texts. Texts are set as such, never as HTML: the policy allows nothing else.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== null && value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const number = (value) => value.toLocaleString("en");
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
export const moment = (time) => `${new Date(time).toISOString().slice(0, 16).replace("T", " ")} UTC`;
export const text = (value, attributes = {}) => element("bdi", attributes, value);

export function age(milliseconds) {
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000]];
  for (const [unit, length] of units) {
    if (milliseconds >= length) return `${number(Math.floor(milliseconds / length))} ${unit}`;
  }
  return `${Math.floor(milliseconds / 1000)} s`;
}

export function figure(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(4);
}

export function placeholder(reason) {
  return element("span", { class: "picture none" }, reason);
}

export function problem(message) {
  return element("p", { class: "problem" }, message);
}

export function table(head, rows) {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, element("table", {},
    element("thead", {}, element("tr", {}, head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, rows.map(([label, ...cells]) => element("tr", {},
      element("th", { scope: "row" }, label), cells.map((cell) => element("td", {}, cell)))))));
}

export function facts(entries) {
  return element("dl", { class: "facts" }, entries.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, value))));
}
