// What the figures share: drawing, choices, steps. Each page has DATA, a form and a picture.
"use strict";

const by = (id) => document.getElementById(id);
const range = (count) => Array.from({ length: count }, (_, number) => number);

function add(parent, name, attributes, text) {
  const drawn = name === "svg" || parent.namespaceURI === "http://www.w3.org/2000/svg";
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// An empty picture of this size, with the patterns of look.js; `words` say what it shows.
function clear(svg, width, height, words) {
  svg.replaceChildren();
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", words);
  add(svg, "defs").innerHTML = PATTERNS;
}

// Rows of cells, the first of which names its row; those in `right` stand right.
function table(body, rows, right, current) {
  body.replaceChildren();
  for (const [number, cells] of rows.entries()) {
    const row = add(body, "tr", number === current ? { "aria-current": "true" } : {});
    cells.forEach((cell, place) => {
      const kind = right.includes(place) ? { class: "n" } : {};
      add(row, place ? "td" : "th", place ? kind : { scope: "row" }, cell);
    });
  }
}

const figures = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
const counted = (count, noun, ending = "s") => `${count} ${noun}${count === 1 ? "" : ending}`;

function seconds(value) {
  if (!value) return "0 s";
  const [unit, factor] = [["s", 1], ["ms", 1e-3], ["µs", 1e-6]].find(([, each]) => value >= each) || ["µs", 1e-6];
  return `${figures(value / factor)} ${unit}`;
}

function bytes(count) {
  const power = count < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** power;
  return `${Number.isInteger(value) ? value : figures(value)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

// 1, 2 or 5 times a power of ten: the n-th from `least` on.
const round = (least, number) => least * [1, 2, 5][number % 3] * 10 ** Math.floor(number / 3);

// The form's values by name; `words[name]` writes those of a slider. The part after # presets them:
// #ranks=8&algorithm=ring. `change` is called at once and whenever one of them has changed.
function choices(form, words, change) {
  const preset = () => {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      const field = form.elements.namedItem(name);
      const known = field && (!field.options || [...field.options].some((each) => each.value === value));
      if (known) field.value = value;
    }
  };
  const read = () => {
    const found = {};
    for (const field of form.elements) {
      found[field.name] = field.value;
      if (!words[field.name]) continue;
      const text = words[field.name](Number(field.value));
      field.setAttribute("aria-valuetext", text);
      field.parentElement.querySelector("output").textContent = text;
    }
    change(found);
  };
  form.addEventListener("input", read);
  preset();
  read();
  preset(); // what depends on another choice is there only now
  read();
}

// The options of a select, which keeps what was chosen if that is still there.
function fill(select, values) {
  const chosen = select.value;
  if ([...select.options].map((each) => each.value).join() === Object.keys(values).join()) return;
  select.replaceChildren();
  for (const [value, text] of Object.entries(values)) add(select, "option", { value }, text);
  if (chosen in values) select.value = chosen;
}

// The slider of steps with its buttons. Arrow keys step wherever no other field has the focus.
class Steps {
  constructor(show) {
    this.slider = by("step");
    this.show = show;
    this.slider.addEventListener("input", () => show(this.at));
    by("back").addEventListener("click", () => this.go(this.at - 1));
    by("next").addEventListener("click", () => this.go(this.at + 1));
    document.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.target.closest("input, select, textarea, .wide")) return;
      event.preventDefault();
      this.go(this.at + way);
    });
  }

  get at() { return Number(this.slider.value); }

  get last() { return Number(this.slider.max); }

  // How many there are; begins again.
  reset(last) {
    this.slider.max = last;
    this.slider.value = 0;
  }

  go(step) {
    this.slider.value = Math.max(0, Math.min(this.last, step));
    this.show(this.at);
  }

  // What the slider, and those who listen, are told.
  say(short, long) {
    this.slider.setAttribute("aria-valuetext", short);
    by("said").textContent = long;
    by("back").disabled = this.at === 0;
    by("next").disabled = this.at === this.last;
  }
}

by("figure").hidden = false;
try { // in a page around it, as high as it is; one that is opened from a disk may not say so there
  const fit = () => { frameElement.style.height = `${document.documentElement.offsetHeight + 4}px`; };
  if (frameElement) new ResizeObserver(fit).observe(document.body);
} catch { /* its height stays as the page has it */ }

// Inside another page the figure says how high it is, so that it need not be scrolled.
if (parent !== window)
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
